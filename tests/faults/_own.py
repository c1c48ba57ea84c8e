"""A Kafka that may be stopped, killed and damaged: the other tests' is left alone."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.broker._facts import Facts
from trio_broadway_kafka.testing import KafkaBroker, start_kafka

__all__ = ["OwnBroker", "own", "own_broker"]


class OwnBroker(NamedTuple):
    """A broker of one node, and where its data are."""

    broker: KafkaBroker
    folder: Path


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """It compacts at once."""
    folder = tmp_path_factory.mktemp("kafka")
    with start_kafka(folder=folder, properties={"log.cleaner.backoff.ms": "50"}) as broker:
        yield OwnBroker(broker, folder)


@pytest.fixture(params=["classic", "consumer"])
async def own(request: pytest.FixtureRequest, own_broker: OwnBroker) -> AsyncIterator[Facts]:
    """A group on it; the topic is the test's to make."""
    topic = f"faults-{uuid.uuid4().hex[:8]}"
    facts = Facts(own_broker.broker.bootstrap, topic, f"{topic}-group", request.param)
    yield facts
    facts.close()
