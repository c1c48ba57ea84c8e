"""A file per partition, through a torn file, a second member and a Ctrl-C."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.examples._program import end, lines, program
from trio_broadway_kafka.testing import KafkaBroker

NAME = "partition_files.py"


def produce(broker: KafkaBroker, topic: str, first: int, count: int) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for number in range(first, first + count):
        for partition in (0, 1):
            producer.produce(topic, f"{number}\ttab".encode(), partition=partition)
    producer.flush()


def content(path: Path) -> list[tuple[int, str]]:
    whole = path.read_text().rpartition("\n")[0]  # it may be in the middle of a line now
    rows = [line.split("\t") for line in whole.splitlines()]
    return [(int(offset), json.loads(value)) for offset, value in rows]


@pytest.mark.kafka_topic(partitions=2)
def test_each_partition_is_in_its_file_once_whatever_was_repeated_or_torn(
    kafka_broker: KafkaBroker, kafka_topic: str, tmp_path: Path
) -> None:
    files = [tmp_path / f"{kafka_topic}-{partition}.tsv" for partition in (0, 1)]
    arguments = (kafka_broker.bootstrap, kafka_topic, tmp_path)
    produce(kafka_broker, kafka_topic, 0, 100)
    # As a crash leaves it: two records written and not committed, the third one torn.
    files[0].write_text('0\t"0\\ttab"\n1\t"1\\ttab"\n2\t"2')
    with ExitStack() as stack:
        first = stack.enter_context(program(NAME, *arguments))
        assert set(lines(first, 2)) == {
            f"{files[0].name}: opened behind offset 1",
            f"{files[1].name}: opened behind offset -1",
        }
        second = stack.enter_context(program(NAME, *arguments))
        # One partition moves: it is closed here before it is opened there.
        (closed,) = lines(first, 1)
        name, _, behind = closed.partition(": closed behind offset ")
        assert lines(second, 1) == [f"{name}: opened behind offset {behind}"]
        produce(kafka_broker, kafka_topic, 100, 50)
        for process in (second, first):
            end(process)
        # What was produced last may have been on its way: the next one has it.
        third = stack.enter_context(program(NAME, *arguments))
        lines(third, 2)
        deadline = time.monotonic() + 20
        while any(len(content(path)) < 150 for path in files):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        end(third)
    for path in files:
        assert content(path) == [(offset, f"{offset}\ttab") for offset in range(150)]
