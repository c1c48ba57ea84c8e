"""Which message may be taken next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests._records import Record, arrive, assignment
from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._segment import Segment

AnyLanes = UnorderedLanes | PartitionLanes | KeyedLanes


class Worker:
    """A processor without tasks: it holds a message from `begin` or `finish` on.

    It keeps to the lanes' rules as ``_stages/_keyed_processor.py`` does. A handler that "runs
    through" never suspends, so that no other worker does anything meanwhile.
    """

    def __init__(self, lanes: AnyLanes) -> None:
        self.lanes = lanes
        self.keyed = lanes if isinstance(lanes, KeyedLanes) else None
        self.segment: Segment | None = None
        self.items: Iterator[tuple[Any, int]] = iter(())  # as a for loop holds it
        self.item: tuple[Segment, Record, int] | None = None
        self.busy: dict[Hashable, Any] = {}
        self.lane: Hashable = None

    def begin(self) -> Record | None:
        """Take a message if there is one."""
        assert self.item is None
        while True:
            if self.keyed is not None and self.keyed.waiting:
                self.busy, self.lane = self.keyed.waiting.popleft()
                if self._go_on():
                    break
                continue
            self.segment = self.lanes.acquire()
            if self.segment is None:
                break
            self.items = self.segment.items
            if self._take():
                break
        return self.item and self.item[1]

    def finish(self) -> Record | None:
        """The handler returns; take the next message."""
        assert self.item is not None
        segment, _, index = self.item
        segment.flags[index] = 1
        self.item = None
        if self.keyed is not None:
            if self.keyed.hot is self:
                self.keyed.hot = None
            elif self._go_on():
                return self.item[1]
        if self.segment is not None and self._take():
            return self.item[1]
        return self.begin()

    def be_cut_off(self) -> None:
        """The handler is cancelled; it is to be called again if its epoch lives on."""
        assert self.item is not None
        segment, raw, index = self.item
        self.item = None
        again = not segment.partition.draining
        if self.keyed is not None:
            if self.keyed.hot is self:
                self.keyed.hot = None
                self.busy[self.lane] = None
            if again:
                self.keyed.put_back_parked(self.busy, self.lane, segment, raw, index)
            self.keyed.waiting.append((self.busy, self.lane))
        elif again:
            self.lanes.put_back(segment, raw, index)
        if self.segment is not None:
            self.lanes.release(self.segment)
        self.segment = None

    def _take(self) -> bool:
        segment = self.segment
        assert segment is not None
        for raw, index in self.items:
            if self.keyed is not None:
                hot = self.keyed.hot
                if hot is not None:
                    hot.busy[hot.lane] = None
                    self.keyed.hot = None
                if raw.key() in segment.busy:
                    if self.keyed.park(segment, raw, index, raw.key()):
                        continue
                    break
                self.busy, self.lane = segment.busy, raw.key()
                self.keyed.hot = self
            self.item = (segment, raw, index)
            return True
        self.lanes.release(segment)
        self.segment = None
        return False

    def _go_on(self) -> bool:
        assert self.keyed is not None
        self.item = self.keyed.next_parked(self.busy, self.lane)
        return self.item is not None


def offsets(segment: Segment | None) -> list[int]:
    """Take all that is left of a segment."""
    assert segment is not None
    return [raw.offset() for raw, _ in segment.items]


def by_key(keys: str) -> Callable[[int], bytes | None]:
    """Keys by offset, one letter each; "." is none."""
    return lambda offset: None if keys[offset] == "." else keys[offset].encode()


class TestUnordered:
    def test_all_take_from_the_first_segment(self) -> None:
        lanes, state = UnorderedLanes(), assignment()
        first, second = arrive(state, range(2), lanes), arrive(state, range(2, 4), lanes)
        assert lanes.acquire() is lanes.acquire() is first
        assert lanes.has_more_than(3)
        assert not lanes.has_more_than(4)
        offsets(first)
        assert lanes.acquire() is second
        assert offsets(second) == [2, 3]
        assert lanes.acquire() is None
        assert not lanes.has_more_than(0)

    def test_what_was_cut_off_is_the_next(self) -> None:
        lanes, state = UnorderedLanes(), assignment()
        segment = arrive(state, range(2), lanes)
        taken = [next(segment.items) for _ in range(2)]
        assert lanes.acquire() is None
        later = arrive(state, [2], lanes)
        for raw, index in reversed(taken):
            lanes.put_back(segment, raw, index)
        lanes.release(segment)
        assert lanes.acquire() is segment
        assert offsets(segment) == [0, 1]
        assert lanes.acquire() is later

    def test_nothing_of_a_held_partition_is_taken(self) -> None:
        lanes, state, other = UnorderedLanes(), assignment(0), assignment(1)
        segment = arrive(state, range(3), lanes)
        beside = arrive(other, [7], lanes)
        held_iterator = iter(segment.items)
        next(held_iterator)
        lanes.hold(state)
        lanes.hold(state)
        assert list(held_iterator) == []
        later = arrive(state, [3, 4], lanes)
        assert lanes.acquire() is beside
        assert (lanes.blocked(state), lanes.blocked(other)) == (4, 0)
        assert not lanes.has_more_than(1)
        lanes.let_go(state)
        assert (lanes.blocked(state), offsets(beside)) == (0, [7])
        assert [offsets(lanes.acquire()), offsets(lanes.acquire())] == [[1, 2], [3, 4]]
        assert segment.untaken == later.untaken == 0

    def test_what_was_cut_off_of_a_held_partition_waits_too(self) -> None:
        lanes, state = UnorderedLanes(), assignment()
        segment = arrive(state, range(3), lanes)
        taken = next(segment.items)
        lanes.hold(state)
        lanes.put_back(segment, *taken)
        assert lanes.acquire() is None
        lanes.let_go(state)
        assert offsets(lanes.acquire()) == [0, 1, 2]

    def test_the_end_of_a_held_partition_is_forgotten_down_to_what_is_kept(self) -> None:
        lanes, state = UnorderedLanes(), assignment()
        for start in (0, 3, 6):
            arrive(state, range(start, start + 3), lanes)
        lanes.truncate(state, 0)
        assert state.received == 9  # others take it: it is not blocked
        lanes.hold(state)
        lanes.truncate(state, 4)
        assert (lanes.blocked(state), state.received, state.position) == (4, 4, 4)
        lanes.let_go(state)
        arrive(state, range(4, 9), lanes)
        assert [offsets(lanes.acquire()) for _ in range(3)] == [[0, 1, 2], [3], [*range(4, 9)]]

    def test_nothing_is_forgotten_before_what_was_taken(self) -> None:
        """Else that would be committed over what is to be read again."""
        lanes, state = UnorderedLanes(), assignment()
        first, second = arrive(state, [0], lanes), arrive(state, [1], lanes)
        cut_off = next(first.items)
        assert lanes.acquire() is second
        next(second.items)
        lanes.put_back(first, *cut_off)
        lanes.hold(state)
        lanes.truncate(state, 0)
        assert (state.received, state.position, lanes.blocked(state)) == (2, 2, 1)
        second.flags[0] = 1
        assert state.prefix() is None

    def test_nothing_of_a_dropped_partition_is_taken(self) -> None:
        lanes, state, other = UnorderedLanes(), assignment(0), assignment(1)
        segment, beside = arrive(state, range(3), lanes), arrive(other, [7], lanes)
        held_iterator = iter(segment.items)
        next(held_iterator)
        lanes.drop(state)
        assert state.draining
        assert list(held_iterator) == []
        assert lanes.acquire() is beside
        assert (state.unfinished, other.unfinished) == (1, 1)

    def test_a_held_partition_is_dropped_too(self) -> None:
        lanes, state = UnorderedLanes(), assignment()
        arrive(state, range(3), lanes)
        lanes.hold(state)
        lanes.drop(state)
        lanes.let_go(state)
        assert lanes.acquire() is None
        assert state.unfinished == 0


class TestPartition:
    def test_one_owns_a_partition_until_it_releases_it(self) -> None:
        lanes, state, other = PartitionLanes(), assignment(0), assignment(1)
        arrive(state, range(2), lanes)
        arrive(state, range(2, 4), lanes)
        arrive(other, [7], lanes)
        mine = lanes.acquire()
        theirs = lanes.acquire()
        assert (offsets(mine), offsets(theirs)) == ([0, 1], [7])
        assert lanes.acquire() is None
        assert not lanes.has_more_than(0)
        assert (lanes.blocked(state), lanes.blocked(other)) == (2, 0)
        lanes.release(theirs)
        assert lanes.acquire() is None
        lanes.release(mine)
        assert lanes.has_more_than(1)
        assert not lanes.has_more_than(2)
        assert lanes.blocked(state) == 0
        assert offsets(lanes.acquire()) == [2, 3]

    def test_a_segment_that_is_not_exhausted_is_the_next(self) -> None:
        lanes, state = PartitionLanes(), assignment()
        arrive(state, range(3), lanes)
        arrive(state, range(3, 5), lanes)
        segment = lanes.acquire()
        next(segment.items)
        raw, index = next(segment.items)
        lanes.put_back(segment, raw, index)
        lanes.release(segment)
        assert lanes.acquire() is segment
        assert offsets(segment) == [1, 2]
        lanes.release(segment)
        assert offsets(lanes.acquire()) == [3, 4]

    def test_partitions_take_turns(self) -> None:
        lanes, one, two = PartitionLanes(), assignment(1), assignment(2)
        for start in (0, 1, 2):
            arrive(one, [start], lanes)
        arrive(two, [7], lanes)
        seen = []
        while (segment := lanes.acquire()) is not None:
            seen += offsets(segment)
            lanes.release(segment)
        assert seen == [0, 7, 1, 2]

    def test_who_still_handles_a_message_of_an_ended_epoch_keeps_the_partition(self) -> None:
        lanes, old, new = PartitionLanes(), assignment(epoch=1), assignment(epoch=2)
        arrive(old, range(3), lanes)
        arrive(old, range(3, 6), lanes)
        segment = lanes.acquire()
        held_iterator = iter(segment.items)
        next(held_iterator)
        lanes.drop(old)
        assert list(held_iterator) == []
        assert old.unfinished == 1
        fresh = arrive(new, range(3), lanes)
        assert lanes.acquire() is None
        assert (lanes.blocked(new), lanes.has_more_than(0)) == (3, False)
        lanes.release(segment)
        assert lanes.acquire() is fresh

    def test_what_waits_behind_an_ended_epoch_may_be_forgotten_too(self) -> None:
        lanes, old, new = PartitionLanes(), assignment(epoch=1), assignment(epoch=2)
        arrive(old, [0], lanes)
        segment = lanes.acquire()
        offsets(segment)
        lanes.drop(old)
        arrive(new, range(6), lanes)
        lanes.truncate(new, 2)
        assert (lanes.blocked(new), new.received, new.position) == (2, 2, 2)
        lanes.truncate(new, 0)
        assert (lanes.blocked(new), new.received, new.position) == (0, 0, 0)
        lanes.release(segment)
        assert lanes.acquire() is None

    def test_an_unowned_partition_is_dropped(self) -> None:
        lanes, state, other = PartitionLanes(), assignment(0), assignment(1)
        arrive(state, [0], lanes)
        arrive(other, [7], lanes)
        lanes.drop(state)
        assert offsets(lanes.acquire()) == [7]
        assert lanes.acquire() is None
        arrive(assignment(0, epoch=2), [0], lanes)
        assert offsets(lanes.acquire()) == [0]

    def test_the_end_of_an_owned_partition_is_forgotten(self) -> None:
        lanes, state = PartitionLanes(), assignment()
        for start in (0, 4, 8):
            arrive(state, range(start, start + 4), lanes)
        lanes.truncate(state, 0)
        assert state.received == 12  # nobody owns it: it is not blocked
        segment = lanes.acquire()
        next(segment.items)
        lanes.truncate(state, 9)
        assert (lanes.blocked(state), state.position) == (9, 10)
        lanes.truncate(state, 2)
        assert (lanes.blocked(state), state.position) == (2, 3)
        lanes.truncate(state, 0)
        assert (lanes.blocked(state), state.position, state.received) == (0, 1, 1)
        lanes.release(segment)
        arrive(state, [1, 2], lanes)
        assert offsets(lanes.acquire()) == [1, 2]


class TestKeyed:
    def lanes(self, *, share: int = 100) -> KeyedLanes:
        return KeyedLanes(share=share)

    def test_a_handler_that_runs_through_is_never_entered(self) -> None:
        lanes, state = self.lanes(), assignment()
        segment = arrive(state, range(4), lanes, key=by_key("KKKL"))
        worker = Worker(lanes)
        taken = worker.begin()
        while taken is not None:
            assert segment.busy == {}
            taken = worker.finish()
        assert state.prefix() == 4
        assert lanes.hot is None

    def test_a_suspended_lane_is_entered_by_who_takes_the_next_message(self) -> None:
        lanes, state = self.lanes(), assignment()
        segment = arrive(state, range(4), lanes, key=by_key("KLKM"))
        one, two, three = (Worker(lanes) for _ in range(3))
        assert one.begin().offset() == 0
        assert (lanes.hot, segment.busy) == (one, {})
        assert two.begin().offset() == 1
        assert (lanes.hot, segment.busy) == (two, {b"K": None})
        assert three.begin().offset() == 3  # K is parked
        assert state.parked == lanes.blocked(state) == 1
        assert one.finish().offset() == 2
        assert state.parked == 0
        assert one.finish() is None
        assert segment.busy == {b"L": None}
        assert two.finish() is None
        assert three.finish() is None
        assert (segment.busy, lanes.hot, state.prefix()) == ({}, None, 4)

    def test_messages_without_a_key_share_a_lane(self) -> None:
        lanes, state = self.lanes(), assignment()
        arrive(state, range(3), lanes, key=by_key("..K"))
        one, two = Worker(lanes), Worker(lanes)
        assert one.begin().offset() == 0
        assert two.begin().offset() == 2
        assert one.finish().offset() == 1

    def test_the_same_key_of_another_partition_is_another_lane(self) -> None:
        lanes = self.lanes()
        arrive(assignment(0), [0], lanes, key=lambda offset: b"K")
        arrive(assignment(1), [1], lanes, key=lambda offset: b"K")
        assert Worker(lanes).begin().offset() == 0
        assert Worker(lanes).begin().offset() == 1

    def test_unless_the_lane_is_a_function_of_the_message(self) -> None:
        lanes = KeyedLanes(share=100, per_partition=False)
        arrive(assignment(0), [0], lanes, key=lambda offset: b"K")
        arrive(assignment(1), [1], lanes, key=lambda offset: b"K")
        one = Worker(lanes)
        assert one.begin().offset() == 0
        assert Worker(lanes).begin() is None
        assert one.finish().offset() == 1

    @pytest.mark.parametrize("entered", [False, True])
    def test_what_was_cut_off_is_the_next_of_its_lane(self, entered: bool) -> None:
        lanes, state = self.lanes(), assignment()
        arrive(state, range(3), lanes, key=by_key("KKL"))
        one, two = Worker(lanes), Worker(lanes)
        assert one.begin().offset() == 0
        if entered:
            assert two.begin().offset() == 2
        one.be_cut_off()
        assert list(lanes.waiting) == [(one.busy, b"K")]
        assert one.begin().offset() == 0
        if not entered:
            assert two.begin().offset() == 2
        assert one.finish().offset() == 1

    def test_who_is_cut_off_from_a_draining_partition_frees_its_lane(self) -> None:
        lanes, state = self.lanes(), assignment()
        segment = arrive(state, range(2), lanes, key=by_key("KK"))
        one = Worker(lanes)
        one.begin()
        lanes.drop(state)
        one.be_cut_off()
        assert one.begin() is None
        assert (segment.busy, state.unfinished) == ({}, 1)

    def test_a_partition_whose_share_is_parked_is_held_until_half_is_gone(self) -> None:
        lanes, state, other = self.lanes(share=4), assignment(0), assignment(1)
        segment = arrive(state, range(8), lanes, key=by_key("KKKKKKLM"))
        arrive(other, [0], lanes)
        one, two = Worker(lanes), Worker(lanes)
        assert one.begin().offset() == 0
        beside = two.begin()
        assert beside.partition() == 1
        assert (state.parked, lanes.blocked(state), state.unfinished) == (4, 7, 8)
        assert two.finish() is None  # L and M wait too, though they are free
        assert [one.finish().offset() for _ in range(1)] == [1]
        assert (state.parked, bool(state.held)) == (3, True)
        assert two.begin() is None
        assert one.finish().offset() == 2
        assert (state.parked, bool(state.held)) == (2, False)
        assert two.begin().offset() == 6  # K/5 is parked again
        assert (state.parked, segment.busy[b"K"] is not None) == (3, True)
        assert [one.finish().offset() for _ in range(3)] == [3, 4, 5]
        assert one.finish().offset() == 7

    def test_a_partition_held_for_another_reason_is_not_let_go_as_parked_ones_go(self) -> None:
        lanes, state = self.lanes(share=4), assignment()
        arrive(state, range(5), lanes, key=by_key("KKLKM"))
        one, two = Worker(lanes), Worker(lanes)
        one.begin()
        assert two.begin().offset() == 2
        lanes.hold(state)
        assert two.finish() is None
        assert one.finish().offset() == 1
        assert state.held
        assert one.finish() is None
        assert lanes.blocked(state) == 2
        lanes.let_go(state)
        assert one.begin().offset() == 3
        assert two.begin().offset() == 4

    def test_a_partition_held_for_two_reasons_is_let_go_when_none_is_left(self) -> None:
        lanes, state = self.lanes(share=1), assignment()
        arrive(state, range(4), lanes, key=by_key("KKKL"))
        one, two = Worker(lanes), Worker(lanes)
        one.begin()
        assert two.begin() is None
        lanes.hold(state)
        assert one.finish().offset() == 1
        assert (state.parked, bool(state.held)) == (0, True)
        lanes.let_go(state)
        assert two.begin().offset() == 3
        assert one.finish().offset() == 2

    def test_only_what_is_set_aside_is_forgotten(self) -> None:
        lanes, state = self.lanes(share=2), assignment()
        arrive(state, range(5), lanes, key=by_key("KKKKL" * 2))
        one = Worker(lanes)
        one.begin()
        assert Worker(lanes).begin() is None
        arrive(state, range(5, 10), lanes, key=by_key("KKKKL" * 2))
        assert lanes.blocked(state) == 9
        lanes.truncate(state, 6)
        assert (lanes.blocked(state), state.position, state.received) == (6, 7, 7)
        lanes.truncate(state, 0)
        assert (lanes.blocked(state), state.position, state.received) == (2, 3, 3)
        assert [one.finish().offset() for _ in range(2)] == [1, 2]
        assert one.finish() is None
        assert state.prefix() == 3

    def test_who_handles_a_message_of_an_ended_epoch_keeps_its_lane(self) -> None:
        lanes, old, new = self.lanes(), assignment(epoch=1), assignment(epoch=2)
        arrive(old, range(3), lanes, key=by_key("KKL"))
        one, two = Worker(lanes), Worker(lanes)
        one.begin()
        assert two.begin().offset() == 2  # K/1 is parked
        lanes.drop(old)
        assert (old.parked, old.unfinished) == (0, 2)
        arrive(new, range(4), lanes, key=by_key("KKLM"))
        three = Worker(lanes)
        assert three.begin().offset() == 3
        assert new.parked == 3
        again = one.finish()
        assert (again.offset(), again.state) == (0, new)
        again = two.finish()
        assert (again.offset(), again.state) == (2, new)
        assert one.finish().offset() == 1

    def test_nor_does_it_when_nobody_knew_that_it_was_suspended(self) -> None:
        lanes, old, new = self.lanes(), assignment(epoch=1), assignment(epoch=2)
        arrive(old, range(1), lanes, key=by_key("K"))
        one = Worker(lanes)
        one.begin()
        lanes.drop(old)
        arrive(new, range(2), lanes, key=by_key("KL"))
        assert Worker(lanes).begin().offset() == 1
        assert one.finish().state is new

    def test_a_partition_is_dropped_with_what_is_parked_and_set_aside(self) -> None:
        lanes = KeyedLanes(share=2, per_partition=False)
        state, other = assignment(0), assignment(1)
        arrive(state, range(6), lanes, key=by_key("KKKKKK"))
        arrive(other, [9], lanes, key=lambda offset: b"K")
        one, two = Worker(lanes), Worker(lanes)
        one.begin()
        assert two.begin() is None
        assert (state.parked, other.parked) == (2, 1)
        lanes.drop(state)
        assert (state.parked, state.unfinished, lanes.blocked(state)) == (0, 1, 0)
        assert one.finish().offset() == 9


@pytest.mark.parametrize("lanes", [UnorderedLanes(), PartitionLanes(), KeyedLanes(share=9)])
def test_nothing_to_take_is_nothing_acquired(lanes: AnyLanes) -> None:
    assert lanes.acquire() is None
    assert not lanes.has_more_than(0)
    assert lanes.blocked(assignment()) == 0
    lanes.truncate(assignment(), 0)
    lanes.drop(assignment())


class LanesMachine(RuleBasedStateMachine):
    """Workers on lanes against a plain model: which messages arrived and are finished."""

    PARTITIONS = 2
    WORKERS = 3

    def make_lanes(self, share: int) -> AnyLanes:
        raise NotImplementedError

    def lane_of(self, raw: Record) -> Hashable:
        raise NotImplementedError

    @initialize(
        share=st.integers(1, 4), keys=st.lists(st.sampled_from("KL."), min_size=1, max_size=7)
    )
    def start(self, share: int, keys: list[str]) -> None:
        self.share = share
        self.lanes = self.make_lanes(share)
        self.keys = keys
        self.workers = [Worker(self.lanes) for _ in range(self.WORKERS)]
        self.states = [PartitionOffsets("t", n, 0) for n in range(self.PARTITIONS)]
        self.asked: set[PartitionOffsets] = set()
        # The model: what arrived by assignment, in order, and what of it is finished.
        self.arrived: dict[PartitionOffsets, list[Record]] = {s: [] for s in self.states}
        self.finished: set[Record] = set()
        self.active: dict[int, Record] = {}

    # What happens.

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 6))
    def arrives(self, partition: int, count: int) -> None:
        state = self.states[partition]
        start = state.position if state.position is not None else state.committed or 0
        segment = arrive(
            state,
            range(start, start + count),
            self.lanes,
            key=lambda offset: by_key("".join(self.keys))(offset % len(self.keys)),
        )
        rest = list(segment.items)
        segment.put_back(rest)
        self.arrived[state] += [raw for raw, _ in rest]

    @rule(worker=st.integers(0, WORKERS - 1), through=st.integers(0, 4))
    def works(self, worker: int, through: int) -> None:
        """A worker that suspends after it has run through some messages."""
        one = self.workers[worker]
        if one.item is None:
            self.took(worker, one.begin())
        else:
            self.finishes(worker)
        while through and one.item is not None:
            through -= 1
            self.finishes(worker)

    def finishes(self, worker: int) -> None:
        self.finished.add(self.active.pop(worker))
        self.took(worker, self.workers[worker].finish())

    def took(self, worker: int, raw: Record | None) -> None:
        if raw is None:
            self.assert_nothing_can_be_taken()
            return
        lane = self.lane_of(raw)
        assert not raw.state.draining, "started though its partition was dropped"
        assert lane not in map(self.lane_of, self.active.values()), "overlaps in its lane"
        of_lane = [other for other in self.arrived[raw.state] if self.lane_of(other) == lane]
        assert next(r for r in of_lane if r not in self.finished) is raw, "not the next"
        self.active[worker] = raw

    @rule(worker=st.integers(0, WORKERS - 1))
    def is_cut_off(self, worker: int) -> None:
        if worker in self.active:
            del self.active[worker]
            self.workers[worker].be_cut_off()

    @rule(partition=st.integers(0, PARTITIONS - 1), cut_off=st.booleans())
    def is_revoked(self, partition: int, cut_off: bool) -> None:
        old = self.states[partition]
        self.lanes.drop(old)
        running = [w for w, raw in self.active.items() if raw.state is old]
        assert old.unfinished == len(running)
        if cut_off:  # else these resist
            for worker in running:
                self.is_cut_off(worker)
        new = PartitionOffsets("t", partition, old.epoch + 1, old.prefix() or old.committed)
        old.live = False
        self.states[partition] = new
        self.arrived[new] = []
        self.asked.discard(old)

    @rule(partition=st.integers(0, PARTITIONS - 1), keep=st.integers(0, 5))
    def is_truncated(self, partition: int, keep: int) -> None:
        state = self.states[partition]
        before = self.lanes.blocked(state)
        self.lanes.truncate(state, keep)
        after = self.lanes.blocked(state)
        gone = before - after
        assert gone >= 0
        forgotten = self.arrived[state][len(self.arrived[state]) - gone :]
        del self.arrived[state][len(self.arrived[state]) - gone :]
        for raw in forgotten:
            assert raw not in self.finished
            assert raw not in self.active.values()
        if forgotten:
            assert state.position is not None
            assert state.position <= forgotten[0].offset()
        assert state.received == len(self.arrived[state])
        assert after >= min(before, keep)
        if not isinstance(self.lanes, UnorderedLanes) or isinstance(self.lanes, KeyedLanes):
            assert after == min(before, max(keep, state.parked))

    @precondition(lambda self: isinstance(self.lanes, UnorderedLanes))
    @rule(partition=st.integers(0, PARTITIONS - 1))
    def is_held_or_let_go(self, partition: int) -> None:
        state = self.states[partition]
        if state in self.asked:
            self.asked.discard(state)
            self.lanes.let_go(state)
            assert not state.held
        else:
            self.asked.add(state)
            self.lanes.hold(state)

    # What must hold.

    def assert_nothing_can_be_taken(self) -> None:
        assert not self.lanes.has_more_than(0)
        busy = set(map(self.lane_of, self.active.values()))
        for state in self.states:
            if state.held:
                assert state in self.asked or state.parked > self.share // 2
                continue
            for raw in self.arrived[state]:
                if raw not in self.finished and raw not in self.active.values():
                    assert self.lane_of(raw) in busy, "it could be taken"

    @invariant()
    def held_partitions_stay_held(self) -> None:
        for state in self.asked:
            assert state.held

    @invariant()
    def what_is_parked_is_bounded(self) -> None:
        for state in self.states:
            assert 0 <= state.parked <= self.share + self.WORKERS

    @invariant()
    def blocked_ones_are_those_nobody_can_take(self) -> None:
        busy = set(map(self.lane_of, self.active.values()))
        for state in self.states:
            waiting = [
                raw
                for raw in self.arrived[state]
                if raw not in self.finished and raw not in self.active.values()
            ]
            blocked = self.lanes.blocked(state)
            assert blocked <= len(waiting)
            if state.held or isinstance(self.lanes, PartitionLanes):
                owned = ("t", state.partition) in busy
                assert blocked == (len(waiting) if state.held or owned else 0)

    def teardown(self) -> None:
        if not hasattr(self, "states"):
            return
        for state in [*self.asked]:
            self.lanes.let_go(state)  # type: ignore[union-attr]
        self.asked.clear()
        idle = 0
        while idle < self.WORKERS:
            idle = 0
            for worker in range(self.WORKERS):
                if worker in self.active:
                    self.finishes(worker)
                else:
                    self.took(worker, self.workers[worker].begin())
                idle += worker not in self.active
        for state in self.states:
            arrived = self.arrived[state]
            assert [raw for raw in arrived if raw not in self.finished] == []
            assert state.unfinished == state.parked == 0
            assert state.prefix() == (arrived[-1].offset() + 1 if arrived else None)


class Unordered(LanesMachine):
    def make_lanes(self, share: int) -> AnyLanes:
        return UnorderedLanes()

    def lane_of(self, raw: Record) -> Hashable:
        return raw


class Partition(LanesMachine):
    def make_lanes(self, share: int) -> AnyLanes:
        return PartitionLanes()

    def lane_of(self, raw: Record) -> Hashable:
        return ("t", raw.partition())


class Key(LanesMachine):
    def make_lanes(self, share: int) -> AnyLanes:
        return KeyedLanes(share=share)

    def lane_of(self, raw: Record) -> Hashable:
        return ("t", raw.partition(), raw.key())


class Function(LanesMachine):
    def make_lanes(self, share: int) -> AnyLanes:
        return KeyedLanes(share=share, per_partition=False)

    def lane_of(self, raw: Record) -> Hashable:
        return raw.key()


def cases(machines: Iterable[type[LanesMachine]]) -> Iterator[type]:
    for machine in machines:
        case = machine.TestCase
        case.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
        yield case


TestUnorderedMachine, TestPartitionMachine, TestKeyMachine, TestFunctionMachine = cases(
    [Unordered, Partition, Key, Function]
)
