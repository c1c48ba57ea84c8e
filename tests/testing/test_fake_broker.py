"""What only `FakeBroker` can do: exact times, and going wrong when it is told to.

What it shares with a real Kafka is the business of tests/contract/.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.contract._recorder import Member, Recorder, address, offset_of, values
from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka.testing._fake_broker import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient

P0, P1 = (TopicPartition("t", number) for number in range(2))


class FakeMember(Member):
    """A member whose client may be frozen and lost."""

    client: FakeClient


Start = Callable[..., Awaitable[FakeMember]]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker(topics={"t": 2}, session_timeout=6.0)


@pytest.fixture
async def start(broker: FakeBroker, nursery: trio.Nursery) -> AsyncIterator[Start]:
    """Starts members of the group "group", in virtual time."""

    async def start(*, group: str = "group", **options: Any) -> FakeMember:
        member = FakeMember(broker.client(group), patience=1000.0)
        session = Session(topics=("t",), **options)

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            await member.client.run(member.events, session, task_status=task_status)
            member.closed.set()

        await nursery.start(run)
        return member

    yield start
    nursery.cancel_scope.cancel()


async def start_owner(start: Start, **options: Any) -> FakeMember:
    member = await start(**options)
    await member.owns(2)
    return member


# Records


async def test_a_record_has_the_time_of_the_clock(
    broker: FakeBroker, autojump_clock: MockClock
) -> None:
    await trio.sleep(1.5)
    [message] = broker.produce("t", b"a")
    assert message.timestamp() == (1, 1500)


# Times


async def test_a_message_for_an_open_fetch_arrives_in_the_moment_it_is_produced(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    member.open_fetch()
    await trio.sleep(0.25)
    broker.produce("t", b"a", partition=0)
    await member.events.until(lambda: member.events.answers)
    assert member.events.answers[0].time == 0.25
    assert member.events.answers[0].chunks[0].end == 1


async def test_a_command_waits_for_the_end_of_a_poll_only_while_a_fetch_is_open(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    await trio.sleep(0.35)
    await member.commit(member.events.owned[P0], 0)
    assert trio.current_time() == 0.35
    member.open_fetch()
    await trio.sleep(0.03)
    await member.commit(member.events.owned[P0], 0)
    assert trio.current_time() == pytest.approx(0.45)
    assert [commit.time for commit in broker.commits] == pytest.approx([0.35, 0.45])


async def test_with_an_endless_poll_no_command_waits_for_its_end(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    member = FakeMember(broker.client(), patience=1000.0)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            await nursery.start(member.client.run, member.events, Session(topics=("t",)))
            await member.owns(1)
            member.open_fetch()
            await trio.sleep(0.25)
            await member.commit(member.events.owned[P0], 0)
            member.client.stop()
    assert trio.current_time() == 0.25


async def test_a_delayed_fetch_delivers_that_much_later(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    broker.delay("fetch", 0.4)
    member = await start_owner(start)
    broker.produce("t", b"a", partition=0)
    await member.fetch_once(10)
    assert trio.current_time() == 0.4


async def test_fetches_are_shared_among_partitions_evenly(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    broker.produce("t", *[b"0"] * 100, partition=0)
    broker.produce("t", *[b"1"] * 100, partition=1)
    member = await start_owner(start)
    answer = await member.fetch_once(10)
    assert [len(chunk.messages) for chunk in answer.chunks] == [5, 5]
    # Where it does not come out even, each partition has its turn.
    first, second = await member.fetch_once(1), await member.fetch_once(1)
    assert {address(chunk) for chunk in [*first.chunks, *second.chunks]} == {P0, P1}


async def test_one_fetch_may_be_open(start: Start, autojump_clock: MockClock) -> None:
    member = await start_owner(start)
    member.client.fetch(1)
    with pytest.raises(trio.BusyResourceError):
        member.client.fetch(1)


async def test_an_end_takes_a_place_and_comes_after_messages_that_were_waited_for(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    broker.produce("t", b"a", b"b", partition=0)
    member = await start_owner(start)
    await member.fetch_once(2)
    assert member.events.ends == []
    member.open_fetch(3)
    await member.events.until(lambda: len(member.events.ends) == 2)
    assert {(end.partition, end.offset) for end in member.events.ends} == {(0, 2), (1, 0)}
    broker.produce("t", b"c", partition=0)
    await member.events.until(lambda: len(member.events.answers) == 2)
    assert len(member.events.ends) == 2
    broker.produce("t", b"d", partition=0)
    answer = await member.fetch_once(3)
    assert [end.offset for end in answer.ends] == [4]


# Offsets


async def test_gaps_and_control_records_are_passed_over(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    broker.produce("t", b"a", partition=0)
    broker.gap("t", 0, 5)
    broker.produce("t", b"b", partition=0)
    member = await start_owner(start)
    assert [m.offset() for m in await member.read(2)] == [0, 6]
    await member.end_at(P0, 7)
    # An end that moves without a record is an end again.
    broker.control_record("t", 0)
    await member.end_at(P0, 8)
    assert await member.client.end_offsets([P0]) == {P0: 8}


async def test_wait_committed_returns_when_the_offset_is_reached(
    broker: FakeBroker, start: Start, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)

    async def commit_each_second() -> None:
        for offset in (1, 2, 3):
            await trio.sleep(1.0)
            await member.commit(member.events.owned[P0], offset)

    nursery.start_soon(commit_each_second)
    await broker.wait_committed("t", 0, 2)
    assert trio.current_time() == 2.0
    assert broker.committed("t", 0) == 2
    assert broker.committed("t", 1) is None
    assert broker.committed("t", 0, group="other") is None


async def test_the_history_holds_every_commit_in_order(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    owned = member.events.owned
    await member.client.commit([offset_of(owned[P1], 5, "x"), offset_of(owned[P0], 3)])
    await trio.sleep(1.0)
    await member.commit(owned[P1], 4)
    assert [(c.time, c.partition, c.offset, c.metadata) for c in broker.commits] == [
        (0.0, 1, 5, "x"),
        (0.0, 0, 3, ""),
        (1.0, 1, 4, ""),
    ]
    assert {(c.group, c.client, c.topic) for c in broker.commits} == {
        ("group", member.client, "t")
    }
    assert broker.commits[0].epoch == owned[P1].epoch
    assert broker.committed_metadata("t", 1) == ""


async def test_a_delayed_commit_is_stored_when_it_is_answered(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    broker.commit_delay = 0.5
    member = await start_owner(start)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.commit, member.events.owned[P0], 1)
        nursery.start_soon(member.commit, member.events.owned[P1], 1)
    # One after the other, so that a later one never overtakes an earlier one.
    assert [commit.time for commit in broker.commits] == pytest.approx([0.5, 1.0])


async def test_a_commit_that_is_stuck_can_be_given_up_and_goes_on_later(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    broker.commit_delay = math.inf
    member = await start_owner(start)
    with trio.move_on_after(100.0) as scope:
        await member.commit(member.events.owned[P0], 1)
    assert scope.cancelled_caught
    assert trio.current_time() == 100.0
    # This one is given up before it could be sent.
    with trio.move_on_after(1.0):
        await member.commit(member.events.owned[P1], 1)
    broker.commit_delay = 0.0
    await broker.wait_committed("t", 0, 1)
    await member.commit(member.events.owned[P0], 2)
    assert [(c.partition, c.offset) for c in broker.commits] == [(0, 1), (0, 2)]


async def test_a_stuck_commit_does_not_hold_up_stopping_beyond_close_timeout(
    broker: FakeBroker, start: Start, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    broker.commit_delay = math.inf
    member = await start_owner(start, close_timeout=3.0)
    ended = trio.Event()

    async def commit() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await member.commit(member.events.owned[P0], 1)
        ended.set()

    nursery.start_soon(commit)
    await wait_all_tasks_blocked()
    await member.stop()
    await ended.wait()
    assert trio.current_time() == 3.0
    # Nobody heard it leave: its partitions are free when its session has ended.
    broker.commit_delay = 0.0
    heir = await start_owner(start)
    assert trio.current_time() == 9.0
    assert {a.committed for a in heir.events.owned.values()} == {None}


# Failures


async def test_the_next_requests_fail_as_told(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    assigned = member.events.owned[P0]
    broker.fail_next("commit", "REBALANCE_IN_PROGRESS", times=2)
    broker.fail_next("commit", KafkaFailure("out of paper", code="X", retriable=False))
    # What is dropped before it is sent is no request.
    await member.commands_applied()
    codes = []
    for _ in range(3):
        with pytest.raises(KafkaFailure) as caught:
            await member.commit(assigned, 1)
        codes.append((caught.value.code, caught.value.retriable))
    assert codes == [
        ("REBALANCE_IN_PROGRESS", True),
        ("REBALANCE_IN_PROGRESS", True),
        ("X", False),
    ]
    assert broker.commits == []
    await member.commit(assigned, 1)
    assert broker.committed("t", 0) == 1

    broker.fail_next("end_offsets", "_TIMED_OUT")
    with pytest.raises(KafkaFailure, match="end_offsets with _TIMED_OUT") as caught:
        await member.client.end_offsets([P0])
    assert caught.value.retriable
    assert await member.client.end_offsets([P0]) == {P0: 0}


async def test_opening_fails_as_told(broker: FakeBroker, autojump_clock: MockClock) -> None:
    broker.fail_next("open", "SASL_AUTHENTICATION_FAILED")
    with pytest.raises(KafkaFailure, match="SASL_AUTHENTICATION_FAILED"):
        await broker.client().run(Recorder(patience=1.0), Session(topics=("t",)))


async def test_a_failed_fetch_that_can_be_tried_again_costs_a_poll(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    broker.produce("t", b"a", partition=0)
    broker.fail_next("fetch", "NOT_LEADER_FOR_PARTITION")
    assert values(await member.read(1)) == [b"a"]
    assert trio.current_time() == pytest.approx(0.1)
    assert member.events.failures == []


async def test_a_failed_fetch_that_cannot_is_reported_and_ends_delivery(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    broker.produce("t", b"a", partition=0)
    broker.fail_next("fetch", "TOPIC_AUTHORIZATION_FAILED")
    member.open_fetch()
    await member.events.until(lambda: member.events.failures)
    await trio.sleep(10.0)
    [failure] = member.events.failures
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "TOPIC_AUTHORIZATION_FAILED"
    assert member.events.messages() == []


async def test_an_outage_is_waited_out(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    assigned = member.events.owned[P0]
    broker.stop()
    broker.produce("t", b"a", partition=0)
    member.open_fetch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.commit, assigned, 0)
        await trio.sleep(100.0)
        assert member.events.chunks == []
        assert broker.commits == []
        broker.start()
    await member.events.until(lambda: member.events.answers)
    assert [commit.time for commit in broker.commits] == [100.0]
    assert member.events.answers[0].time == 100.0
    assert member.events.names == ["assigned", "fetched"]


async def test_opening_in_an_outage_succeeds_if_it_ends_in_time(
    broker: FakeBroker, start: Start, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    broker.stop()

    async def end_it() -> None:
        await trio.sleep(4.0)
        broker.start()

    nursery.start_soon(end_it)
    await start_owner(start, open_timeout=5.0)
    assert trio.current_time() == 4.0
    broker.stop()
    with pytest.raises(KafkaFailure, match=r"fake:9092 within 5 s") as caught:
        await start(open_timeout=5.0)
    assert trio.current_time() == 9.0
    assert caught.value.code == "_TRANSPORT"


async def test_what_an_event_handler_raises_comes_out_of_run(
    broker: FakeBroker, autojump_clock: MockClock
) -> None:
    class Broken(Recorder):
        def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
            raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        await broker.client().run(Broken(patience=1.0), Session(topics=("t",)))
    # It is gone: another one has the group to itself.
    recorder = Recorder(patience=10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.client().run, recorder, Session(topics=("t",)))
        await recorder.until(lambda: len(recorder.owned) == 2)
        nursery.cancel_scope.cancel()


# Rebalances


async def test_partitions_are_revoked_and_given_back_within_one_poll(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    before = member.events.owned[P0]
    member.events.release = lambda partitions: member.client.release(
        partitions, [offset_of(assigned, 7) for assigned in partitions]
    )
    member.open_fetch()
    await trio.sleep(0.05)
    broker.rebalance(member.client, [("t", 0)])
    await member.events.until(lambda: len(member.events.assignments) == 2)
    assert trio.current_time() == 0.05
    [after] = member.events.assignments[1]
    assert (address(after), after.committed) == (P0, 7)
    assert after.epoch > before.epoch
    assert member.events.revocations == [[before]]


async def test_partitions_are_handed_over(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    first.release_at_once()
    second = await start()
    await second.owns(1)
    broker.rebalance(first.client, to=second.client)
    await second.owns(2)
    assert first.events.owned == {}
    assert second.events.revocations == []
    with pytest.raises(ValueError, match="does not own"):
        broker.rebalance(first.client, [("t", 0)])


async def test_a_revoke_ends_a_second_after_its_timeout_without_a_release(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start, revoke_timeout=4.0)
    await trio.sleep(10.0)
    second = await start()
    [moving] = await first.revoked()
    assert trio.current_time() == 10.0
    await second.owns(1)
    assert trio.current_time() == 15.0
    assert await first.commit(moving, 1) == []


async def test_a_release_whose_commit_is_stuck_ends_at_the_same_time(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start, revoke_timeout=4.0)
    first.events.release = lambda partitions: first.client.release(
        partitions, [offset_of(assigned, 1) for assigned in partitions]
    )
    broker.commit_delay = math.inf
    second = await start()
    await second.owns(1)
    assert trio.current_time() == 5.0
    # It arrives in the end, and is refused: the partition is another member's now.
    broker.commit_delay = 0.0
    await first.commands_applied()
    assert broker.commits == []


async def test_a_release_that_is_answered_late_does_not_end_the_next_epoch(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start, revoke_timeout=1.0)
    broker.commit_delay = math.inf
    broker.rebalance(member.client, [("t", 0)])
    [moving] = await member.revoked()
    member.client.release([moving], [offset_of(moving, 1)])
    await member.events.until(lambda: len(member.events.assignments) == 2)
    assert trio.current_time() == 2.0

    broker.rebalance(member.client, [("t", 0)])
    await member.events.until(lambda: len(member.events.revocations) == 2)
    broker.commit_delay = 0.0
    await trio.sleep(1.5)
    assert len(member.events.assignments) == 2
    member.client.release(member.events.revocations[1], [])
    await member.events.until(lambda: len(member.events.assignments) == 3)
    assert trio.current_time() == 3.5
    assert broker.commits == []


async def test_the_rebalance_waits_while_messages_of_kept_partitions_do_too(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    first.open_fetch()
    second = await start()
    [moving] = await first.revoked()
    [kept] = first.events.owned
    broker.produce("t", b"kept", partition=kept.partition)
    broker.produce("t", b"moving", partition=moving.partition)
    await trio.sleep(3.0)
    assert first.events.answers == []
    first.client.release([moving], [])
    await first.events.until(lambda: first.events.answers)
    assert values(first.events.messages()) == [b"kept"]
    assert first.events.answers[0].time == 3.0
    assert values(await second.read(1)) == [b"moving"]


async def test_stopping_ends_a_revoke_that_waits(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    second = await start()
    await first.revoked()
    await first.stop()
    await second.owns(2)
    assert trio.current_time() == 0.0


async def test_a_new_topic_reaches_those_whose_pattern_matches(
    broker: FakeBroker, autojump_clock: MockClock
) -> None:
    recorder = Recorder(patience=10.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.client().run, recorder, Session(topics=("^t",)))
        await recorder.until(lambda: len(recorder.owned) == 2)
        broker.create_topic("other")
        broker.create_topic("t2")
        await recorder.until(lambda: len(recorder.owned) == 3)
        assert TopicPartition("t2", 0) in recorder.owned
        nursery.cancel_scope.cancel()


async def test_groups_do_not_share(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    one = await start_owner(start, group="one")
    other = await start_owner(start, group="other")
    await one.commit(one.events.owned[P0], 3)
    assert broker.committed("t", 0, group="one") == 3
    assert broker.committed("t", 0, group="other") is None
    assert one.events.revocations == other.events.revocations == []


# Losses


async def test_a_loss_is_told_afterwards_and_what_is_under_way_is_refused(
    broker: FakeBroker, start: Start, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    before = dict(member.events.owned)
    broker.commit_delay = 2.0
    refused = trio.Event()

    async def commit() -> None:
        with pytest.raises(KafkaFailure) as caught:
            await member.commit(before[P0], 1)
        assert (caught.value.code, caught.value.retriable) == ("UNKNOWN_MEMBER_ID", False)
        refused.set()

    nursery.start_soon(commit)
    await trio.sleep(1.0)
    broker.lose(member.client, [("t", 0)])
    await member.events.until(lambda: len(member.events.assignments) == 2)
    assert trio.current_time() == 1.0
    assert member.events.losses == [[before[P0]]]
    assert member.events.names == ["assigned", "lost", "assigned"]
    await refused.wait()
    assert trio.current_time() == 2.0
    assert await member.commit(before[P0], 1) == []
    assert member.events.owned[P0].epoch > before[P0].epoch
    assert member.events.owned[P1] == before[P1]
    assert broker.commits == []


async def test_lost_partitions_can_go_to_another(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    first.release_at_once()
    second = await start()
    await second.owns(1)
    broker.lose(first.client, to=second.client)
    await second.owns(2)
    await first.owns(0)
    assert len(first.events.losses) == 1


async def test_a_loss_during_a_revoke_is_told_before_the_partition_is_assigned_anew(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    before = dict(member.events.owned)
    broker.rebalance(member.client, [("t", 0)])
    await member.events.until(lambda: len(member.events.revocations) == 1)
    broker.lose(member.client, [("t", 1)])
    member.client.release([before[P0]], [])
    await member.owns(2)
    assert member.events.names == ["assigned", "revoking", "lost", "assigned"]
    assert member.events.losses == [[before[P1]]]
    assert await member.commit(member.events.owned[P1], 1) != []


async def test_a_pause_and_a_resume_for_what_has_been_lost_are_not_for_the_next_epoch(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    member = await start_owner(start)
    for partition in (0, 1):
        broker.produce("t", b"0", b"1", b"2", partition=partition)
    broker.lose(member.client)
    member.client.pause([P0])
    member.client.resume({P1: 2})
    await member.events.until(lambda: len(member.events.assignments) == 2)
    for _ in range(3):
        member.open_fetch()
        await trio.sleep(1)
    for partition in (P0, P1):
        assert [m.offset() for m in member.events.messages(partition)] == [0, 1, 2]


async def test_a_client_frozen_beyond_its_session_loses_everything_and_joins_anew(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    before = dict(first.events.owned)
    first.release_at_once()
    second = await start()
    second.release_at_once()
    await second.owns(1)
    [kept] = await first.owns(1)
    broker.freeze(first.client)
    broker.produce("t", b"a", partition=kept.partition)
    await second.owns(2)
    assert trio.current_time() == 6.0
    assert first.events.losses == []

    refusals: list[str] = []

    async def commit() -> None:
        with pytest.raises(KafkaFailure) as caught:
            await first.commit(before[kept], 1)
        refusals.append(caught.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await trio.sleep(4.0)
        assert refusals == []
        broker.thaw(first.client)
    assert refusals == ["UNKNOWN_MEMBER_ID"]
    assert broker.committed("t", kept.partition) is None
    await first.owns(1)
    assert first.events.losses == [[before[kept]]]
    assert first.events.names == ["assigned", "revoking", "lost", "assigned"]
    assert trio.current_time() == 10.0


async def test_a_client_thawed_in_time_goes_on_as_if_nothing_had_been(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    first.release_at_once()
    second = await start()
    await second.owns(1)
    [kept] = await first.owns(1)
    first.open_fetch()
    broker.freeze(first.client)
    broker.produce("t", b"a", partition=kept.partition)
    await trio.sleep(5.0)
    assert first.events.answers == []
    broker.thaw(first.client)
    await first.events.until(lambda: first.events.answers)
    assert first.events.answers[0].time == 5.0
    await trio.sleep(100.0)
    assert first.events.losses == []
    assert set(first.events.owned) == {kept}


async def test_a_client_frozen_in_a_revoke_releases_after_it_is_thawed(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    second = await start()
    [moving] = await first.revoked()
    broker.freeze(first.client)
    first.client.release([moving], [offset_of(moving, 1)])
    await trio.sleep(3.0)
    assert second.events.assignments == []
    assert broker.commits == []
    broker.thaw(first.client)
    [taken] = (await second.owns(1)).values()
    assert (address(taken), taken.committed) == (address(moving), 1)
    assert trio.current_time() == 3.0


async def test_a_client_frozen_in_a_revoke_beyond_its_session_loses_what_it_kept(
    broker: FakeBroker, start: Start, autojump_clock: MockClock
) -> None:
    first = await start_owner(start)
    before = dict(first.events.owned)
    second = await start()
    second.release_at_once()
    [moving] = await first.revoked()
    broker.freeze(first.client)
    first.client.release([moving], [offset_of(moving, 1)])
    await second.owns(2)
    assert trio.current_time() == 6.0
    broker.thaw(first.client)
    await first.events.until(lambda: len(first.events.assignments) == 2)
    kept = next(iter(before.keys() - {address(moving)}))
    assert first.events.losses == [[before[kept]]]
    assert first.events.names == ["assigned", "revoking", "lost", "assigned"]
    assert broker.commits == []


async def test_a_client_cancelled_while_frozen_frees_its_partitions_later(
    broker: FakeBroker, autojump_clock: MockClock
) -> None:
    client, recorder = broker.client(), Recorder(patience=100.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run, recorder, Session(topics=("t",)))
        await recorder.until(lambda: len(recorder.owned) == 2)
        broker.freeze(client)
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    heir = Recorder(patience=100.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.client().run, heir, Session(topics=("t",)))
        await heir.until(lambda: len(heir.owned) == 2)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 6.0


# Determinism


async def test_the_same_test_gives_the_same_events_at_the_same_times(
    autojump_clock: MockClock,
) -> None:
    async def run() -> list[object]:
        started_at = trio.current_time()
        broker = FakeBroker(topics={"t": 4})
        broker.produce("t", *(b"%d" % number for number in range(40)))
        members = [Member(broker.client(), patience=100.0) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for member in members:
                member.release_at_once()
                session = Session(topics=("t",))
                await nursery.start(member.client.run, member.events, session)
                member.open_fetch(10)
                await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        return [
            (
                member.events.names,
                [call.time - started_at for call in member.events.calls],
                values(member.events.messages()),
            )
            for member in members
        ]

    assert await run() == await run()
