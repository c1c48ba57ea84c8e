"""Latency: from `produce` to the start of the handler, at 1,000 records a second.

    python benchmarks/latency.py [--bootstrap HOST:PORT] [--records N]

The producer is a process of its own, as in life (in one process the two would wait for each
other's interpreter lock), with ``linger.ms=0``; both read the machine's monotonic clock. Half a
second is left out at the start.
"""

from __future__ import annotations

import argparse
import sys
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
    started = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, started + index / RATE - time.monotonic()))
        producer.produce(topic, repr(time.monotonic()).encode(), b"key-%06d" % index)
        producer.poll(0)
    producer.flush()


async def measure(bootstrap: str, topic: str, count: int) -> list[float]:
    latencies: list[float] = []
    done = trio.Event()

    async def handle(message: Message) -> None:
        latencies.append(time.monotonic() - float(message.value or b"nan"))
        if len(latencies) == count:
            done.set()

    async with open_pipeline(
        kafka=consumer_settings(bootstrap, "latency"),
        topics=[topic],
        stages=Stages(handle_message=handle, concurrency=10),
    ) as pipeline:
        await pipeline.wait_assigned()
        producer = [sys.executable, __file__, f"--produce={topic}", f"--records={count}"]
        await trio.run_process([*producer, f"--bootstrap={bootstrap}"])
        await done.wait()
    return latencies[RATE // 2 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.bootstrap, options.produce, options.records)
        return
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
