"""The example's own tests, run as its docstring says; and its program."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Producer

from tests.examples._program import running
from trio_broadway_kafka.testing import KafkaBroker

ROOT = Path(__file__).parents[2]
PLUGIN = "trio_broadway_kafka.testing.pytest_plugin"
PATIENCE = 20  # seconds


def test_the_tests_of_the_example_pass(kafka_broker: KafkaBroker) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", PLUGIN]
    own = ["--kafka-bootstrap", kafka_broker.bootstrap]
    run = subprocess.run(
        [*command, *own, "examples/testing_a_pipeline"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "11 passed" in run.stdout


def test_the_program_inserts_orders_and_reports_what_is_none(
    kafka_broker: KafkaBroker, kafka_topic: str, tmp_path: Path
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    producer.produce(kafka_topic, b'{"id": 1, "total": 30}', b"key")
    producer.produce(kafka_topic, b"not json", b"key")
    producer.flush()
    path = tmp_path / "orders.db"
    command = ("-m", "examples.testing_a_pipeline.orders")
    with running(*command, kafka_broker.bootstrap, kafka_topic, path, cwd=ROOT) as process:
        assert process.stderr is not None
        reported = [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest) == (0, "")
    where = f"<Message {kafka_topic}/0@1>: JSONDecodeError\n"
    assert reported == [f"skipped {where}", f"left out {where}"]  # the log, and handle_failed
    database = sqlite3.connect(path)
    assert database.execute("SELECT * FROM orders").fetchall() == [(1, 30)]
    database.close()


def test_without_its_arguments_it_says_what_they_are() -> None:
    command = [sys.executable, "-m", "examples.testing_a_pipeline.orders"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith(
        "usage: python -m examples.testing_a_pipeline.orders BOOTSTRAP"
    )
