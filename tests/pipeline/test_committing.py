"""What is committed: the longest finished prefix, exact to the message, never older."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from trio_broadway_kafka import KafkaFailure, Message, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker


async def _nothing(message: Message) -> None: ...


async def test_nothing_is_committed_past_an_unfinished_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 10)

    async def handle(message: Message) -> None:
        await trio.sleep({3: 20, 7: 40}.get(message.offset, 0.1))

    stages = Stages(handle_message=handle, ordering="unordered")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(15)
        assert broker.committed("t", 0) == 3
        await trio.sleep(15)
        assert broker.committed("t", 0) == 7
        await trio.sleep(15)
        assert broker.committed("t", 0) == 10


async def test_gaps_do_not_stall_the_commit(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    for _ in range(5):
        broker.produce("t", b"v", b"w")
        broker.gap("t", 0, 3)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=_nothing)
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
    # The last gap counts too: a topic that is read to its end has lag 0.
    assert broker.committed("t", 0) == 25


async def test_control_records_at_the_end_count_only_when_all_before_them_is_finished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"w")
    broker.control_record("t", 0)

    async def handle(message: Message) -> None:
        await trio.sleep(5 + 5 * message.offset)

    stages = Stages(handle_message=handle, ordering="unordered")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(7)
        assert broker.committed("t", 0) == 1
        await trio.sleep(7)
        assert broker.committed("t", 0) == 3


async def test_a_partition_that_holds_control_records_only_reaches_lag_0(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.control_record("t", 0)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=_nothing)
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
        await pipeline.commit()
        (partition,) = pipeline.statistics().partitions
        assert (partition.committed, partition.end, partition.lag) == (1, 1, 0)


@pytest.mark.parametrize("interval", [0.5, 2])
async def test_commits_come_at_the_interval_and_only_when_something_finished(
    autojump_clock: trio.testing.MockClock, interval: float
) -> None:
    broker = FakeBroker(topics={"t": 1})

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=_nothing),
        commit_interval=interval,
    ):
        await trio.sleep(10 * interval + 0.01)
        assert broker.commits == []
        broker.produce("t", b"v")
        await trio.sleep(3 * interval)
        (commit,) = broker.commits
        assert (commit.offset, commit.time) == (1, pytest.approx(11 * interval, abs=0.11))


async def test_interval_0_commits_whenever_something_finished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 4)

    async def handle(message: Message) -> None:
        await trio.sleep(5)

    stages = Stages(handle_message=handle, ordering="partition")
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, commit_interval=0
    ):
        await trio.sleep(17)
        assert [c.offset for c in broker.commits] == [1, 2, 3]
        for commit, finished_at in zip(broker.commits, (5, 10, 15), strict=True):
            assert finished_at <= commit.time <= finished_at + 0.1


async def test_interval_inf_commits_when_asked_to_and_on_leaving(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 4)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=_nothing),
        commit_interval=math.inf,
    ) as pipeline:
        await trio.sleep(1000)
        assert broker.commits == []
        await pipeline.commit()
        assert broker.committed("t", 0) == 4
        broker.produce("t", b"v")
        await trio.sleep(1000)
        assert broker.committed("t", 0) == 4
    assert broker.committed("t", 0) == 5


async def test_a_commit_that_is_tried_again_is_computed_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 200)
    broker.fail_next("commit", "COORDINATOR_NOT_AVAILABLE", times=20)

    async def handle(message: Message) -> None:
        await trio.sleep(0.05)

    stages = Stages(handle_message=handle, ordering="partition")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(12)
    offsets = [commit.offset for commit in broker.commits]
    assert offsets == sorted(set(offsets))
    assert offsets[0] >= 40  # what the first tries would have committed is long past
    assert offsets[-1] == 200


async def test_a_commit_refused_for_good_ends_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    broker.fail_next("commit", "GROUP_AUTHORIZATION_FAILED", times=5)
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="GROUP_AUTHORIZATION_FAILED")):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=_nothing)
        ):
            await trio.sleep_forever()
    assert broker.committed("t", 0) is None


async def test_a_commit_without_an_answer_does_not_stop_the_handling_for_5_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.commit_delay = math.inf
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
    ):
        for offset in range(100):
            broker.produce("t", b"v")
            await trio.sleep(1)
            # The commit is asked for after 1 s; what waits in a fetch by 6 s still comes.
            assert handled[-1] == min(offset, 6)
        broker.commit_delay = 0
        await broker.wait_committed("t", 0, 100)
