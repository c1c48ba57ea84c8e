"""Latency: from `produce` to the start of the handler, at 1,000 records a second.

    python benchmarks/latency.py [--bootstrap HOST:PORT] [--records N] [--rounds N]

In turn with a bare ``poll`` loop of the same client, which shows what broker and network
take. The producer is a process of its own, as in life (in one process the two would wait for
each other's interpreter lock), with ``linger.ms=0``; both read the machine's monotonic clock.
A round before those that count warms the broker up, and the first two seconds of each are left
out: a client's first fetches of a topic just created wait for its leaders to be known.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median, quantiles

import trio
from _backlog import assigned_consumer, consumer_settings, local_or
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from trio_broadway_kafka import Message, Stages, open_pipeline

RATE = 1_000
LEFT_OUT = 2 * RATE
PERCENTILES = {"p50": 499, "p90": 899, "p99": 989, "p99.9": 998}


def produce(bootstrap: str, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    started = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, started + index / RATE - time.monotonic()))
        producer.produce(topic, repr(time.monotonic()).encode(), b"key-%06d" % index)
        producer.poll(0)
    producer.flush()


def producing(bootstrap: str, topic: str, count: int) -> list[str]:
    """The command that produces, in a process of its own."""
    return [
        *(sys.executable, __file__),
        *(f"--produce={topic}", f"--records={count}", f"--bootstrap={bootstrap}"),
    ]


def raw(bootstrap: str, topic: str, count: int) -> list[float]:
    consumer = assigned_consumer(bootstrap, topic)
    latencies: list[float] = []
    with subprocess.Popen(producing(bootstrap, topic, count)):
        while len(latencies) < count:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                latencies.append(time.monotonic() - float(message.value() or b"nan"))
    consumer.close()
    return latencies


async def pipeline(bootstrap: str, topic: str, count: int) -> list[float]:
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
    ) as opened:
        await opened.wait_assigned()
        await trio.run_process(producing(bootstrap, topic, count))
        await done.wait()
    return latencies


def measure(variant: str, bootstrap: str, count: int) -> dict[str, float]:
    """Milliseconds at each percentile, of one run over a topic of its own."""
    topic = f"latency-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, 10, 1)]).values():
        future.result(30)
    if variant == "raw":
        latencies = raw(bootstrap, topic, count)
    else:
        latencies = trio.run(pipeline, bootstrap, topic, count)
    cuts = quantiles(latencies[LEFT_OUT:], n=1000)
    return {name: cuts[index] * 1e3 for name, index in PERCENTILES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.bootstrap, options.produce, options.records)
        return
    rounds: list[dict[str, dict[str, float]]] = []
    with local_or(options.bootstrap) as bootstrap:
        for number in range(options.rounds + 1):
            results = {
                variant: measure(variant, bootstrap, options.records)
                for variant in ("raw", "pipeline")
            }
            print("warm-up:" if not number else f"round {number}:", end="")
            for variant, at in results.items():
                print(f"  {variant} p50 {at['p50']:.2f} p99 {at['p99']:.2f} ms", end="")
            print(flush=True)
            if number:
                rounds.append(results)
    print(
        f"\n{RATE:,} records/s, medians of {len(rounds)} rounds, ms from produce to handler:\n"
    )
    print("".join(f"{name:>10}" for name in ("", *PERCENTILES)))
    for variant in rounds[0]:
        row = (median(results[variant][name] for results in rounds) for name in PERCENTILES)
        print(f"{variant:>10}" + "".join(f"{value:>10.2f}" for value in row))


if __name__ == "__main__":
    main()
