"""Latency: from `produce` to the start of the handler, at 1,000 records a second.

    python benchmarks/latency.py [--bootstrap HOST:PORT] [--records N]

Producer and pipeline are in one process (one clock); the producer has a thread of its own
and ``linger.ms=0``. Half a second is left out at the start.
"""

from __future__ import annotations

import argparse
import threading
import time
from statistics import quantiles

import trio
from _backlog import consumer_settings, local_or
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from trio_broadway_kafka import Message, Stages, open_pipeline

RATE = 1_000


def produce(bootstrap: str, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    started = time.perf_counter()
    for index in range(count):
        time.sleep(max(0.0, started + index / RATE - time.perf_counter()))
        producer.produce(topic, repr(time.perf_counter()).encode(), b"key-%06d" % index)
        producer.poll(0)
    producer.flush()


async def measure(bootstrap: str, topic: str, count: int) -> list[float]:
    latencies: list[float] = []
    done = trio.Event()

    async def handle(message: Message) -> None:
        latencies.append(time.perf_counter() - float(message.value or b"nan"))
        if len(latencies) == count:
            done.set()

    async with open_pipeline(
        kafka=consumer_settings(bootstrap, "latency"),
        topics=[topic],
        stages=Stages(handle_message=handle, concurrency=10),
    ) as pipeline:
        await pipeline.wait_assigned()
        thread = threading.Thread(target=produce, args=(bootstrap, topic, count))
        thread.start()
        await done.wait()
        thread.join()
    return latencies[RATE // 2 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--records", type=int, default=20_000)
    options = parser.parse_args()
    with local_or(options.bootstrap) as bootstrap:
        topic = f"latency-{time.time_ns()}"
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for future in admin.create_topics([NewTopic(topic, 10, 1)]).values():
            future.result(30)
        latencies = trio.run(measure, bootstrap, topic, options.records)
    cuts = quantiles(latencies, n=1000)
    print(f"{len(latencies):,} records at {RATE:,}/s, milliseconds from produce to handler:")
    for name, index in (("p50", 499), ("p90", 899), ("p99", 989), ("p99.9", 998)):
        print(f"  {name:<6}{cuts[index] * 1e3:8.2f}")


if __name__ == "__main__":
    main()
