"""For tests of what you build on this library, and of the library itself.

Stages with no Kafka behind (`open_test_pipeline`); a Kafka in memory for what can go wrong
around them (`FakeBroker`), in hundreds of ways that can be repeated (`simulate`, `Chaos`); a
real Apache Kafka from Python packages alone (`start_kafka`, `open_kafka_broker`), and a pytest
plugin, `trio_broadway_kafka.testing.pytest_plugin`, that is loaded only where it is asked for.
See docs/testing.md.
"""

from __future__ import annotations

from trio_broadway_kafka.testing._acknowledging import Acks
from trio_broadway_kafka.testing._broker import KafkaBroker, open_kafka_broker, start_kafka
from trio_broadway_kafka.testing._chaos import Chaos, Fault
from trio_broadway_kafka.testing._fake_broker import FakeBroker
from trio_broadway_kafka.testing._jars import BrokerUnavailable
from trio_broadway_kafka.testing._node import KafkaNode
from trio_broadway_kafka.testing._scheduler import OutOfSteps, simulate
from trio_broadway_kafka.testing._test_pipeline import TestPipeline, open_test_pipeline

__all__ = [
    "Acks",
    "BrokerUnavailable",
    "Chaos",
    "FakeBroker",
    "Fault",
    "KafkaBroker",
    "KafkaNode",
    "OutOfSteps",
    "TestPipeline",
    "open_kafka_broker",
    "open_test_pipeline",
    "simulate",
    "start_kafka",
]
