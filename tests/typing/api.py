"""The public types, pinned: this file is checked and never run."""

from __future__ import annotations

import signal
from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import assert_type

import trio
import trio.lowlevel

from trio_broadway_kafka import (
    Batch,
    Batcher,
    BroadwayKafkaError,
    ConfigError,
    KafkaFailure,
    Message,
    MessageFailed,
    PartitionStatistics,
    Pipeline,
    PipelineBug,
    PipelineStatistics,
    Skip,
    Stages,
    Stop,
    open_pipeline,
    run_pipeline,
)


class Handlers:
    async def handle(self, message: Message) -> None:
        assert_type(message.topic, str)
        assert_type(message.partition, int)
        assert_type(message.offset, int)
        assert_type(message.key, bytes | None)
        assert_type(message.value, bytes | None)
        assert_type(message.headers, list[tuple[str, bytes | None]])
        assert_type(message.timestamp, int | None)
        assert_type(message.attempt, int)
        assert_type(message.failure, BaseException | None)
        message.data = {"any": "thing"}
        message.fail("a reason")
        message.fail(ValueError("an exception"))


async def handle(message: Message) -> None: ...


def handle_in_sync(message: Message) -> None: ...


async def returns(message: Message) -> int:
    return 1


def lane(message: Message) -> Hashable:
    return message.key


def policy(message: Message) -> Stop | Skip:
    return Skip() if isinstance(message.failure, MessageFailed) else Stop()


stages = Stages(handle_message=handle)
Stages(handle_message=Handlers().handle, ordering="partition", concurrency=8)
Stages(handle_message=handle, ordering=lane, on_failure=policy)
Stages(handle_message=handle, on_failure=Skip())


async def handle_batch(batch: Batch) -> None:
    assert_type(batch.messages, tuple[Message, ...])
    assert_type(batch.raw_values(), list[bytes | None])
    assert_type(len(batch), int)
    for message in batch:
        assert_type(message, Message)


Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=1000, timeout=2)})
Stages(batchers={"default": Batcher(handle_batch=handle)})  # type: ignore[arg-type]
Stages(handle_message=handle_in_sync)  # type: ignore[arg-type]
Stages(handle_message=returns)  # type: ignore[arg-type]
Stages(handle_message=handle, ordering="random")  # type: ignore[arg-type]
Stages(handle)  # type: ignore[call-arg]


async def use() -> None:
    opened = open_pipeline(
        kafka={"bootstrap.servers": "127.0.0.1:9092", "group.id": "g", "fetch.min.bytes": 1},
        topics=["t"],
        stages=stages,
        name="name",
        start_from="committed",
        create_topics=True,
        max_in_flight=1000,
        max_in_flight_bytes=2**20,
        commit_interval=0,
        open_timeout=1,
        drain_timeout=1.5,
        revoke_timeout=1,
        close_timeout=1,
    )
    open_pipeline(topics=["t"], stages=stages, start_from="earliest")
    open_pipeline(topics=["t"], stages=stages, start_from=datetime.now(UTC))
    open_pipeline(topics=["t"], stages=stages, stop_at="end")
    open_pipeline(topics=["t"], stages=stages, stop_at=datetime.now(UTC))
    open_pipeline(topics=["t"], stages=stages, stop_at="latest")  # type: ignore[arg-type]
    await run_pipeline(topics=["t"], stages=stages, stop_at=None)
    open_pipeline(topics=["t"], stages=stages, start_from="newest")  # type: ignore[arg-type]
    assert_type(opened, AbstractAsyncContextManager[Pipeline])
    async with opened as pipeline:
        assert_type(pipeline.name, str)
        assert_type(await pipeline.wait_assigned(), None)
        assert_type(await pipeline.wait_caught_up(), None)
        assert_type(await pipeline.wait_finished(), None)
        assert_type(await pipeline.commit(), None)
        assert_type(await pipeline.drain(timeout=1), int)
        assert_type(await pipeline.subscribe(["t", "^u-"]), None)
        pipeline.pause("t", 0)
        pipeline.resume("t", 0)
        statistics = pipeline.statistics()
        assert_type(statistics, PipelineStatistics)
        assert_type(statistics.received, int)
        assert_type(statistics.partitions, tuple[PartitionStatistics, ...])
        assert_type(statistics.partitions[0].lag, int | None)
        assert_type(statistics.partitions[0].paused, tuple[str, ...])
    await run_pipeline(topics=["t"], stages=stages, drain_signals=[signal.SIGHUP], kafka={})
    await run_pipeline(topics=["t"])  # type: ignore[call-arg]
    try:
        await trio.lowlevel.checkpoint()
    except* KafkaFailure as group:
        for failure in group.exceptions:
            if isinstance(failure, KafkaFailure):
                assert_type(failure.code, str)
                assert_type(failure.retriable, bool)


errors: list[type[BroadwayKafkaError]] = [ConfigError, KafkaFailure, MessageFailed, PipelineBug]
value_error: type[ValueError] = ConfigError
