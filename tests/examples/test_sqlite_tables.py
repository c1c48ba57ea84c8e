from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.examples._program import end, lines, program
from trio_broadway_kafka.testing import KafkaBroker


def run_until(count: int, *arguments: str | Path) -> tuple[list[str], str]:
    """Run the example until it has printed so many lines, then Ctrl-C."""
    with program("sqlite_tables.py", *arguments) as process:
        printed = lines(process, count)
        rest, errors = end(process)
    return [*printed, *rest], errors


def rows(path: Path, table: str) -> list[tuple[int, str, int]]:
    with sqlite3.connect(path) as database:
        found = database.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
    database.close()
    return found


@pytest.mark.kafka_topic(partitions=1)
def test_each_table_gets_its_batch_and_a_repetition_changes_nothing(
    kafka_broker: KafkaBroker, kafka_topic: str, tmp_path: Path
) -> None:
    records: list[dict[str, object]] = [
        {"table": "users", "id": 1, "name": "Ada"},
        {"table": "orders", "id": 1, "total": 3},
        {"table": "nowhere", "id": 1},
        {"table": "users", "id": 2, "name": "Grace"},
        {"table": "users", "id": 1, "name": "Ada Lovelace"},
    ]
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for record in records:
        key = f"{record['table']} {record['id']}"
        producer.produce(kafka_topic, json.dumps(record).encode(), key.encode())
    producer.flush()
    path = tmp_path / "changes.db"
    printed, errors = run_until(2, kafka_broker.bootstrap, kafka_topic, path)
    assert sorted(printed) == ["orders: 1", "users: 3"]
    assert f"left out <Message {kafka_topic}/0@2>: LookupError" in errors
    expected = [(1, '{"name": "Ada Lovelace"}', 4), (2, '{"name": "Grace"}', 3)]
    assert rows(path, "users") == expected
    assert rows(path, "orders") == [(1, '{"total": 3}', 1)]

    # As after a crash between a transaction and its commit: all of it once more.
    again = path.rename(tmp_path / "again.db")
    printed, _ = run_until(2, kafka_broker.bootstrap, kafka_topic, again)
    assert sorted(printed) == ["orders: 1", "users: 3"]
    assert rows(again, "users") == expected
