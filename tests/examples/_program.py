"""An example as a user starts it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from trio_broadway_kafka.testing import KafkaBroker

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def program(name: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start it; it is killed at the end, or after 60 s."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = threading.Timer(60, process.kill)
    give_up.start()
    try:
        with process:
            yield process
    finally:
        process.kill()
        give_up.cancel()


def produce(broker: KafkaBroker, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def committed(broker: KafkaBroker, topic: str, group: str) -> int:
    """The group's committed offset of the topic's only partition."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    (place,) = consumer.committed([TopicPartition(topic, 0)], timeout=20)
    consumer.close()
    return place.offset
