"""What a pipeline tells: its statistics, and the moments one can wait for."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, PartitionStatistics, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker


async def test_statistics_tell_what_is_where(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 2})
    broker.produce("t", *[b"12345"] * 6, partition=1)

    async def handle(message: Message) -> None:
        await trio.sleep(0 if message.offset in (0, 2) else 10)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered", concurrency=3),
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(4)
        statistics = pipeline.statistics()
    assert (statistics.received, statistics.succeeded, statistics.failed) == (6, 2, 0)
    assert (statistics.in_flight, statistics.busy, statistics.queued) == (4, 3, 1)
    assert statistics.in_flight_bytes == 30  # the whole segment while one is untaken
    assert statistics.partitions == (
        PartitionStatistics(
            topic="t",
            partition=0,
            epoch=1,
            position=None,
            committed=None,
            finished_to=None,
            behind_gap=0,
            highest_finished=None,
            end=0,
            lag=0,
            lag_s=0,
            in_flight=0,
            oldest_unacked_s=None,
            paused=(),
        ),
        PartitionStatistics(
            topic="t",
            partition=1,
            epoch=2,
            position=6,
            committed=1,
            finished_to=1,
            behind_gap=1,
            highest_finished=2,
            end=6,
            lag=5,
            lag_s=pytest.approx(4, abs=0.1),  # type: ignore[arg-type]
            in_flight=4,
            oldest_unacked_s=pytest.approx(4, abs=0.1),  # type: ignore[arg-type]
            paused=(),
        ),
    )


async def test_wait_caught_up_waits_for_the_ends_as_of_the_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    broker.produce("t", *[b"v"] * 10)

    async def handle(message: Message) -> None:
        broker.produce("t", b"one more, for ever")
        await trio.sleep(1)

    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
    ) as pipeline:
        await pipeline.wait_caught_up()
        assert trio.current_time() == pytest.approx(5, abs=0.05)


async def test_wait_caught_up_does_not_wait_for_partitions_that_went_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")

    async def handle(message: Message) -> None:
        await trio.sleep_forever()

    one, two = broker.client(), broker.client()
    stages = Stages(handle_message=handle)
    async with (
        open_pipeline(
            client=one, topics=["t"], stages=stages, revoke_timeout=2, drain_timeout=0
        ) as first,
        open_pipeline(client=two, topics=["t"], stages=stages, drain_timeout=0),
    ):
        await first.wait_assigned()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.wait_caught_up)
            await trio.sleep(1)
            broker.rebalance(one, to=two)
        assert trio.current_time() == pytest.approx(3.1, abs=0.2)


async def test_wait_assigned_returns_once_there_is_an_assignment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker()

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(), topics=["^late"], stages=Stages(handle_message=handle)
    ) as pipeline:
        with trio.move_on_after(5) as scope:
            await pipeline.wait_assigned()
        assert scope.cancelled_caught
        broker.create_topic("late")
        with trio.fail_after(1):
            await pipeline.wait_assigned()


async def test_wait_caught_up_asks_again_when_a_leader_is_not_known_yet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    broker.fail_next("end_offsets", "LEADER_NOT_AVAILABLE", times=5)

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
    ) as pipeline:
        await pipeline.wait_caught_up()
        assert trio.current_time() == pytest.approx(0.5, abs=0.05)


async def test_lag_is_known_before_the_first_commit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.gap("t", 0, 10)
    broker.produce("t", *[b"v"] * 5)

    async def handle(message: Message) -> None:
        await trio.sleep_forever()

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(1)
        (partition,) = pipeline.statistics().partitions
        assert (partition.committed, partition.lag) == (None, 5)
