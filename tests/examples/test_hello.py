from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Producer

from trio_broadway_kafka.testing import KafkaBroker

HELLO = Path(__file__).parents[2] / "examples" / "hello.py"


def test_hello_prints_what_arrives_until_ctrl_c(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    producer.produce(kafka_topic, b"hello", b"k")
    producer.produce(kafka_topic, b"world")
    producer.flush()
    with subprocess.Popen(
        [sys.executable, HELLO, kafka_broker.bootstrap, kafka_topic],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert lines == ["0 0 b'k' b'hello'\n", "0 1 None b'world'\n"]
