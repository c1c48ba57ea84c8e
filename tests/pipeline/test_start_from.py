"""Where a pipeline's first assignment of a partition starts, and what is committed then."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import KafkaFailure, Message, Pipeline, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seen:
    """The offsets that were handled, by partition."""

    def __init__(self, work: float = 0.0) -> None:
        self.work = work
        self.offsets: dict[int, list[int]] = {}

    async def handle(self, message: Message) -> None:
        await trio.sleep(self.work)
        self.offsets.setdefault(message.partition, []).append(message.offset)


def _open(
    broker: FakeBroker, seen: Seen, **options: Any
) -> AbstractAsyncContextManager[Pipeline]:
    stages = Stages(handle_message=seen.handle, ordering="partition")
    options.setdefault("client", broker.client())
    return open_pipeline(topics=["t"], stages=stages, **options)


async def _with_committed(broker: FakeBroker) -> None:
    """Let the group handle all there is."""
    async with _open(broker, Seen()) as pipeline:
        await pipeline.wait_caught_up()


def _at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


@pytest.fixture
async def broker(autojump_clock: trio.testing.MockClock) -> FakeBroker:
    """Ten records, one a second, all of them committed."""
    broker = FakeBroker(topics={"t": 1})
    for number in range(10):
        broker.produce("t", b"v", timestamp=1000 * number)
    await _with_committed(broker)
    assert broker.committed("t", 0) == 10
    return broker


@pytest.mark.parametrize(
    ("start_from", "first"),
    [
        ("committed", 10),
        ("earliest", 0),
        ("latest", 12),
        (_at(4), 4),
        (_at(4.0001), 5),
        (_at(-1e9), 0),
        (_at(1e9), 12),
    ],
)
async def test_it_starts_there(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock, start_from: Any, first: int
) -> None:
    broker.produce("t", b"v", b"w", timestamp=10_000)
    seen = Seen()
    async with _open(broker, seen, start_from=start_from) as pipeline:
        await pipeline.wait_caught_up()
        broker.produce("t", b"later", timestamp=20_000)
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: list(range(first, 13))}
    assert broker.committed("t", 0) == 13


async def test_a_replay_commits_lower_offsets_and_then_never_goes_back(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = Seen(work=1)
    before = len(broker.commits)
    async with _open(broker, seen, start_from="earliest", commit_interval=0.5) as pipeline:
        await trio.sleep(3.75)
        (partition,) = pipeline.statistics().partitions
        assert (partition.committed, partition.end, partition.lag) == (3, 10, 7)
        await pipeline.wait_caught_up()
    offsets = [commit.offset for commit in broker.commits[before:]]
    assert offsets == sorted(offsets)
    assert (offsets[0], offsets[-1]) == (0, 10)


async def test_wait_caught_up_waits_for_the_replay(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    async with _open(broker, Seen(work=1), start_from="earliest") as pipeline:
        opened_at = trio.current_time()
        await pipeline.wait_caught_up()
        assert trio.current_time() - opened_at == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize("interval", [1.0, 0.0])
@pytest.mark.parametrize(("start_from", "committed"), [("earliest", 0), (_at(4), 4)])
async def test_the_start_is_committed_while_nothing_has_been_handled_yet(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
    start_from: Any,
    committed: int,
    interval: float,
) -> None:
    async with _open(
        broker,
        Seen(work=math.inf),
        start_from=start_from,
        commit_interval=interval,
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(interval + 0.5)
        assert broker.committed("t", 0) == committed
        (partition,) = pipeline.statistics().partitions
        assert (partition.committed, partition.lag) == (committed, 10 - committed)


async def test_a_restart_from_committed_goes_on_where_the_replay_was_left(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
) -> None:
    replay, rest = Seen(work=1), Seen()
    async with _open(broker, replay, start_from="earliest", commit_interval=math.inf):
        await trio.sleep(3.5)
    async with _open(broker, rest) as pipeline:
        await pipeline.wait_caught_up()
    assert replay.offsets[0] + rest.offsets[0] == list(range(10))


async def test_a_latest_is_where_the_end_was_at_the_first_assignment(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with _open(broker, Seen(), start_from="latest", commit_interval=math.inf) as pipeline:
        await pipeline.wait_assigned()
        broker.produce("t", b"v")
        pipeline.pause("t", 0)
    seen = Seen()
    async with _open(broker, seen) as pipeline:
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: [10]}


async def test_a_rebalance_does_not_start_over(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    seen, client = Seen(work=1), broker.client()
    async with _open(broker, seen, client=client, start_from="earliest") as pipeline:
        await trio.sleep(3.5)
        broker.rebalance(client)
        await trio.sleep(2)
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: list(range(10))}


async def test_a_partition_that_is_taken_away_before_anything_was_handled_moves_its_start(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen, client, other = Seen(), broker.client(), broker.client()
    async with _open(
        broker, Seen(work=math.inf), client=client, start_from="earliest", revoke_timeout=0
    ) as pipeline:
        await pipeline.wait_assigned()
        async with _open(broker, seen, client=other) as second:
            broker.rebalance(client, to=other)
            await second.wait_caught_up()
    assert seen.offsets == {0: list(range(10))}


async def test_each_member_starts_its_own_first_assignment_over(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = broker.client(), broker.client()
    one, two = Seen(work=1), Seen(work=1)
    async with _open(broker, one, client=first, start_from="earliest"):
        await trio.sleep(3.5)
        async with _open(broker, two, client=second, start_from="earliest") as pipeline:
            broker.rebalance(first, to=second)
            await pipeline.wait_caught_up()
    assert one.offsets == {0: [0, 1, 2, 3]}
    assert two.offsets == {0: list(range(10))}


@pytest.mark.parametrize("start_from", ["earliest", "latest"])
async def test_a_partition_that_comes_while_all_is_drained_keeps_its_committed_offset(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock, start_from: Any
) -> None:
    other = broker.client()
    async with _open(broker, Seen(), client=other) as owner:
        await owner.wait_assigned()
        client = broker.client()
        async with _open(broker, Seen(), client=client, start_from=start_from) as pipeline:
            await pipeline.drain()
            owner.pause("t", 0)
            broker.produce("t", b"later")
            broker.rebalance(other, to=client)
            await pipeline.wait_assigned()
    assert broker.committed("t", 0) == 10


@pytest.mark.parametrize("error", ["LEADER_NOT_AVAILABLE", "_TIMED_OUT"])
async def test_nothing_is_read_until_kafka_tells_where_to_start(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock, error: str
) -> None:
    seen = Seen()
    broker.fail_next("offsets", error, times=50)
    async with _open(broker, seen, start_from=_at(4)) as pipeline:
        with trio.move_on_after(2):
            await pipeline.wait_assigned()
            pytest.fail("it started somewhere")
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: [4, 5, 6, 7, 8, 9]}


async def test_a_refusal_ends_the_pipeline(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock
) -> None:
    seen = Seen()
    broker.fail_next("offsets", "TOPIC_AUTHORIZATION_FAILED")
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="TOPIC_AUTHORIZATION_FAILED")):
        async with _open(broker, seen, start_from="earliest"):
            await trio.sleep_forever()
    assert seen.offsets == {}
    assert broker.committed("t", 0) == 10


async def test_a_partition_that_was_lost_before_the_first_commit_starts_there_again(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen, client = Seen(work=1), broker.client()
    async with _open(
        broker, seen, client=client, start_from="earliest", commit_interval=100
    ) as pipeline:
        await trio.sleep(3.5)
        broker.produce("t", b"later")
        broker.lose(client)
        await trio.sleep(1)
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: [0, 1, 2, *range(11)]}


@pytest.mark.parametrize("seconds", [3.5, 20])
async def test_one_that_was_lost_later_goes_on_from_the_committed_offset(
    broker: FakeBroker, autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    # After 20 s as much is committed as before the replay.
    seen, client = Seen(work=1), broker.client()
    async with _open(broker, seen, client=client, start_from="earliest") as pipeline:
        await trio.sleep(seconds)
        committed = broker.committed("t", 0)
        seen.offsets.clear()
        broker.produce("t", b"later")
        broker.lose(client)
        await trio.sleep(1)
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: [*range(committed or 0, 11)]}


async def test_one_that_was_lost_to_a_member_that_has_committed_goes_on_behind_that(
    broker: FakeBroker,
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen, client, other = Seen(work=1), broker.client(), broker.client()
    broker.produce("t", b"w")
    async with _open(
        broker, seen, client=client, start_from="earliest", commit_interval=100
    ) as pipeline:
        await trio.sleep(3.5)
        async with _open(broker, Seen(), client=other):
            broker.lose(client, to=other)
            await broker.wait_committed("t", 0, 11)
        seen.offsets.clear()
        broker.produce("t", b"x")
        await trio.sleep(1)
        await pipeline.wait_caught_up()
    assert seen.offsets == {0: [11]}
