"""What is finished, and what may be committed."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests._records import arrive, assignment, receive, record
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import SKIPPED, SUCCEEDED, Segment


def finish(segment: Segment, offsets: Iterable[int], flag: int = SUCCEEDED) -> None:
    """Set the flags as a processor does, by the messages' offsets."""
    where = {segment.offset_of(index): index for index in range(len(segment))}
    for offset in offsets:
        segment.flags[where[offset]] = flag


def offsets_of(segments: Iterable[Segment]) -> set[int]:
    return {segment.offset_of(index) for segment in segments for index in range(len(segment))}


class TestTheFinishedPrefix:
    # "Commit 3" of these figures is the last message; Kafka's committed offset is the next.

    @pytest.mark.parametrize(
        ("succeeded", "failed", "prefix"),
        [
            ([], [], None),
            ([1], [], 1),
            ([3], [], None),
            ([1, 2, 3], [], 3),
            ([3, 2, 1], [], 3),
            (range(1, 28), range(28, 42), 41),
            (range(1, 101), [], 100),
            ([*range(1, 50), *range(51, 101)], [], 49),
        ],
    )
    def test_ends_where_the_first_message_is_not_finished(
        self, succeeded: Iterable[int], failed: Iterable[int], prefix: int | None
    ) -> None:
        state = assignment()
        known = arrive(state, range(1, 101))
        finish(known, succeeded)
        finish(known, failed, SKIPPED)
        assert state.prefix() == (None if prefix is None else prefix + 1)

    def test_goes_on_over_segments(self) -> None:
        state = assignment()
        first, second = arrive(state, range(10)), arrive(state, range(10, 20))
        finish(second, range(10, 15))
        assert state.prefix() is None
        finish(first, range(9))
        assert state.prefix() == 9
        finish(first, [9])
        assert state.prefix() == 15

    def test_is_over_the_offsets_that_were_delivered(self) -> None:
        """Compaction leaves gaps; a message that does not exist is not waited for."""
        state = assignment()
        segment = arrive(state, [3, 4, 9, 10, 17])
        finish(segment, [3, 4])
        assert state.prefix() == 5
        finish(segment, [9])
        assert state.prefix() == 10
        finish(segment, [17])
        assert state.prefix() == 10
        finish(segment, [10])
        assert state.prefix() == 18
        later = arrive(state, [30])
        assert state.prefix() == 18
        finish(later, [30])
        assert state.prefix() == 31

    def test_counts_nothing_that_was_received_but_not_added(self) -> None:
        state = assignment()
        first = arrive(state, [0, 1])
        second = receive(state, [2, 3])
        finish(first, [0, 1])
        finish(second, [2, 3])
        assert state.prefix() == 2
        state.add(second)
        assert state.prefix() == 4

    def test_is_committed_only_where_it_moves_forward(self) -> None:
        state = assignment(committed=7)
        segment = arrive(state, range(5, 10))
        assert state.to_commit is None
        finish(segment, [5, 6])
        assert state.prefix() == 7
        assert state.to_commit is None
        finish(segment, [7])
        assert state.to_commit == 8
        state.committed = 8
        assert state.to_commit is None

    def test_is_committed_where_nothing_was(self) -> None:
        state = assignment(committed=None)
        finish(arrive(state, [0]), [0])
        assert state.to_commit == 1

    def test_needs_the_real_offsets_of_a_segment_with_gaps(self) -> None:
        with pytest.raises(ValueError, match="real offsets"):
            Segment(assignment(), [record(1), record(3)], first=1, last=3)
        with pytest.raises(ValueError, match="real offsets"):
            Segment(assignment(), [record(1), record(3)], first=1, last=3, offsets=[1])


class TestThePartitionsEnd:
    def test_counts_beyond_control_records_once_all_is_finished(self) -> None:
        state = assignment()
        segment = arrive(state, range(10))
        state.reached_end(12)
        assert state.end == 12
        finish(segment, range(9))
        assert state.prefix() == 9
        finish(segment, [9])
        assert state.prefix() == 12
        assert state.to_commit == 12

    def test_counts_where_nothing_was_delivered_at_all(self) -> None:
        state = assignment(committed=3)
        state.reached_end(8)
        assert state.to_commit == 8

    def test_of_an_empty_partition_is_no_commit(self) -> None:
        state = assignment()
        state.reached_end(0)
        assert state.prefix() is None

    def test_does_not_count_while_something_received_was_not_added(self) -> None:
        state = assignment()
        segment = receive(state, range(10))
        state.reached_end(12)
        assert state.prefix() is None
        finish(segment, range(10))
        assert state.prefix() is None
        state.add(segment)
        assert state.prefix() == 12

    def test_does_not_count_for_what_arrived_after_it(self) -> None:
        state = assignment()
        finish(arrive(state, range(3)), range(3))
        state.reached_end(5)
        later = arrive(state, [5, 6])
        assert state.prefix() == 3
        finish(later, [5, 6])
        assert state.prefix() == 7

    def test_does_not_count_once_something_was_dropped(self) -> None:
        state = assignment()
        segment = arrive(state, range(3))
        state.drop(segment)
        state.reached_end(5)
        assert state.prefix() is None

    @pytest.mark.parametrize("taken", [0, 1])
    def test_does_not_count_after_a_truncation(self, taken: int) -> None:
        state = assignment()
        segment = arrive(state, range(3))
        state.reached_end(5)
        for _ in range(taken):
            next(segment.items)
        state.truncate(segment, 100)
        finish(segment, range(taken))
        assert state.prefix() == (taken or None)

    def test_that_was_on_its_way_as_messages_were_truncated_does_not_count(self) -> None:
        """It was reported before the client knew that it is to read those again."""
        state = assignment()
        segment = arrive(state, range(3))
        next(segment.items)
        finish(segment, [0])
        state.truncate(segment, 100)
        state.reached_end(5)
        assert state.prefix() == 1
        again = arrive(state, [1, 2])
        finish(again, [1, 2])
        assert state.prefix() == 3
        state.reached_end(5)
        assert state.prefix() == 5

    def test_shown_never_falls(self) -> None:
        state = assignment()
        state.end = 20
        state.reached_end(12)
        assert state.end == 20


class TestTruncation:
    def test_of_a_whole_segment_is_as_if_it_had_never_arrived(self) -> None:
        state = assignment()
        first, second = arrive(state, range(3), size=30), arrive(state, range(5, 9), size=40)
        state.truncate(second, 100)
        assert (state.received, state.position, state.unfinished) == (3, 5, 3)
        assert len(second) == second.untaken == second.size == 0
        finish(first, range(3))
        assert state.prefix() == 3
        again = arrive(state, [5, 6])
        finish(again, [5, 6])
        assert state.prefix() == 7
        assert (state.received, state.finished) == (5, 5)

    def test_keeps_what_was_taken(self) -> None:
        state = assignment()
        segment = arrive(state, [0, 2, 4, 6], size=40)
        taken = [next(segment.items) for _ in range(2)]
        state.truncate(segment, 100)
        assert [raw.offset() for raw, _ in taken] == [0, 2]
        assert list(segment.items) == []
        assert (len(segment), segment.last, segment.size) == (2, 2, 20)
        assert (state.received, state.position) == (2, 3)
        finish(segment, [0, 2])
        assert state.prefix() == 3

    def test_keeps_what_lies_before_something_taken(self) -> None:
        state = assignment()
        segment = arrive(state, range(5))
        first = next(segment.items)
        next(segment.items)
        segment.put_back([first])
        state.truncate(segment, 100)
        assert [raw.offset() for raw, _ in segment.items] == [0]
        assert (state.received, state.position) == (2, 2)

    def test_drops_no_more_than_it_was_asked_for(self) -> None:
        state = assignment()
        segment = arrive(state, range(10))
        next(segment.items)
        state.truncate(segment, 4)
        assert [raw.offset() for raw, _ in segment.items] == [1, 2, 3, 4, 5]
        assert (state.received, state.position) == (6, 6)

    def test_of_a_segment_that_is_taken_whole_leaves_its_first_records(self) -> None:
        state = assignment()
        records = [record(offset) for offset in range(5)]
        segment = Segment(state, records, first=0, last=4, whole=True)
        state.receive(segment)
        assert state.truncate(segment, 2) == 2
        assert segment.records == records[:3]
        assert segment.take_all() == (records[:3], 0)

    def test_before_the_segment_was_added_is_no_different(self) -> None:
        state = assignment()
        segment = receive(state, range(4))
        state.truncate(segment, 100)
        state.add(segment)
        assert (state.prefix(), state.received, state.position) == (None, 0, 0)
        finish(arrive(state, range(4)), range(4))
        assert state.prefix() == 4

    def test_is_refused_where_something_is_left_behind(self) -> None:
        """It would be committed over what is to be read again."""
        state = assignment()
        first, second = arrive(state, range(2)), arrive(state, range(5, 7))
        next(second.items)
        assert state.truncate(first, 100) == 0
        assert (state.received, state.position) == (4, 7)
        assert state.truncate(second, 100) == 1
        assert state.truncate(first, 100) == 0
        finish(second, [5])
        assert state.prefix() is None

    def test_goes_back_over_segments_last_first(self) -> None:
        state = assignment()
        first, second = arrive(state, range(2)), arrive(state, range(5, 7))
        assert state.truncate(second, 100) == 2
        assert state.truncate(first, 1) == 1
        assert state.truncate(second, 100) == 0
        assert (state.received, state.position) == (1, 1)

    def test_of_nothing_changes_nothing(self) -> None:
        state = assignment()
        segment = arrive(state, range(2))
        list(segment.items)
        state.reached_end(4)
        state.truncate(segment, 100)
        finish(segment, range(2))
        assert (state.received, state.position, state.prefix()) == (2, 2, 4)


class TestTaking:
    def test_is_shared_by_all_who_iterate(self) -> None:
        segment = arrive(assignment(), range(4))
        mine, yours = iter(segment.items), iter(segment.items)
        taken = [next(mine), next(yours), next(mine), next(yours)]
        assert [(raw.offset(), index) for raw, index in taken] == [(n, n) for n in range(4)]
        assert segment.untaken == 0

    def test_again_what_was_put_back_comes_before_the_rest(self) -> None:
        segment = arrive(assignment(), range(5))
        zero, one, two = (next(segment.items) for _ in range(3))
        segment.put_back([two])
        assert segment.untaken == 3
        segment.put_back([zero, one])
        assert segment.untaken == 5
        assert [index for _, index in segment.items] == [0, 1, 2, 3, 4]

    def test_ends_for_who_holds_the_iterator_as_something_is_put_back(self) -> None:
        segment = arrive(assignment(), range(5))
        held = iter(segment.items)
        segment.put_back([next(held)])
        assert list(held) == []
        assert segment.untaken == 5

    def test_ends_for_all_when_the_rest_is_dropped(self) -> None:
        state = assignment()
        segment = arrive(state, range(5))
        held = iter(segment.items)
        next(held)
        state.drop(segment)
        assert list(held) == []
        assert (state.received, state.unfinished, segment.unfinished) == (5, 1, 5)

    @pytest.mark.parametrize("put_back", [False, True])
    def test_the_last_message_lets_the_list_go(self, put_back: bool) -> None:
        state = assignment()
        messages = [record(offset) for offset in range(100)]
        watched = [weakref.ref(message) for message in messages]
        segment = Segment(state, messages, first=0, last=99)
        state.receive(segment)
        state.add(segment)
        del messages
        gc.collect()
        assert all(watch() is not None for watch in watched)
        held = iter(segment.items)  # a processor that is suspended holds it
        last = next(held)
        if put_back:
            segment.put_back([last])
            last = next(segment.items)
        last = deque(segment.items, maxlen=1).pop()
        segment.exhaust()
        del held
        assert [watch() for watch in watched if watch() is not None] == [last[0]]
        del last
        assert [watch() for watch in watched if watch() is not None] == []
        assert len(segment) == 100


class TestWhatIsCounted:
    def test_while_some_are_finished(self) -> None:
        state = assignment()
        segment = arrive(state, range(10), size=1000)
        assert (state.finished, state.skipped, state.unfinished) == (0, 0, 10)
        finish(segment, [0, 1, 5])
        finish(segment, [2], SKIPPED)
        assert (state.finished, state.skipped, state.unfinished) == (4, 1, 6)
        assert state.finished_behind_gap == 1
        assert state.highest_finished == 5
        finish(segment, range(3, 10))
        assert state.prefix() == 10
        assert (state.finished, state.skipped, state.unfinished) == (10, 1, 0)
        assert (state.finished_behind_gap, state.highest_finished) == (0, 9)

    def test_behind_a_gap_over_segments(self) -> None:
        state = assignment()
        first, second = arrive(state, range(10)), arrive(state, range(10, 20))
        assert state.finished_behind_gap == 0
        finish(second, [15])
        assert state.finished_behind_gap == 1
        finish(first, [0, 1, 9])
        assert state.finished_behind_gap == 2
        finish(first, range(2, 9))
        assert (state.prefix(), state.finished_behind_gap) == (10, 1)

    def test_the_highest_finished_is_a_message(self) -> None:
        state = assignment()
        assert state.highest_finished is None
        state.reached_end(3)
        assert state.prefix() == 3
        assert state.highest_finished is None
        finish(arrive(state, [3, 4]), [3, 4])
        state.reached_end(7)
        assert state.prefix() == 7
        assert state.highest_finished == 4
        finish(arrive(state, [7, 8, 9]), [8], SKIPPED)
        assert state.highest_finished == 8

    def test_bytes_of_a_segment_in_whole_until_all_are_taken(self) -> None:
        state = assignment()
        first, second = arrive(state, range(10), size=1000), arrive(state, [10], size=7)
        next(first.items)
        finish(first, [0])
        assert state.unfinished_bytes == 1007
        for _ in first.items:
            pass
        assert state.unfinished_bytes == 907
        finish(first, range(5))
        assert state.unfinished_bytes == 507
        finish(first, range(10))
        assert state.unfinished_bytes == 7
        finish(second, [10])
        assert state.unfinished_bytes == 0

    def test_the_oldest_is_that_of_the_first_unfinished(self) -> None:
        state = assignment()
        assert state.oldest_unfinished_since is None
        first, second = arrive(state, range(3), at=5.0), arrive(state, range(3, 6), at=8.0)
        finish(second, range(3, 6))
        assert state.oldest_unfinished_since == 5.0
        finish(first, range(3))
        assert state.oldest_unfinished_since is None
        arrive(state, [6], at=9.0)
        assert state.oldest_unfinished_since == 9.0

    def test_what_was_dropped_is_neither_here_nor_finished(self) -> None:
        state = assignment()
        segment = arrive(state, range(10))
        next(segment.items)
        state.drop(segment)
        state.note_dropped(0)
        assert (state.received, state.finished, state.unfinished) == (10, 0, 1)
        finish(segment, [0])
        assert (state.prefix(), state.finished, state.unfinished) == (1, 1, 0)


class OffsetsMachine(RuleBasedStateMachine):
    """A partition against a plain model: which of its offsets are received and finished."""

    @initialize(
        gaps=st.lists(st.sampled_from([1, 1, 1, 2, 5]), min_size=1, max_size=30),
        first=st.integers(0, 3),
        tail=st.integers(0, 3),
    )
    def begin(self, gaps: list[int], first: int, tail: int) -> None:
        self.log = [first]
        for gap in gaps:
            self.log.append(self.log[-1] + gap)
        self.log_end = self.log[-1] + 1 + tail
        self.state = PartitionOffsets("t", 0, 1)
        self.next = 0  # index in the log of what the client reads next
        self.pending: list[Segment] = []
        self.added: list[Segment] = []
        self.taken: list[tuple[Segment, object, int]] = []
        # The model.
        self.received: list[int] = []
        self.known: list[int] = []  # received and added
        self.finished: dict[int, int] = {}
        self.dropped: set[int] = set()
        self.read_to = -1
        self.truncated = False
        self.last_prefix = -1

    @property
    def segments(self) -> list[Segment]:
        return [*self.added, *self.pending]

    @rule(count=st.integers(1, 8))
    def receive(self, count: int) -> None:
        offsets = self.log[self.next : self.next + count]
        if offsets:
            self.pending.append(receive(self.state, offsets, size=10 * len(offsets)))
            self.received += offsets
            self.next += len(offsets)
            self.truncated = False
            assert self.state.position == offsets[-1] + 1

    @rule()
    def add(self) -> None:
        if self.pending:
            segment = self.pending.pop(0)
            self.state.add(segment)
            self.added.append(segment)

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        open_ones = [segment for segment in self.segments if segment.untaken]
        if open_ones:
            segment = data.draw(st.sampled_from(open_ones))
            before = segment.untaken
            raw, index = next(segment.items)
            assert raw.offset() == segment.offset_of(index)
            assert segment.untaken == before - 1
            self.taken.append((segment, raw, index))

    @rule(data=st.data(), flag=st.sampled_from([SUCCEEDED, SKIPPED]))
    def finish(self, data: st.DataObject, flag: int) -> None:
        if self.taken:
            segment, raw, index = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            segment.flags[index] = flag
            assert raw.offset() not in self.finished  # type: ignore[attr-defined]
            self.finished[raw.offset()] = flag  # type: ignore[attr-defined]

    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        if self.taken:
            segment, raw, index = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            if segment.offset_of(index) in self.dropped:
                self.taken.append((segment, raw, index))
            else:
                segment.put_back([(raw, index)])
                assert next(iter(segment.items)) == (raw, index)
                segment.put_back([(raw, index)])

    @precondition(lambda self: not self.dropped)
    @rule(at_most=st.sampled_from([0, 1, 3, 100]))
    def truncate(self, at_most: int) -> None:
        for segment in reversed(self.segments):
            if len(segment) == 0:
                continue
            rest = list(segment.items)
            segment.put_back(rest)
            untaken = {raw.offset() for raw, _ in rest}
            gone = []
            while self.received and self.received[-1] in untaken:
                if len(gone) == at_most or self.received[-1] < segment.first:
                    break
                gone.append(self.received.pop())
            size = segment.size
            assert self.state.truncate(segment, at_most) == len(gone)
            if gone:
                self.next -= len(gone)
                self.read_to = -1
                self.truncated = True
                assert self.state.position <= self.log[self.next]
                assert self.next == 0 or self.state.position > self.log[self.next - 1]
                assert segment.size < size
            break

    @rule(data=st.data())
    def truncate_one_before_the_last(self, data: st.DataObject) -> None:
        left = [segment for segment in self.segments if len(segment)]
        if len(left) > 1:
            assert self.state.truncate(data.draw(st.sampled_from(left[:-1])), 100) == 0

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.segments:
            segment = data.draw(st.sampled_from(self.segments))
            rest = list(segment.items)
            segment.put_back(rest)
            self.state.drop(segment)
            self.dropped |= {raw.offset() for raw, _ in rest}
            assert segment.untaken == 0

    @rule()
    def reach_end(self) -> None:
        # Reported truly, or so late that a truncation has come between.
        if self.next == len(self.log) or self.truncated:
            self.state.reached_end(self.log_end)
            if not self.truncated:
                self.read_to = self.log_end

    @invariant()
    def prefix_is_exact(self) -> None:
        expected = None
        complete = not self.pending
        known = set(self.received) - offsets_of(self.pending)
        for offset in sorted(known):
            if offset not in self.finished:
                complete = False
                break
            expected = offset + 1
        if complete and self.read_to > (expected or 0):
            expected = self.read_to
        # What was committed of an end stays so, whatever arrives behind it.
        if expected is None or expected < self.last_prefix:
            expected = self.last_prefix if self.last_prefix >= 0 else None
        assert self.state.prefix() == expected
        self.last_prefix = -1 if expected is None else expected

    @invariant()
    def counts_are_exact(self) -> None:
        known = offsets_of(self.added)
        finished = [offset for offset in self.finished if offset in known]
        prefix = -1
        for offset in sorted(known):
            if offset not in self.finished:
                break
            prefix = offset
        state = self.state
        assert state.received == len(self.received)
        assert state.finished == len(finished)
        assert state.skipped == sum(self.finished[offset] == SKIPPED for offset in finished)
        assert state.unfinished == len(self.received) - len(self.dropped) - len(finished)
        assert state.highest_finished == max(finished, default=None)
        assert state.finished_behind_gap == sum(offset > prefix for offset in finished)


TestOffsetsMachine = OffsetsMachine.TestCase
TestOffsetsMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_what_is_to_be_read_again_starts_at_the_first_of_it() -> None:
    state = PartitionOffsets("t", 0, 1)
    state.refetch_from(5)
    state.refetch_from(10)
    assert state.position == 5
