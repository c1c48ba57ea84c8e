"""An example as a user starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from trio_broadway_kafka.testing import KafkaBroker

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def running(*arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Python with these arguments; it is killed at the end, or after 60 s."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )
    give_up = threading.Timer(60, process.kill)
    give_up.start()
    try:
        with process:
            yield process
    finally:
        process.kill()
        give_up.cancel()


def program(
    name: str | Path, *arguments: str | Path
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start an example, or a program at a path. A warning is an error."""
    return running("-W", "error", EXAMPLES / name, *arguments)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines that it prints."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def end(process: subprocess.Popen[str]) -> tuple[list[str], str]:
    """Ctrl-C, which ends it well. Returns what it has still printed, and its stderr."""
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return printed.splitlines(), errors


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


def values(broker: KafkaBroker, topic: str, count: int) -> list[dict[str, object]]:
    """The first records of a topic of one partition, of committed transactions."""
    reader = Consumer({
        "bootstrap.servers": broker.bootstrap,
        "group.id": f"{topic}-reader",
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    })  # fmt: skip
    reader.subscribe([topic])
    found: list[dict[str, object]] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        message = reader.poll(0.1)
        if message is not None and message.error() is None:
            found.append(json.loads(message.value() or b"null"))
    reader.close()
    return found
