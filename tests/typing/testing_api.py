"""The types that users of the local Kafka see: checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import assert_type

from trio_broadway_kafka.testing import (
    BrokerUnavailable,
    KafkaBroker,
    KafkaNode,
    open_kafka_broker,
    start_kafka,
)


def from_a_plain_program(properties: Mapping[str, str]) -> None:
    starting: AbstractContextManager[KafkaBroker] = start_kafka(
        nodes=3, version="4.4.0", port=9092, properties=properties, startup_timeout=30
    )
    with starting as broker:
        assert_type(broker.bootstrap, str)
        assert_type(broker.nodes, tuple[KafkaNode, ...])
        broker.create_topic("t", partitions=3, config={"cleanup.policy": "compact"}, timeout=9)
        broker.delete_topic("t")
        node = broker.nodes[0]
        assert_type(node.id, int)
        assert_type(node.port, int)
        assert_type(node.address, str)
        assert_type(node.pid, int | None)
        assert_type(node.log, Path)
        for end in (node.stop, node.kill, node.pause, node.resume, node.restart):
            end()
        for end in (broker.stop, broker.kill, broker.pause, broker.resume, broker.restart):
            end()
        node.stop(timeout=3)
        node.restart(timeout=3.0)
        broker.restart(timeout=3)
    start_kafka(3)  # type: ignore[call-arg]
    start_kafka(properties={"log.retention.ms": -1})  # type: ignore[dict-item]


async def from_trio() -> None:
    try:
        async with open_kafka_broker(advertised_ports={1: 9092}) as broker:
            assert_type(broker, KafkaBroker)
    except BrokerUnavailable:
        pass
