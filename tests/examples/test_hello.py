from __future__ import annotations

from confluent_kafka import Producer

from tests.examples._program import end, lines, program
from trio_broadway_kafka.testing import KafkaBroker


def test_hello_prints_what_arrives_until_ctrl_c(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    producer.produce(kafka_topic, b"hello", b"k")
    producer.produce(kafka_topic, b"world")
    producer.flush()
    with program("hello.py", kafka_broker.bootstrap, kafka_topic) as process:
        assert lines(process, 2) == ["0 0 b'k' b'hello'", "0 1 None b'world'"]
        assert end(process) == ([], "")
