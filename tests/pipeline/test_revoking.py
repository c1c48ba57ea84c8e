"""Partitions that are taken away: in order, by the deadline, or without a warning."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, Pipeline, Stages, open_pipeline
from trio_broadway_kafka._kafka._client import AssignedPartition, KafkaClient
from trio_broadway_kafka.testing import FakeBroker


def _open(
    client: KafkaClient, stages: Stages, **options: float
) -> AbstractAsyncContextManager[Pipeline]:
    return open_pipeline(client=client, topics=["t"], stages=stages, **options)  # type: ignore[arg-type]


async def test_a_revoke_waits_for_what_has_started_and_commits_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 100)
    handled: list[tuple[str, int, float]] = []

    def stages(name: str) -> Stages:
        async def handle(message: Message) -> None:
            await trio.sleep(4)
            handled.append((name, message.offset, trio.current_time()))

        return Stages(handle_message=handle, ordering="unordered", concurrency=3)

    one, two = broker.client(), broker.client()
    async with _open(one, stages("one")), _open(two, stages("two")):
        await trio.sleep(1)
        broker.rebalance(one, to=two)
        await trio.sleep(6)
        assert broker.committed("t", 0) == 3
        assert sorted(handled) == [("one", offset, 4.0) for offset in (0, 1, 2)]
        await trio.sleep(2)
        assert sorted(offset for name, offset, _ in handled if name == "two") == [3, 4, 5]


async def test_a_revoke_leaves_the_other_partitions_running(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 100, partition=partition)
    handled: list[tuple[int, int]] = []

    async def handle(message: Message) -> None:
        await trio.sleep(30 if message.offset == 0 and message.partition == 0 else 1)
        handled.append((message.partition, message.offset))

    stages = Stages(handle_message=handle, ordering="partition")
    one = broker.client()
    async with _open(one, stages, revoke_timeout=10):
        await trio.sleep(0.5)
        broker.rebalance(one, [("t", 0)], to=one)
        await trio.sleep(9)
        # The handler of t/0@0 is waited for; t/1 goes on all the time.
        assert handled == [(1, offset) for offset in range(9)]


async def test_at_the_deadline_handlers_are_cancelled_and_their_messages_handled_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    log: list[tuple[str, int, float]] = []

    async def handle(message: Message) -> None:
        log.append(("start", message.offset, trio.current_time()))
        try:
            await trio.sleep(0.5 if message.offset == 0 else math.inf)
        except trio.Cancelled:
            log.append(("cancel", message.offset, trio.current_time()))
            raise

    stages = Stages(handle_message=handle, ordering="partition")
    one = broker.client()
    async with _open(one, stages, revoke_timeout=10):
        await trio.sleep(1)
        broker.rebalance(one)
        await trio.sleep(12)
        assert log == [
            ("start", 0, 0.0),
            ("start", 1, 0.5),
            ("cancel", 1, 11.0),
            ("start", 1, pytest.approx(11.0, abs=0.2)),
        ]
        assert broker.committed("t", 0) == 1


async def test_a_handler_that_resists_does_not_block_the_revoke_and_is_never_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 3)
    log: list[tuple[str, int, float]] = []
    first = True

    async def handle(message: Message) -> None:
        nonlocal first
        log.append(("start", message.offset, trio.current_time()))
        if first:
            first = False
            with trio.CancelScope(shield=True):
                await trio.sleep(60)
        log.append(("end", message.offset, trio.current_time()))

    stages = Stages(handle_message=handle, ordering="partition")
    one = broker.client()
    async with _open(one, stages, revoke_timeout=5):
        await trio.sleep(1)
        broker.rebalance(one)
        await trio.sleep(53)
        # The epoch ended, the next one has the messages, the lane is shut until 60 s.
        assert log == [("start", 0, 0.0)]
        assert broker.committed("t", 0) is None
        await trio.sleep(10)
        assert log[1:4] == [("end", 0, 60.0), ("start", 0, 60.0), ("end", 0, 60.0)]
    assert broker.committed("t", 0) == 3


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_a_late_acknowledgement_of_an_older_epoch_is_dropped(
    autojump_clock: trio.testing.MockClock, ordering: str
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", key=b"k")
    starts: list[float] = []

    async def handle(message: Message) -> None:
        starts.append(trio.current_time())
        if len(starts) == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
        else:
            await trio.sleep(60)

    one = broker.client()
    async with _open(
        one,
        Stages(handle_message=handle, ordering=ordering),  # type: ignore[arg-type]
        revoke_timeout=5,
        drain_timeout=0,
    ):
        await trio.sleep(1)
        broker.rebalance(one)
        await trio.sleep(40)  # the first handler returned at 30, the second runs
        assert len(starts) == 2
        # Unordered, each message is a lane of its own, and its new one is not shut.
        assert starts[1] == (pytest.approx(6.1, abs=0.2) if ordering == "unordered" else 30)
    assert broker.commits == []


async def test_a_loss_cancels_handlers_and_commits_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 3)
    cancelled: list[float] = []

    async def handle(message: Message) -> None:
        if message.offset == 0:
            return
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(trio.current_time())
            raise

    one, two = broker.client(), broker.client()
    stages = Stages(handle_message=handle, ordering="partition")

    async def idle(message: Message) -> None:
        await trio.sleep_forever()

    async with (
        _open(one, stages, commit_interval=math.inf),
        _open(two, Stages(handle_message=idle), drain_timeout=0),
    ):
        await trio.sleep(2)
        broker.lose(one, to=two)
        await trio.sleep(2)
        assert cancelled == [pytest.approx(2.0, abs=0.2)]
        assert broker.commits == []
    # Offset 0 was finished in the epoch that was lost; only a later one may commit it.
    assert all(commit.epoch > 1 for commit in broker.commits)


async def test_partitions_are_shared_with_a_second_member_that_joins(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 4})
    for partition in range(4):
        broker.produce("t", *[b"v"] * 200, partition=partition)
    handled: dict[str, list[tuple[int, int]]] = {"one": [], "two": []}

    def stages(name: str) -> Stages:
        async def handle(message: Message) -> None:
            await trio.sleep(0.1)
            handled[name].append((message.partition, message.offset))

        return Stages(handle_message=handle, ordering="partition", concurrency=4)

    async with _open(broker.client(), stages("one")):
        await trio.sleep(5)
        async with _open(broker.client(), stages("two")) as second:
            for partition in range(4):
                await broker.wait_committed("t", partition, 200)
            assert len(second.statistics().partitions) == 2
    everything = handled["one"] + handled["two"]
    assert len(everything) == len(set(everything)) == 800
    assert handled["two"]


async def test_pausing_stops_the_fetching_and_survives_a_rebalance(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.partition)

    one = broker.client()
    async with _open(one, Stages(handle_message=handle)) as pipeline:
        await trio.sleep(1)
        pipeline.pause("t", 0)
        await trio.sleep(1)
        broker.produce("t", b"v", partition=0)
        broker.produce("t", b"v", partition=1)
        await trio.sleep(1)
        broker.rebalance(one)
        await trio.sleep(2)
        assert handled == [1]
        assert [p.paused for p in pipeline.statistics().partitions] == [("user",), ()]
        pipeline.resume("t", 0)
        await trio.sleep(1)
        assert handled == [1, 0]
        assert [p.paused for p in pipeline.statistics().partitions] == [(), ()]


async def test_a_partition_lost_while_its_revoke_drains_it_is_counted_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 2)

    async def handle(message: Message) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0 if message.offset == 0 else 3)

    one = broker.client()
    stages = Stages(handle_message=handle, ordering="partition")
    async with _open(one, stages, revoke_timeout=10) as pipeline:
        await trio.sleep(1)
        (state,) = pipeline._partitions.values()
        moving = [AssignedPartition("t", 0, state.epoch)]
        pipeline._source.revoking(moving)
        pipeline._source.lost(moving)
        await trio.sleep(5)
        assert pipeline.statistics().received == 2
        assert broker.commits == []


async def test_resuming_what_is_not_paused_repeats_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    async with _open(broker.client(), Stages(handle_message=handle)) as pipeline:
        for _ in range(5):
            broker.produce("t", *[b"v"] * 3, key=b"k")
            pipeline.resume("t", 0)
            await trio.sleep(0.25)
        assert handled == list(range(15))


async def test_resuming_in_the_moment_of_a_loss_skips_nothing_of_the_next_assignment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        if trio.current_time() < 1:
            await trio.sleep(math.inf)
        handled.append(message.offset)

    one = broker.client()
    async with _open(one, Stages(handle_message=handle), max_in_flight=5) as pipeline:
        await trio.sleep(1)
        pipeline.pause("t", 0)
        await trio.sleep(1)
        broker.lose(one)
        pipeline.resume("t", 0)
        await broker.wait_committed("t", 0, 5)
    assert handled == [0, 1, 2, 3, 4]
