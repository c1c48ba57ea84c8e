"""The types that users of `testing` see: checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import assert_type

from trio_broadway_kafka import Message, Pipeline, Stages
from trio_broadway_kafka.testing import (
    Acks,
    BrokerUnavailable,
    FakeBroker,
    KafkaBroker,
    KafkaNode,
    TestPipeline,
    open_kafka_broker,
    open_test_pipeline,
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


async def without_kafka(stages: Stages) -> None:
    opening: AbstractAsyncContextManager[TestPipeline] = open_test_pipeline(stages=stages)
    async with opening as pipeline:
        a_pipeline: Pipeline = pipeline
        assert_type(a_pipeline.name, str)
        acks = await pipeline.push(b"value", None)
        assert_type(acks, Acks)
        assert_type(acks.succeeded, tuple[Message, ...])
        succeeded, failed = await pipeline.push(
            b"value",
            key=b"key",
            headers=[("name", b"value"), ("name", None)],
            topic="orders",
            partition=2,
            timestamp=1_700_000_000_000,
            batch_mode="bulk",
        )
        assert_type(succeeded, tuple[Message, ...])
        assert_type(failed, tuple[Message, ...])
        await pipeline.push("text")  # type: ignore[arg-type]
        await pipeline.push(b"value", batch_mode="size")  # type: ignore[arg-type]
    open_test_pipeline(stages=stages, topics={"orders": 3})
    open_test_pipeline(stages)  # type: ignore[call-arg]


async def with_a_kafka_in_memory() -> None:
    broker = FakeBroker(
        topics={"t": 3}, poll_interval=0.1, session_timeout=45.0, default_partitions=1
    )
    assert_type(broker.bootstrap, str)
    client = broker.client()
    broker.create_topic("u", partitions=2)
    (record,) = broker.produce(
        "t", b"v", None, key=b"k", partition=0, headers=[("h", b"")], timestamp=0
    )
    assert_type(record.value(), bytes | None)
    assert_type(broker.records("t")[0].offset(), int)
    broker.control_record("t", 0)
    broker.gap("t", 0, 3)
    assert_type(broker.committed("t", 0, "group"), int | None)
    assert_type(broker.committed_metadata("t", 0), str | None)
    assert_type(broker.commits[0].time, float)
    assert_type(broker.commits[0].offset, int)
    await broker.wait_committed("t", 0, 3, "group")
    broker.rebalance(client, [("t", 0)], to=broker.client("group"))
    broker.lose(client)
    for switch in (broker.freeze, broker.thaw):
        switch(client)
    broker.stop()
    broker.start()
    broker.delay("commit", 1.5)
    broker.commit_delay = 0
    broker.fail_next("commit", "REBALANCE_IN_PROGRESS", times=2)
    broker.fail_next("comit", "REBALANCE_IN_PROGRESS")  # type: ignore[arg-type]
