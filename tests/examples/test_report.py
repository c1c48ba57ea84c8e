"""A finite job: what was there when it began, each time anew, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from trio_broadway_kafka.testing import KafkaBroker

EXAMPLE = Path(__file__).parents[2] / "examples" / "report.py"


def produce(broker: KafkaBroker, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for value in values:
        producer.produce(topic, value)
    producer.flush()


def run(broker: KafkaBroker, topic: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", EXAMPLE, broker.bootstrap, topic]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.kafka_topic(partitions=3)
def test_it_adds_up_what_is_there_each_time_from_the_beginning(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    orders = [
        json.dumps({"country": country, "total": total}).encode()
        for total in range(1000)
        for country in ("PT", "CV")
    ]
    produce(kafka_broker, kafka_topic, *orders)
    expected = "CV: 499,500.00 in 1,000 orders\nPT: 499,500.00 in 1,000 orders\n"
    for _ in range(2):
        done = run(kafka_broker, kafka_topic)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_an_order_that_cannot_be_read_ends_it_and_is_named_but_not_shown(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    produce(kafka_broker, kafka_topic, b'{"country": "PT", "total": 1}', b"a secret")
    done = run(kafka_broker, kafka_topic)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"<Message {kafka_topic}/0@1> is no order" in done.stderr
    assert "secret" not in done.stderr


def test_a_topic_that_does_not_exist_is_named(kafka_broker: KafkaBroker) -> None:
    done = run(kafka_broker, "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no topic 'nowhere' at" in done.stderr


def test_ctrl_c_ends_it_without_a_report() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it waits for an answer
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        command = [sys.executable, "-W", "error", EXAMPLE, address, "orders"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            connection, _ = mute.accept()
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=20)
            connection.close()
    assert (process.returncode, printed) == (130, ""), errors
