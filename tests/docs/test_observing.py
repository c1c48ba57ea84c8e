"""The programs of docs/observing.md, run as its readers would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Producer

from tests.docs._blocks import DOCS, python_blocks
from trio_broadway_kafka import Instrument
from trio_broadway_kafka.testing import KafkaBroker

BLOCKS = python_blocks("observing.md")
PAGE = (DOCS / "observing.md").read_text(encoding="utf-8")


def run(folder: Path, name: str, broker: KafkaBroker, topic: str, *values: bytes) -> list[str]:
    """What a program prints and logs over these records, line by line."""
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0
    path = folder / name
    path.write_text(BLOCKS[name])
    done = subprocess.run(
        [sys.executable, "-W", "error", path, broker.bootstrap, topic],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout.splitlines()


def test_every_program_of_the_page_is_run_here_and_every_event_is_on_it() -> None:
    assert sorted(BLOCKS) == ["figures.py", "logged.py"]
    for event in vars(Instrument):
        assert event.startswith("_") or f"`{event}`" in PAGE


def test_the_log_reads_as_the_page_shows_it(
    tmp_path: Path, kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    lines = run(tmp_path, "logged.py", kafka_broker, kafka_topic, b"a", b"b", b"c")
    shown = re.findall(r"^INFO:.*$", PAGE, re.M)
    of_partition_0 = [line for line in lines if not re.search(r"assigned \S+/[1-9]", line)]

    def comparable(found: list[str], topic: str) -> list[str]:
        return [re.sub(r"[\d.]+ s:", "_ s:", line.replace(topic, "topic")) for line in found]

    assert comparable(of_partition_0, kafka_topic) == comparable(shown, "greetings")


def test_the_instrument_counts_what_happened(
    tmp_path: Path, kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    values = [b"%d" % number for number in range(20)]
    lines = run(tmp_path, "figures.py", kafka_broker, kafka_topic, *values, b"not a number")
    assert lines[-1] == "21 handled, {'size': 2}, {'ValueError in handle_message': 1}"
