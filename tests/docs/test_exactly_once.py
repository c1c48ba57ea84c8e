"""Every program in docs/exactly_once.md, as a reader would run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs._blocks import python_blocks
from tests.examples._program import committed, end, produce, program, values
from trio_broadway_kafka.testing import KafkaBroker

BLOCKS = python_blocks("exactly_once.md")


def test_each_program_of_the_page_is_run_here() -> None:
    assert sorted(BLOCKS) == ["countries.py", "test_countries.py"]


def test_the_test_passes(tmp_path: Path) -> None:
    path = tmp_path / "test_countries.py"
    path.write_text(BLOCKS[path.name])
    with program(path) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


@pytest.mark.kafka_topic(partitions=1)
def test_orders_go_to_their_countries(
    kafka_broker: KafkaBroker, kafka_topic: str, tmp_path: Path
) -> None:
    output = f"{kafka_topic}-by-country"
    kafka_broker.create_topic(output, partitions=1)
    path = tmp_path / "countries.py"
    path.write_text(BLOCKS[path.name].replace("orders-by-country", output))
    produce(kafka_broker, kafka_topic, b'{"id": 1, "total": 5, "country": "PT"}')
    with program(path, kafka_broker.bootstrap, kafka_topic, "0") as process:
        assert values(kafka_broker, output, 1) == [{"order": 1, "total": 5}]
        end(process)
    assert committed(kafka_broker, kafka_topic, f"countries-{kafka_topic}") == 1
