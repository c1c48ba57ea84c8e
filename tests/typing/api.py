"""The public types, pinned: this file is checked and never run."""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import assert_type

import trio
import trio.lowlevel

from trio_broadway_kafka import (
    Batch,
    Batcher,
    BatcherTopology,
    Blocker,
    BroadwayKafkaError,
    ConfigError,
    DeadLetter,
    DeadLetterFailed,
    FailurePolicy,
    FencedError,
    HotKey,
    Instrument,
    KafkaFailure,
    LatencyStatistics,
    Message,
    MessageFailed,
    Output,
    PartitionStatistics,
    PausePartition,
    Pipeline,
    PipelineBug,
    PipelineStatistics,
    RateLimit,
    Retry,
    Skip,
    Stages,
    StageStatistics,
    StagesTopology,
    Stop,
    Strip,
    TopicStatistics,
    Topology,
    open_pipeline,
    run_pipeline,
)
from trio_broadway_kafka.dead_letters import (
    Letter,
    Place,
    Redriven,
    Selection,
    read,
    redrive,
)
from trio_broadway_kafka.instruments import Instrument as SameInstrument, LoggingInstrument
from trio_broadway_kafka.testing import Chaos, FakeBroker, Fault, simulate

instrument: type[Instrument] = SameInstrument


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
        message.produce("out", value=b"v", key=None, headers=[("h", b"1")], partition=0)
        message.produce("out", value=None, key=b"tombstone")
        message.produce("out")  # type: ignore[call-arg]
        message.produce("out", value="text")  # type: ignore[arg-type]
        message.fail("a reason")
        message.fail(ValueError("an exception"))


async def handle(message: Message) -> None: ...


def handle_in_sync(message: Message) -> None: ...


async def returns(message: Message) -> int:
    return 1


def lane(message: Message) -> Hashable:
    return message.key


def policy(message: Message) -> Stop | Skip | Retry | PausePartition:
    if isinstance(message.failure, MessageFailed):
        return Skip() if message.attempt > 3 else Stop()
    pause = PausePartition(seconds=60)
    return Retry(
        attempts=math.inf,
        wait_initial=0.1,
        wait_max=30,
        wait_exp_base=2,
        wait_jitter=1,
        then=pause,
    )


stages = Stages(handle_message=handle)
Stages(
    handle_message=handle,
    handler_timeout=5,
    on_failure=Retry(then=DeadLetter("dead", max_consecutive=100, then=PausePartition())),
)
output = Output(
    kafka={"compression.type": "zstd"},
    transactional_id="orders-1",
    transaction_interval=0.1,
    delivery_timeout=30,
)
open_pipeline(kafka={}, topics=["t"], stages=stages, output=output)
fenced: KafkaFailure = FencedError("another has it", code="_FENCED")
undelivered: KafkaFailure = DeadLetterFailed("it is away", code="_TIMED_OUT")


async def redrive_some() -> None:
    selection = Selection(since=datetime.now(UTC), exception_types=["ValueError"])
    async with read("dead", kafka={}, selection=selection, place=Place(0, 42)) as letters:
        async for letter in letters:
            assert_type(letter, Letter)
            assert_type(letter.came_from, tuple[str, int, int] | None)
            assert_type(letter.headers, tuple[tuple[str, bytes | None], ...])
    result = await redrive("dead", kafka={}, selection=selection, max_count=10, dry_run=True)
    assert_type(result, Redriven)
    assert_type(result.count, int)


Stages(handle_message=Handlers().handle, ordering="partition", concurrency=8)
Stages(handle_message=handle, ordering=lane, on_failure=policy)
Stages(handle_message=handle, on_failure=Skip())


async def handle_batch(batch: Batch) -> None:
    assert_type(batch.messages, tuple[Message, ...])
    assert_type(batch.raw_values(), list[bytes | None])
    assert_type(len(batch), int)
    for message in batch:
        assert_type(message, Message)


async def prepare(messages: list[Message]) -> None: ...


Stages(prepare_messages=prepare)
Stages(prepare_messages=handle)  # type: ignore[arg-type]
Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=1000, timeout=2)})
Stages(batchers={"default": Batcher(handle_batch=handle)})  # type: ignore[arg-type]
Stages(handle_message=handle_in_sync)  # type: ignore[arg-type]
Stages(handle_message=returns)  # type: ignore[arg-type]
Stages(handle_message=handle, ordering="random")  # type: ignore[arg-type]
Stages(handle)  # type: ignore[call-arg]


@asynccontextmanager
async def entered(topic: str, partition: int) -> AsyncIterator[Stages]:
    yield stages


async def not_entered(topic: str, partition: int) -> Stages:
    return stages


def of_partition(topic: str, partition: int) -> Stages:
    return stages


open_pipeline(kafka={}, topics=["t"], stages=entered)
open_pipeline(kafka={}, topics=["t"], stages=of_partition, rate_limit=None)
open_pipeline(kafka={}, topics=["t"], stages=not_entered)  # type: ignore[arg-type]


class All(Instrument):
    def pipeline_opened(self, pipeline: Pipeline) -> None: ...

    def pipeline_closed(
        self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
    ) -> None: ...

    def partition_assigned(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        committed: int | None,
    ) -> None: ...

    def partition_revoked(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        unfinished: int,
        lost: bool,
        duration: float,
    ) -> None: ...

    def messages_received(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        count: int,
        size: int,
        first: int,
        last: int,
    ) -> None: ...

    def messages_processed(
        self, pipeline: Pipeline, messages: Sequence[Message], durations: Sequence[float]
    ) -> None: ...

    def message_failed(
        self, pipeline: Pipeline, message: Message, policy: FailurePolicy, *, stage: str
    ) -> None: ...

    def batch_processed(
        self, pipeline: Pipeline, batch: Batch, *, duration: float, failed: int
    ) -> None: ...

    def committed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        *,
        duration: float,
    ) -> None: ...

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None: ...


class Few(Instrument):
    def message_failed(
        self, pipeline: Pipeline, message: Message, policy: object, **_: object
    ) -> None: ...

    def batch_processed(
        self, pipeline: Pipeline, batch: Batch, *, duration: float, **_: object
    ) -> None: ...

    def committed(self, pipeline: Pipeline, *_: object, **__: object) -> None: ...


class Wrong(Instrument):
    def pipeline_opened(self, pipeline: int) -> None: ...  # type: ignore[override]


open_pipeline(topics=["t"], stages=stages, instruments=[All(), Few(), LoggingInstrument()])
open_pipeline(topics=["t"], stages=stages, instruments=LoggingInstrument())  # type: ignore[arg-type]
open_pipeline(topics=["t"], stages=stages, instruments=[LoggingInstrument])  # type: ignore[list-item]


async def use() -> None:
    opened = open_pipeline(
        kafka={"bootstrap.servers": "127.0.0.1:9092", "group.id": "g", "fetch.min.bytes": 1},
        topics=["t"],
        stages=stages,
        name="name",
        rate_limit=RateLimit(messages=100, per=1.0),
        start_from="committed",
        create_topics=True,
        max_in_flight=1000,
        max_in_flight_bytes=2**20,
        commit_interval=0,
        open_timeout=1,
        drain_timeout=1.5,
        revoke_timeout=1,
        close_timeout=1,
        instruments=(),
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
        assert_type(pipeline.rate_limit, RateLimit | None)
        pipeline.rate_limit = RateLimit(messages=1)
        pipeline.rate_limit = None
        pipeline.rate_limit = 7  # type: ignore[assignment]
        assert_type(pipeline.hot_keys(5), tuple[HotKey, ...])
        assert_type(pipeline.retry_now("t", 0, 7), bool)
        assert_type(pipeline.give_up("t", 0, 7), bool)
        assert_type(pipeline.blocker("t", 0), Blocker | None)
        assert_type(pipeline.strip("t", 0, cells=9), Strip | None)
        assert_type(await pipeline.refresh_lag(), None)
        assert_type(pipeline.since_poll(), float)
        topology = pipeline.topology()
        assert_type(topology, Topology)
        assert_type(topology.group, str | None)
        assert_type(topology.stages, tuple[StagesTopology, ...])
        assert_type(topology.stages[0].partition, int | None)
        assert_type(topology.stages[0].batchers, tuple[BatcherTopology, ...])
        statistics = pipeline.statistics()
        assert_type(statistics, PipelineStatistics)
        assert_type(statistics.received, int)
        assert_type(statistics.retried, int)
        assert_type(statistics.dead_lettered, int)
        assert_type(statistics.produced, int)
        assert_type(statistics.topics, tuple[TopicStatistics, ...])
        assert_type(statistics.stages, tuple[StageStatistics, ...])
        assert_type(statistics.stages[0].busy_s, float)
        assert_type(statistics.stages[0].handling, LatencyStatistics)
        assert_type(statistics.stages[0].handling.p99, float | None)
        assert_type(statistics.end_to_end, LatencyStatistics | None)
        assert_type(statistics.partitions, tuple[PartitionStatistics, ...])
        assert_type(statistics.partitions[0].lag, int | None)
        assert_type(statistics.partitions[0].paused, tuple[str, ...])
    await run_pipeline(topics=["t"], stages=stages, drain_signals=[signal.SIGHUP], kafka={})
    await run_pipeline(topics=["t"], stages=stages, instruments=[Few()])
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


async def answer() -> int:
    broker = FakeBroker(topics={"t": 1}, chaos=7)
    FakeBroker(topics={"t": 1}, chaos=Chaos((Fault(1.0, "outage", lasts=2.0),), latency=0.1))
    FakeBroker(chaos="7")  # type: ignore[arg-type]
    Fault(1.0, "flood")  # type: ignore[arg-type]
    assert_type(broker.faults, dict[str, int])
    return 42


assert_type(simulate(answer, 1), int)
assert_type(simulate(answer, seed=1, horizon=60.0, steps=1000), int)
assert_type(Chaos.from_seed(7, duration=10.0).faults, tuple[Fault, ...])
