"""A rate limit: how many messages are taken in a time, over the whole pipeline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    Message,
    Pipeline,
    RateLimit,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker

all_orderings = pytest.mark.parametrize(
    "ordering",
    ["unordered", "partition", "key", lambda message: message.offset],
    ids=["unordered", "partition", "key", "function"],
)


class Starts:
    """When handlers started."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.times: list[float] = []
        self.seconds = seconds

    async def handle(self, message: Message) -> None:
        self.times.append(trio.current_time())
        if self.seconds:
            await trio.sleep(self.seconds)


def _broker(count: int, partitions: int = 1, keys: int = 5) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for number in range(count):
        for partition in range(partitions):
            broker.produce("t", b"v", key=b"%d" % (number % keys), partition=partition)
    return broker


def _open(
    broker: FakeBroker,
    handle: Callable[[Message], Awaitable[None]],
    rate_limit: RateLimit | None,
    **options: Any,
) -> AbstractAsyncContextManager[Pipeline]:
    stages = Stages(handle_message=handle, **options)
    return open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, rate_limit=rate_limit
    )


@all_orderings
async def test_a_token_is_taken_before_each_message_of_a_bucket_that_is_full_at_first(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    starts = Starts()
    broker = _broker(8)
    async with _open(broker, starts.handle, RateLimit(messages=4), ordering=ordering):
        await broker.wait_committed("t", 0, 8)
    assert starts.times == pytest.approx([0, 0, 0, 0, 0.25, 0.5, 0.75, 1])


@all_orderings
async def test_what_arrives_singly_takes_one_token_each(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    starts = Starts()
    broker = _broker(0)
    limit = RateLimit(messages=3, per=3000)
    async with _open(broker, starts.handle, limit, ordering=ordering):
        for _ in range(3):
            broker.produce("t", b"v")
            await trio.sleep(1)
    assert starts.times == [0, 1, 2]


@all_orderings
async def test_it_holds_for_handlers_that_wait_too(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    starts = Starts(seconds=0.001)
    broker = _broker(50)
    limit = RateLimit(messages=1, per=0.1)
    async with _open(broker, starts.handle, limit, ordering=ordering, concurrency=4):
        await broker.wait_committed("t", 0, 50)
    assert starts.times == pytest.approx([number / 10 for number in range(50)])


async def test_it_is_one_limit_for_all_partitions_and_each_gets_its_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def stages(topic: str, partition: int) -> Stages:
        async def handle(message: Message) -> None:
            times[partition].append(trio.current_time())

        return Stages(handle_message=handle)

    broker = _broker(100, partitions=3)
    limit = RateLimit(messages=1, per=0.5)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, rate_limit=limit
    ):
        await trio.sleep(29.9)
    assert sorted(itertools.chain(*times.values())) == pytest.approx([n / 2 for n in range(60)])
    # In turn, but that the first to come has taken the first token.
    assert all(19 <= len(each) <= 21 for each in times.values())


async def test_a_limit_that_is_assigned_takes_effect_at_once_also_from_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    starts = Starts()
    broker = _broker(40)
    limit = RateLimit(messages=1, per=3600)
    async with _open(broker, starts.handle, limit, ordering="unordered") as pipeline:
        await trio.sleep(10)
        assert starts.times == [0]
        pipeline.rate_limit = RateLimit(messages=2, per=1)
        assert pipeline.rate_limit == RateLimit(messages=2, per=1)
        await trio.sleep(1.2)
        assert starts.times == pytest.approx([0, 10.5, 11], abs=0.01)
        pipeline.rate_limit = None
        await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert starts.times[3:] == pytest.approx([11.2] * 37)


@all_orderings
async def test_a_limit_comes_in_the_middle_of_what_was_taken_without_one(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    starts = Starts(seconds=1)
    broker = _broker(100, keys=1)
    async with _open(broker, starts.handle, None, ordering=ordering, concurrency=1) as pipeline:
        await trio.sleep(4.5)
        assert len(starts.times) == 5
        pipeline.rate_limit = RateLimit(messages=1, per=20)
        await trio.sleep(50)
    assert starts.times[5:] == pytest.approx([5, 25, 45], abs=0.01)


async def test_what_waits_for_a_token_has_not_started(
    autojump_clock: trio.testing.MockClock,
) -> None:
    starts = Starts()
    broker = _broker(10)
    async with _open(broker, starts.handle, RateLimit(messages=3, per=1000)) as pipeline:
        await trio.sleep(2)
        statistics = pipeline.statistics()
        assert (statistics.busy, statistics.queued, statistics.succeeded) == (0, 7, 3)
        began = trio.current_time()
        assert await pipeline.drain() == 0
        assert trio.current_time() == began
    assert broker.committed("t", 0) == 3


@pytest.mark.parametrize("by_message", [True, False])
async def test_what_has_ended_as_it_waited_for_a_token_is_not_kept_until_one_comes(
    by_message: bool, autojump_clock: trio.testing.MockClock
) -> None:
    starts = Starts()

    async def handle_batch(batch: Batch) -> None: ...

    def stages(topic: str, partition: int) -> Stages:
        return Stages(
            handle_message=starts.handle if by_message else None,
            batchers={"default": Batcher(handle_batch=handle_batch)},
        )

    broker = _broker(10, partitions=2)
    client = broker.client()
    limit = RateLimit(messages=1, per=3600)
    async with open_pipeline(
        client=client, topics=["t"], stages=stages, rate_limit=limit
    ) as pipeline:
        for _ in range(5):
            await trio.sleep(1)
            assert len(pipeline._limiter._waiting) == len(pipeline._limiter._watchers) == 2
            broker.rebalance(client)


async def test_no_more_is_fetched_for_a_limit_than_without_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    starts = Starts()
    broker = _broker(5000)
    async with _open(broker, starts.handle, RateLimit(messages=1, per=10)) as pipeline:
        await trio.sleep(35)
        assert len(starts.times) == 4
        assert pipeline.statistics().received <= 100


async def test_whole_lists_are_handed_to_the_batcher_as_far_as_there_are_tokens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    batches: list[tuple[float, int]] = []

    async def handle_batch(batch: Batch) -> None:
        batches.append((trio.current_time(), len(batch)))

    broker = _broker(30)
    batcher = Batcher(handle_batch=handle_batch, size=10, timeout=math.inf)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(batchers={"default": batcher}),
        rate_limit=RateLimit(messages=10, per=10),
    ):
        await broker.wait_committed("t", 0, 30)
    assert batches == [
        (0, 10),
        (pytest.approx(10, abs=0.01), 10),
        (pytest.approx(20, abs=0.01), 10),
    ]


async def test_a_batch_does_not_leave_under_pressure_while_messages_wait_for_tokens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    triggers: list[str] = []

    async def handle(message: Message) -> None: ...

    async def handle_batch(batch: Batch) -> None:
        triggers.append(batch.trigger)

    broker = _broker(100)
    batcher = Batcher(handle_batch=handle_batch, size=10, timeout=math.inf)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, batchers={"default": batcher}),
        rate_limit=RateLimit(messages=1, per=1),
        max_in_flight=10,
    ):
        await broker.wait_committed("t", 0, 40)
    assert set(triggers) == {"size"}


async def test_a_high_limit_is_reached(autojump_clock: trio.testing.MockClock) -> None:
    starts = Starts()
    broker = _broker(5000)
    limit = RateLimit(messages=10, per=0.01)
    async with _open(broker, starts.handle, limit, ordering="unordered"):
        await broker.wait_committed("t", 0, 5000)
    assert starts.times[-1] == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("wrong", [10, "10", {"messages": 10}])
async def test_what_is_no_limit_is_refused(
    wrong: Any, autojump_clock: trio.testing.MockClock
) -> None:
    broker = _broker(1)
    with pytest.raises(ConfigError, match=r"rate_limit must be a RateLimit\("):
        _open(broker, Starts().handle, wrong)
    async with _open(broker, Starts().handle, RateLimit(messages=1)) as pipeline:
        with pytest.raises(ConfigError, match=r"rate_limit must be a RateLimit\("):
            pipeline.rate_limit = wrong
        assert pipeline.rate_limit == RateLimit(messages=1)
    with pytest.raises(trio.ClosedResourceError):
        pipeline.rate_limit = None
