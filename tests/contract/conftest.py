"""One suite for the `KafkaClient` protocol: every test runs on the fake and on a real Kafka.

``-k fake`` runs it on the fake alone, without threads and under the autojump clock;
``-m real_kafka`` on the real broker alone, once for each group protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.contract._scene import Scene
from tests.contract._systems import FakeKafka, RealKafka, Store
from tests.contract._virtual_time import run_on_virtual_time


@pytest.fixture(
    params=[
        pytest.param("fake", marks=pytest.mark.trio(run=run_on_virtual_time)),
        pytest.param("classic", marks=pytest.mark.real_kafka),
        pytest.param("consumer", marks=pytest.mark.real_kafka),
    ]
)
def store(request: pytest.FixtureRequest) -> Store:
    """A Kafka, as seen from outside of the clients."""
    if request.param == "fake":
        return FakeKafka()
    broker = request.getfixturevalue("kafka_broker")
    return RealKafka(broker.bootstrap, protocol=request.param)


@pytest.fixture
async def kafka(store: Store, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    """A Kafka with a topic and a group of the test's own, and the members it starts."""
    scene = Scene(store, nursery)
    yield scene
    await scene.close()
