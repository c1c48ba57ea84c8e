"""The Python programs in docs/from_broadway.md, on a real Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.docs._blocks import python_blocks
from tests.examples._program import end, lines, program
from trio_broadway_kafka.testing import KafkaBroker

BLOCKS = python_blocks("from_broadway.md")


def printed(
    folder: Path, name: str, count: int, broker: KafkaBroker, topic: str, group: str
) -> list[str]:
    """Its first lines, and what it prints until it has ended after a Ctrl-C."""
    path = folder / name
    path.write_text(BLOCKS[name])
    with program(path, broker.bootstrap, topic, group) as process:
        first = lines(process, count)
        rest, _ = end(process)
    return sorted([*first, *rest])


def test_each_program_of_the_page_is_run_here() -> None:
    assert sorted(BLOCKS) == ["orders.py", "per_partition.py"]


@pytest.mark.kafka_topic(partitions=1)
def test_orders(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str, tmp_path: Path
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    values = [
        b'{"id": 1, "total": 5, "country": "PT"}',
        b'{"id": 2, "total": 0}',
        b"no JSON",
        b'{"id": 3, "total": 7, "country": "PT"}',
        b'{"id": 4, "total": 9, "country": "CV"}',
    ]
    for number, value in enumerate(values):
        producer.produce(kafka_topic, value, b"%d" % number)
    producer.flush()
    # The batch of the free ones leaves after a second, those of the others at the drain.
    assert printed(tmp_path, "orders.py", 2, kafka_broker, kafka_topic, kafka_group) == [
        "failed 2 JSONDecodeError",
        "free 1",
        "paid CV [4]",
        "paid PT [1, 3]",
    ]


@pytest.mark.kafka_topic(partitions=2)
def test_a_pipeline_for_each_partition(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str, tmp_path: Path
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for partition, value in ((0, b"zero"), (1, b"one")):
        producer.produce(kafka_topic, value, b"key", partition=partition)
    producer.flush()
    found = printed(tmp_path, "per_partition.py", 2, kafka_broker, kafka_topic, kafka_group)
    assert found == ["0 b'zero'", "1 b'one'"]
