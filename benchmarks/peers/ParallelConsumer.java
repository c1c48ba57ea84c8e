/** Confluent's parallel-consumer: handlers at once in threads, in the order of keys or none. */
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

class ParallelConsumer {
    static AtomicInteger handled = new AtomicInteger();
    static volatile long begun;
    public static void main(String[] args) {
        boolean keys = args[2].equals("keys");
        int count = Integer.parseInt(args[3]), warmUp = Integer.parseInt(args[4]);
        var settings = Map.<String, Object>of("bootstrap.servers", args[0], "group.id",
            "pc-" + System.nanoTime(), "auto.offset.reset", "earliest", "enable.auto.commit", false);
        var raw = new ByteArrayDeserializer();
        ParallelStreamProcessor<byte[], byte[]> processor = ParallelStreamProcessor
            .createEosStreamProcessor(ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(new KafkaConsumer<>(settings, raw, raw))
                .ordering(keys ? ProcessingOrder.KEY : ProcessingOrder.UNORDERED)
                .maxConcurrency(keys ? 100 : 1000).build());
        processor.subscribe(List.of(args[1]));
        processor.poll(record -> {
            long pause = keys ? ThreadLocalRandom.current().nextLong(5_000_000) : 10_000_000;
            try { Thread.sleep(pause / 1_000_000, (int) (pause % 1_000_000)); }
            catch (InterruptedException error) { throw new RuntimeException(error); }
            int number = handled.incrementAndGet();
            if (number == warmUp) begun = System.nanoTime();
            if (number == warmUp + count) {
                System.out.printf("%n{\"messages\": %d, \"wall\": %f, \"cpu\": null, \"rss\": null, "
                    + "\"latencies\": []}%n", count, (System.nanoTime() - begun) / 1e9);
                Runtime.getRuntime().halt(0);
            }
        });
    }
}
