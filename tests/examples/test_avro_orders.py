from __future__ import annotations

import signal

import pytest

from tests.examples._program import committed, produce, program
from trio_broadway_kafka.testing import KafkaBroker

pytest.importorskip("fastavro", reason="confluent-kafka[avro,schemaregistry] is not installed")


def test_orders_are_decoded_and_bad_records_are_told_of_and_left_out(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    on = (kafka_broker.bootstrap, kafka_topic, f"--group={kafka_group}")
    with program("avro_orders.py", *on, "--samples") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, output) == (0, ""), errors
    assert sorted(lines) == [
        "order 1: tea, 320 cents\n",
        "order 2: cake, 450 cents\n",
        "order 3: jam, 280 cents\n",
    ]
    assert f"left out <Message {kafka_topic}/0@1>: SerializationError\n" in errors
    assert f"left out <Message {kafka_topic}/0@3>: IndexError\n" in errors
    assert committed(kafka_broker, kafka_topic, kafka_group) == 5


def test_a_registry_that_does_not_answer_stops_it_and_nothing_is_left_out(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    on = (kafka_broker.bootstrap, kafka_topic, f"--group={kafka_group}")
    produce(kafka_broker, kafka_topic, b"\0\0\0\0\7 and so on")
    with program("avro_orders.py", *on, "--registry=http://127.0.0.1:1") as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        "the registry at http://127.0.0.1:1: ConnectError: [Errno 111] Connection refused"
    )
    assert "left out" not in errors
    assert committed(kafka_broker, kafka_topic, kafka_group) < 0
