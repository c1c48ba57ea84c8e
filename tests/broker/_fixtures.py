"""Fixtures of the tests that run pipelines on a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker._facts import Facts
from trio_broadway_kafka.testing import KafkaBroker


@pytest.fixture(params=["classic", "consumer"])
def facts(
    request: pytest.FixtureRequest,
    kafka_broker: KafkaBroker,
    kafka_topic: str,
    kafka_group: str,
) -> Iterator[Facts]:
    """A topic and a group of the test's own, once under each group protocol."""
    facts = Facts(kafka_broker.bootstrap, kafka_topic, kafka_group, request.param)
    yield facts
    facts.close()
