"""A real Kafka behind a proxy, and what is known of it from outside."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import pytest

from tests.broker._facts import Facts
from tests.faults._proxy import Proxy, open_proxy
from trio_broadway_kafka.testing import open_kafka_broker

__all__ = ["IN_FULL", "Network", "network"]

IN_FULL: Final = os.environ.get("FAULTS") == "in full"
"""Whether the faults are as long, and as many, as they should be. Else a CI bears them."""


@dataclass
class Network:
    """A topic and a group of a Kafka that is reached through a proxy only."""

    proxy: Proxy
    facts: Facts
    partitions: int


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(params=["classic", "consumer"])
async def network(request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    """A broker of its own, with one topic of 4 partitions, once under each group protocol."""
    port = _free_port()
    async with open_proxy(port) as proxy:
        broker = open_kafka_broker(
            port=port,
            advertised_ports={1: proxy.port},
            properties={
                "group.consumer.min.session.timeout.ms": "1000",
                "group.consumer.min.heartbeat.interval.ms": "200",
                "group.consumer.heartbeat.interval.ms": "300",
            },
        )
        async with broker:
            address = f"127.0.0.1:{proxy.port}"
            topic = f"faults-{uuid.uuid4().hex[:8]}"
            facts = Facts(address, topic, f"{topic}-group", request.param)
            await facts.make_topic(4)
            try:
                yield Network(proxy, facts, 4)
            finally:
                proxy.heal()
                facts.close()
