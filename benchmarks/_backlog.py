"""The records that the benchmarks read, and how a run is measured."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 10


@dataclass
class Result:
    """What one run cost.

    Attributes:
        name: the variant.
        messages: how many were read.
        wall: seconds from the assignment to the last message.
        cpu: seconds of CPU of all threads meanwhile.
        collections: garbage collections meanwhile.
        rss: resident memory in MiB at the end.
    """

    name: str
    messages: int
    wall: float
    cpu: float
    collections: int
    rss: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per message."""
        return self.cpu / self.messages * 1e6


def consumer_settings(bootstrap: str, name: str) -> dict[str, object]:
    """The same for the raw loop and for the pipeline."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": f"bench-{name}-{os.getpid()}-{time.time_ns()}",
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
    }


def assigned_consumer(bootstrap: str, topic: str) -> Consumer:
    """A bare consumer of the client that has its partitions."""
    assigned = False

    def on_assign(consumer: Consumer, partitions: list[object]) -> None:
        nonlocal assigned
        assigned = True

    consumer = Consumer(consumer_settings(bootstrap, "raw") | {"enable.auto.commit": False})
    consumer.subscribe([topic], on_assign=on_assign)
    while not assigned:
        consumer.poll(0.01)
    return consumer


def hundred_bytes(index: int) -> bytes:
    return b"v" * 100


def make_backlog(
    bootstrap: str,
    topic: str,
    count: int,
    *,
    partitions: int = PARTITIONS,
    keys: int = 100_000,
    value: Callable[[int], bytes] = hundred_bytes,
) -> None:
    """Produce `count` records with a key of 10 bytes, unless the topic is there."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if topic in admin.list_topics(timeout=30).topics:
        return
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result(30)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 50,
            "queue.buffering.max.messages": 500_000,
        }
    )
    for index in range(count):
        while True:
            try:
                producer.produce(
                    topic,
                    value(index),
                    b"key-%06d" % (index * 7919 % keys),
                    index % partitions,
                )
                break
            except BufferError:
                producer.poll(0.05)
        if not index % 10_000:
            producer.poll(0)
    producer.flush(60)


class Meter:
    """Measures from its construction to `stop`."""

    def __init__(self) -> None:
        gc.collect()
        self._collections = _collections()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self, name: str, messages: int) -> Result:
        """What it took."""
        return Result(
            name,
            messages,
            time.perf_counter() - self._wall,
            time.process_time() - self._cpu,
            _collections() - self._collections,
            resident(),
        )


def _collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(result: Result) -> None:
    """Hand the result to whoever started this process."""
    json.dump(asdict(result), sys.stdout)
    print(flush=True)


@contextmanager
def local_or(bootstrap: str | None) -> Iterator[str]:
    """The address given, or that of a Kafka started for the run."""
    if bootstrap:
        yield bootstrap
        return
    from trio_broadway_kafka.testing import start_kafka

    with start_kafka() as broker:
        yield broker.bootstrap
