"""A pipeline that ends by itself: where, when, and with whom."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    KafkaFailure,
    Message,
    Output,
    Pipeline,
    Stages,
    open_pipeline,
    run_pipeline,
)
from trio_broadway_kafka._kafka._client import KafkaClient
from trio_broadway_kafka.testing import FakeBroker

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seen:
    """The offsets that were handled, by partition, each after `work` seconds."""

    def __init__(self, work: float = 0.0) -> None:
        self.work = work
        self.offsets: dict[int, list[int]] = {}
        self.topics: set[str] = set()

    async def handle(self, message: Message) -> None:
        await trio.sleep(self.work)
        self.topics.add(message.topic)
        self.offsets.setdefault(message.partition, []).append(message.offset)

    def stages(self, **options: Any) -> Stages:
        options.setdefault("ordering", "partition")
        return Stages(handle_message=self.handle, **options)


def _open(
    broker: FakeBroker, seen: Seen, **options: Any
) -> AbstractAsyncContextManager[Pipeline]:
    client: KafkaClient = options.pop("client", None) or broker.client()
    options = {"topics": ["t"], "stages": seen.stages(), "stop_at": "end", **options}
    return open_pipeline(client=client, **options)


@asynccontextmanager
async def _ending(broker: FakeBroker, seen: Seen, **options: Any) -> AsyncIterator[Pipeline]:
    """A pipeline whose end is waited for."""
    with trio.fail_after(1000):
        async with _open(broker, seen, **options) as pipeline:
            yield pipeline
            await pipeline.wait_finished()


def _after(seconds: float) -> datetime:
    """The time by the wall clock when trio's, which jumps, is so many seconds on."""
    when = datetime.fromtimestamp(time.time() + seconds, UTC)
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


async def test_it_ends_where_the_partitions_ended_when_it_was_opened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    seen = Seen(work=1)
    async with _ending(broker, seen):
        for partition in (0, 1):
            broker.produce("t", *[b"later"] * 5, partition=partition)
    assert trio.current_time() == pytest.approx(5, abs=0.3)
    assert seen.offsets == {0: [*range(5)], 1: [*range(5)]}
    assert [broker.committed("t", n) for n in (0, 1)] == [5, 5]


@pytest.mark.parametrize("chunk", [1, 3, 10_000])
@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_nothing_beyond_the_stop_is_started_however_it_arrives(
    autojump_clock: trio.testing.MockClock, chunk: int, ordering: str
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 7)
    seen = Seen(work=0.1)
    started: list[int] = []

    async def handle(message: Message) -> None:
        started.append(message.offset)
        broker.produce("t", b"more", b"and more")
        await seen.handle(message)

    stages = Stages(handle_message=handle, ordering=ordering, concurrency=1)  # type: ignore[arg-type]
    async with _ending(broker, seen, stages=stages, max_in_flight=chunk):
        pass
    assert started == [*range(7)]
    assert {commit.offset for commit in broker.commits} <= {*range(1, 8)}
    assert broker.committed("t", 0) == 7


@pytest.mark.parametrize("interval", [0, 1, math.inf])
async def test_it_commits_by_itself_to_end(
    autojump_clock: trio.testing.MockClock, interval: float
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    async with _ending(broker, Seen(work=1), commit_interval=interval):
        pass
    assert trio.current_time() == pytest.approx(5, abs=0.3)
    assert broker.committed("t", 0) == 5


async def test_run_pipeline_returns(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    seen = Seen(work=1)
    with trio.fail_after(100):
        await run_pipeline(
            client=broker.client(), topics=["t"], stages=seen.stages(), stop_at="end"
        )
    assert trio.current_time() == pytest.approx(5, abs=0.3)
    assert broker.committed("t", 0) == 5


async def test_empty_partitions_count_as_reached(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 3})
    broker.produce("t", b"v", partition=1)
    seen = Seen()
    async with _ending(broker, seen):
        broker.produce("t", b"later", partition=0)
    assert trio.current_time() < 1
    assert seen.offsets == {1: [0]}
    assert [broker.committed("t", n) for n in range(3)] == [None, 1, None]


async def test_a_topic_with_nothing_in_it_ends_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with _ending(FakeBroker(topics={"t": 3}), Seen()):
        pass
    assert trio.current_time() < 0.2


async def test_gaps_before_across_and_after_the_stop_do_not_hold_it_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 4})
    for partition in range(4):
        broker.produce("t", b"v", b"w", partition=partition)
    broker.gap("t", 1, 3)  # at the end
    broker.gap("t", 2, 3)
    broker.produce("t", b"x", partition=2)
    broker.gap("t", 3, 1)
    seen = Seen(work=0.5)
    async with _ending(broker, seen):
        broker.gap("t", 0, 2)  # beyond the stop
        broker.gap("t", 3, 2)  # across it, for whoever reads on
        broker.produce("t", b"later", partition=3)
    assert seen.offsets == {0: [0, 1], 1: [0, 1], 2: [0, 1, 5], 3: [0, 1]}
    assert [broker.committed("t", n) for n in range(4)] == [2, 5, 6, 3]


async def test_a_partition_of_control_records_only_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.gap("t", 0, 5)
    async with _ending(broker, Seen()):
        pass
    assert broker.committed("t", 0) == 5


async def test_what_the_group_has_committed_already_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    async with _ending(broker, Seen()):
        pass
    again = Seen()
    finished_at = trio.current_time()
    async with _ending(broker, again):
        broker.produce("t", b"later", partition=0)
    assert trio.current_time() - finished_at < 1
    assert again.offsets == {}
    assert [broker.committed("t", n) for n in (0, 1)] == [5, 5]


@pytest.mark.parametrize("interval", [1.0, math.inf])
async def test_two_members_both_end_when_the_group_is_there(
    autojump_clock: trio.testing.MockClock, interval: float
) -> None:
    broker = FakeBroker(topics={"t": 2})
    broker.produce("t", *[b"v"] * 4, partition=0)
    broker.produce("t", *[b"v"] * 12, partition=1)
    ended: dict[str, float] = {}
    seen = {name: Seen(work=1) for name in ("one", "two")}

    async def member(name: str) -> None:
        async with _ending(broker, seen[name], commit_interval=interval):
            pass
        ended[name] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(member, "one")
        nursery.start_soon(member, "two")
    assert sorted(ended) == ["one", "two"]
    assert max(ended.values()) == pytest.approx(12, abs=1)
    together = [seen[name].offsets.get(n, []) for name in seen for n in (0, 1)]
    assert sorted(map(len, together)) == [0, 0, 4, 12]
    assert [broker.committed("t", n) for n in (0, 1)] == [4, 12]


async def test_with_a_rebalance_in_between_both_end_and_each_message_is_handled_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 3})
    for partition in range(3):
        broker.produce("t", *[b"v"] * 10, partition=partition)
    ended: dict[str, float] = {}
    seen = {name: Seen(work=1) for name in ("one", "two")}
    clients = {name: broker.client() for name in seen}

    async def member(name: str) -> None:
        async with _ending(broker, seen[name], client=clients[name]):
            for partition in range(3):
                broker.produce("t", *[b"later"] * 3, partition=partition)
        ended[name] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(member, "one")
        await trio.sleep(3.5)  # the second one joins, and sees more
        nursery.start_soon(member, "two")
        await trio.sleep(3)
        broker.rebalance(clients["one"], to=clients["two"])
        await trio.sleep(2)
        [(topic, number), *_] = clients["two"].group.member_of(clients["two"]).owned
        broker.rebalance(clients["two"], [(topic, number)], to=clients["one"])
    assert sorted(ended) == ["one", "two"]
    for partition in range(3):
        both = seen["one"].offsets.get(partition, []) + seen["two"].offsets.get(partition, [])
        assert sorted(both) == [*range(13)]  # the three that came before "two" was opened
        assert broker.committed("t", partition) == 13


async def test_a_member_without_stop_at_may_do_the_work(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    worker, idle = Seen(work=1), Seen()
    async with _open(broker, worker, stop_at=None):
        await trio.sleep(0.5)
        async with _ending(broker, idle):
            pass
        assert trio.current_time() == pytest.approx(5.5, abs=1)
    assert (len(worker.offsets[0]), idle.offsets) == (5, {})


async def test_a_member_that_dies_leaves_its_part_to_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2}, session_timeout=30)
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    dead = broker.client()
    seen = Seen()
    async with _open(broker, Seen(work=math.inf), client=dead, drain_timeout=0):
        await trio.sleep(1)
        async with _ending(broker, seen):
            await trio.sleep(0.1)
            broker.freeze(dead)
        assert trio.current_time() == pytest.approx(31, abs=2)
        broker.thaw(dead)
    assert seen.offsets == {0: [*range(5)], 1: [*range(5)]}


async def test_a_time_that_has_passed_is_the_first_record_at_or_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 3})
    for second in range(10):
        broker.produce("t", b"v", partition=0, timestamp=1000 * second)
    broker.produce("t", b"v", b"w", partition=1, timestamp=1000)  # all before it: to the end
    broker.produce("t", b"v", b"w", partition=2, timestamp=9000)  # all after it
    seen = Seen()
    async with _ending(broker, seen, stop_at=EPOCH + timedelta(seconds=4)):
        broker.produce("t", b"later", partition=1, timestamp=2000)
    assert seen.offsets == {0: [0, 1, 2, 3], 1: [0, 1]}
    assert [broker.committed("t", n) for n in range(3)] == [4, 2, None]


async def test_a_time_to_come_is_waited_for_and_then_the_end_is_where_it_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    seen = Seen()
    async with _ending(broker, seen, stop_at=_after(60)):
        for second in range(59):
            await trio.sleep_until(second)
            broker.produce("t", b"v", partition=0)
        await trio.sleep_until(59.5)
        assert broker.committed("t", 0) == 59
        await trio.sleep_until(60.5)
        broker.produce("t", b"later", partition=0)
    assert trio.current_time() == pytest.approx(60.5, abs=0.5)
    assert seen.offsets == {0: [*range(59)]}
    assert broker.committed("t", 0) == 59


async def test_a_record_of_a_time_to_come_stops_its_partition_before_that_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    when = _after(60)
    late = round(when.timestamp() * 1000)
    seen = Seen()
    async with _ending(broker, seen, stop_at=when):
        await trio.sleep(1)
        broker.produce("t", b"v", partition=0)
        broker.produce("t", b"at that time", partition=0, timestamp=late)
        broker.produce("t", b"out of order", partition=0)
        broker.produce("t", b"v", partition=1, timestamp=late - 1)
        await trio.sleep(50)
        assert seen.offsets == {0: [0], 1: [0]}
    assert trio.current_time() == pytest.approx(60, abs=0.5)
    assert [broker.committed("t", n) for n in (0, 1)] == [1, 1]


async def test_a_partition_that_comes_before_the_time_belongs_to_it_and_one_after_does_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t-1": 1})
    seen = Seen(work=5)
    async with _ending(broker, seen, topics=["^t-"], stop_at=_after(60)):
        await trio.sleep(58)
        broker.create_topic("t-2")
        broker.produce("t-2", b"v", b"w")
        await trio.sleep(5)
        broker.create_topic("t-3")
        broker.produce("t-3", b"v")
    assert trio.current_time() == pytest.approx(68, abs=0.5)
    assert seen.topics == {"t-2"}
    assert broker.committed("t-2", 0) == 2


async def test_a_topic_that_matches_later_is_not_handled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t-1": 1})
    broker.produce("t-1", b"v")
    seen = Seen(work=5)
    async with _ending(broker, seen, topics=["^t-"]):
        await trio.sleep(1)
        broker.create_topic("t-2")
        broker.produce("t-2", b"v")
    assert seen.topics == {"t-1"}


async def test_a_replay_to_the_end_handles_all_of_it_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    async with _ending(broker, Seen()):
        pass
    seen = Seen(work=1)
    began_at = trio.current_time()
    async with _ending(broker, seen, start_from="earliest", commit_interval=math.inf):
        pass
    assert seen.offsets == {0: [*range(5)], 1: [*range(5)]}
    assert trio.current_time() - began_at == pytest.approx(5, abs=0.5)
    assert [broker.committed("t", n) for n in (0, 1)] == [5, 5]


async def test_a_replay_starts_over_what_a_dead_member_owned(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2}, session_timeout=30)
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    dead, seen = broker.client(), Seen()
    async with _open(broker, Seen(), client=dead, stop_at=None) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.commit()
        async with _open(broker, Seen(), stop_at=None) as second:
            await second.wait_assigned()
            broker.freeze(dead)  # it has one of them
        async with _ending(broker, seen, start_from="earliest"):
            pass
        broker.thaw(dead)
    assert {n: len(offsets) for n, offsets in seen.offsets.items()} == {0: 5, 1: 5}


async def test_what_comes_here_to_be_started_over_is_waited_for_though_it_was_done_elsewhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    first, second = broker.client(), broker.client()
    one, two = Seen(), Seen(work=4)
    async with _open(
        broker, one, client=first, stop_at=None, commit_interval=math.inf
    ) as pipeline:
        await pipeline.wait_caught_up()
        async with _ending(broker, two, client=second, start_from="earliest"):
            await trio.sleep(5)
            await pipeline.commit()
            await trio.sleep(5)  # it has asked for the other partition
            (done,) = {0, 1} - two.offsets.keys()
            broker.rebalance(first, [("t", done)], to=second)
    assert two.offsets == {0: [*range(5)], 1: [*range(5)]}
    assert [broker.committed("t", n) for n in (0, 1)] == [5, 5]


@pytest.mark.parametrize(
    "output",
    [None, Output(transactional_id="one", transaction_interval=1000)],
    ids=["plain", "transactions"],
)
async def test_what_was_started_over_and_committed_here_is_done_wherever_it_goes(
    autojump_clock: trio.testing.MockClock, output: Output | None
) -> None:
    """Though the committed offset is what it was before."""
    broker = FakeBroker(topics={"t": 2})
    broker.produce("t", *[b"v"] * 5, partition=0)
    broker.produce("t", *[b"v"] * 5, partition=1)
    async with _open(broker, Seen(), stop_at=None) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.commit()
    other, client = broker.client(), broker.client()
    handled: list[int] = []

    async def handle(message: Message) -> None:
        last_of_one = (message.partition, message.offset) == (1, 4)
        await trio.sleep(5 if last_of_one else 4 * (1 - message.partition))
        handled.append(message.partition)

    stages = Stages(handle_message=handle, ordering="partition")

    async def take_one_over(*, task_status: trio.TaskStatus[None]) -> None:
        async with _open(broker, Seen(), client=other, stop_at=None) as second:
            await second.wait_assigned()
            if [p.partition for p in second.statistics().partitions] != [1]:
                broker.rebalance(other, [("t", 0)], to=client)
                broker.rebalance(client, [("t", 1)], to=other)
            task_status.started()
            await trio.sleep_forever()

    options = {
        "stages": stages,
        "start_from": "earliest",
        "output": output,
        "commit_interval": math.inf,
    }
    async with trio.open_nursery() as nursery:
        async with _ending(broker, Seen(), client=client, **options):
            await trio.sleep(3)
            assert handled == [1] * 4  # the last one ends while it is revoked
            await nursery.start(take_one_over)
        nursery.cancel_scope.cancel()
    assert handled.count(1) == 5
    assert trio.current_time() < 40


async def test_a_replay_trusts_what_others_own_and_have_committed_after_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    async with _open(broker, Seen(), stop_at=None) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.commit()
        began_at = trio.current_time()
        async with _ending(broker, Seen(), start_from="earliest"):
            pass
        assert trio.current_time() - began_at == pytest.approx(60, abs=1)


@pytest.mark.parametrize("start_from", ["latest", EPOCH + timedelta(days=10_000)])
async def test_a_start_at_or_beyond_the_stop_ends_at_once(
    autojump_clock: trio.testing.MockClock, start_from: Any
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    seen = Seen()
    async with _ending(broker, seen, start_from=start_from):
        pass
    assert (seen.offsets, broker.committed("t", 0)) == ({}, 5)


async def test_an_outage_is_waited_out(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    seen = Seen(work=1)
    async with _ending(broker, seen):
        await trio.sleep(2.5)
        broker.stop()
        await trio.sleep(100)
        broker.start()
    assert seen.offsets == {0: [*range(5)]}
    assert trio.current_time() == pytest.approx(102.5, abs=1)


async def test_questions_that_fail_are_asked_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    worker = Seen(work=1)
    for operation in ("partitions", "offsets", "end_offsets", "committed"):
        broker.fail_next(operation, "_TIMED_OUT", times=3)  # type: ignore[arg-type]
    async with _open(broker, worker, stop_at=None):
        async with _ending(broker, Seen()):
            pass
        assert trio.current_time() == pytest.approx(5, abs=2)


async def test_who_does_not_get_to_know_where_to_stop_reads_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    broker.delay("end_offsets", math.inf)
    seen = Seen()
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="within open_timeout=5 s")):
        async with _open(broker, seen, open_timeout=5):
            pytest.fail("it opened")
    assert trio.current_time() == pytest.approx(5, abs=0.2)
    assert seen.offsets == {}


async def test_a_refusal_at_opening_names_what_was_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.fail_next("end_offsets", "TOPIC_AUTHORIZATION_FAILED")
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="TOPIC_AUTHORIZATION_FAILED")):
        async with _open(broker, Seen()):
            pytest.fail("it opened")


async def test_a_topic_that_is_deleted_is_not_waited_for(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker(topics={"t": 1, "gone": 1})
    for topic in ("t", "gone"):
        broker.produce(topic, *[b"v"] * 5)
    async with _ending(broker, Seen(work=2), topics=["t", "gone"]):
        await trio.sleep(3)
        broker.delete_topic("gone")
    assert trio.current_time() == pytest.approx(10, abs=0.5)
    assert broker.committed("t", 0) == 5
    assert "topic 'gone' is gone: its end is not waited for" in caplog.text


async def test_a_handler_that_fails_ends_it_as_always(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)

    async def handle(message: Message) -> None:
        if message.offset == 3:
            raise ValueError("no")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no")):
        async with _ending(broker, Seen(), stages=Stages(handle_message=handle)):
            pass
    assert broker.committed("t", 0) == 3


async def test_wait_caught_up_waits_for_no_more_than_the_stops(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    async with _ending(broker, Seen(work=1)) as pipeline:
        broker.produce("t", b"later")
        await pipeline.wait_caught_up()
        assert trio.current_time() == pytest.approx(5, abs=0.2)


async def test_a_partition_that_is_paused_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5, partition=partition)
    seen = Seen()
    async with _ending(broker, seen) as pipeline:
        pipeline.pause("t", 0)
        broker.produce("t", b"later", partition=0)
        await trio.sleep(20)
        assert seen.offsets == {1: [*range(5)]}
        pipeline.resume("t", 0)
    assert trio.current_time() == pytest.approx(20, abs=0.5)
    assert seen.offsets[0] == [*range(5)]


async def test_a_stuck_key_does_not_let_it_end_and_the_rest_is_handled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    broker.produce("t", b"stuck", *[b"v"] * 99, key=b"stuck", partition=0)
    for number in range(100):
        broker.produce("t", b"v", key=b"%d" % number, partition=1)
    seen = Seen()

    async def handle(message: Message) -> None:
        if message.value == b"stuck":
            await trio.sleep(50)
        await seen.handle(message)

    stages = Stages(handle_message=handle, concurrency=2)
    async with _ending(broker, seen, stages=stages, max_in_flight=20):
        broker.produce("t", *[b"later"] * 50, partition=0)
        await trio.sleep(10)
        assert seen.offsets == {1: [*range(100)]}
    assert seen.offsets[0] == [*range(100)]
    assert trio.current_time() == pytest.approx(50, abs=1)
    assert [broker.committed("t", n) for n in (0, 1)] == [100, 100]


async def test_it_can_be_left_before_its_end(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    async with _open(broker, Seen(work=1)):
        await trio.sleep(2.5)
    assert broker.committed("t", 0) == 3


async def test_its_topics_can_not_be_changed(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1, "u": 1})
    broker.produce("t", b"v")
    async with _ending(broker, Seen(work=1)) as pipeline:
        with pytest.raises(ConfigError, match="stop_at can't change its topics"):
            await pipeline.subscribe(["u"])


@pytest.mark.parametrize(
    ("stop_at", "says"),
    [
        ("latest", "stop_at must be None, 'end' or a datetime with a time zone"),
        (datetime(2026, 1, 1), "stop_at=.* has no time zone"),
        (0, "stop_at must be"),
    ],
)
async def test_a_wrong_stop_is_a_config_error(stop_at: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _open(FakeBroker(), Seen(), stop_at=stop_at)


@pytest.mark.parametrize("commit_interval", [1.0, math.inf])
@pytest.mark.parametrize("form", ["whole lists", "by message", "per partition"])
async def test_batches_that_nothing_would_fill_any_more_leave_at_the_end(
    form: str, commit_interval: float, autojump_clock: trio.testing.MockClock
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition, count in ((0, 7), (1, 30)):
        broker.produce("t", *[b"v"] * count, partition=partition)
    batches: list[tuple[str, int]] = []

    async def handle(message: Message) -> None:
        await trio.sleep(0.1)

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(1)
        batches.append((batch.trigger, len(batch)))

    stages = Stages(
        handle_message=None if form == "whole lists" else handle,
        ordering="partition",
        batchers={"default": Batcher(handle_batch=handle_batch, size=20, timeout=math.inf)},
    )
    with trio.fail_after(60):
        await run_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=(lambda topic, partition: stages) if form == "per partition" else stages,
            stop_at="end",
            commit_interval=commit_interval,
        )
    assert [broker.committed("t", partition) for partition in (0, 1)] == [7, 30]
    if form == "per partition":
        assert sorted(batches) == [("drain", 7), ("drain", 10), ("size", 20)]
    else:
        assert batches == [("size", 20), ("drain", 17)]


async def test_a_batch_does_not_leave_early_while_more_is_on_its_way_into_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 10, partition=partition)
    batches: list[tuple[str, int]] = []

    async def handle(message: Message) -> None:
        if message.partition == 1:
            await trio.sleep(5)

    async def handle_batch(batch: Batch) -> None:
        batches.append((batch.trigger, len(batch)))

    await run_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(
            handle_message=handle,
            ordering="partition",
            batchers={"default": Batcher(handle_batch=handle_batch, timeout=math.inf)},
        ),
        stop_at="end",
    )
    assert batches == [("drain", 20)]
