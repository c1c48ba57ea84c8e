"""A finite job: what was there when it began, each time anew, and how it ends."""

from __future__ import annotations

import json
import signal
import socket

import pytest

from tests.examples._program import produce, program
from trio_broadway_kafka.testing import KafkaBroker


def run(broker: KafkaBroker, topic: str) -> tuple[int, str, str]:
    """Its exit code, what it prints, and its stderr."""
    with program("report.py", broker.bootstrap, topic) as process:
        printed, errors = process.communicate(timeout=30)
    return process.returncode, printed, errors


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
        code, printed, errors = run(kafka_broker, kafka_topic)
        assert (code, printed) == (0, expected), errors


def test_an_order_that_cannot_be_read_ends_it_and_is_named_but_not_shown(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    produce(kafka_broker, kafka_topic, b'{"country": "PT", "total": 1}', b"a secret")
    code, printed, errors = run(kafka_broker, kafka_topic)
    assert (code, printed) == (1, "")
    assert f"<Message {kafka_topic}/0@1> is no order" in errors
    assert "secret" not in errors


def test_a_topic_that_does_not_exist_is_named(kafka_broker: KafkaBroker) -> None:
    code, printed, errors = run(kafka_broker, "nowhere")
    assert (code, printed) == (1, "")
    assert "no topic 'nowhere' at" in errors


def test_ctrl_c_ends_it_without_a_report() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it waits for an answer
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with program("report.py", address, "orders") as process:
            connection, _ = mute.accept()
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=20)
            connection.close()
    assert (process.returncode, printed) == (130, ""), errors
