"""What is finished before it arrives: passed over, told on, and kept when it is read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings, strategies as st

from tests._records import record
from trio_broadway_kafka._model._ahead import Ahead
from trio_broadway_kafka._model._offset_map import decode
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment

ID = "topic-1"


def state_with(committed: int | None = None) -> PartitionOffsets:
    return PartitionOffsets("t", 0, 1, committed, None, ID)


def deliver(state: PartitionOffsets, offsets: Sequence[int]) -> list[int]:
    """Take in what arrived, as the source does. Returns what is to be handled."""
    to_handle: list[int] = []
    for start, stop, is_finished in [*state.ahead.split(offsets)]:
        part = offsets[start:stop]
        segment = Segment(
            state,
            [record(offset) for offset in part],
            first=part[0],
            last=part[-1],
            offsets=part,
        )
        state.receive(segment)
        state.add(segment)
        if is_finished:
            segment.pass_over()
        else:
            to_handle += part
    return to_handle


def finish(state: PartitionOffsets, offsets: Iterable[int]) -> None:
    wanted = set(offsets)
    for segment in state._segments:
        for index in range(len(segment)):
            if segment.offset_of(index) in wanted and not segment.flags[index]:
                segment.flags[index] = SUCCEEDED


def told(state: PartitionOffsets) -> tuple[int, set[int]]:
    """What the next commit says: its offset, and what is finished beyond."""
    found = state.next_commit()
    assert found is not None
    offset, text = found
    runs = decode(text, offset, ID) if text else []
    return offset, {o for first, behind in runs for o in range(first, behind)}


class TestSplit:
    @pytest.mark.parametrize(
        ("runs", "offsets", "parts"),
        [
            ([], [1, 2], [(0, 2, False)]),
            ([(1, 3)], [1, 2], [(0, 2, True)]),
            ([(2, 3)], [1, 2, 3], [(0, 1, False), (1, 2, True), (2, 3, False)]),
            ([(0, 2), (5, 9)], [1, 5, 9], [(0, 2, True), (2, 3, False)]),
            ([(2, 4)], [1, 4, 5], [(0, 3, False)]),
            ([(7, 9)], [1, 2], [(0, 2, False)]),
        ],
    )
    def test_parts_what_arrived_by_whether_it_is_finished(
        self,
        runs: list[tuple[int, int]],
        offsets: list[int],
        parts: list[tuple[int, int, bool]],
    ) -> None:
        ahead = Ahead(ID)
        ahead.runs = runs
        found = [*ahead.split(offsets)]
        merged: list[tuple[int, int, bool]] = []
        for part in found:  # neighbours of a kind are one
            if merged and merged[-1][2] == part[2]:
                merged[-1] = (merged[-1][0], part[1], part[2])
            else:
                merged.append(part)
        assert merged == parts
        assert [index for start, stop, _ in found for index in range(start, stop)] == [
            *range(len(offsets))
        ]

    def test_what_has_arrived_is_forgotten(self) -> None:
        ahead = Ahead(ID)
        ahead.runs = [(1, 3), (5, 9), (11, 12)]
        ahead.arrived(7)
        assert ahead.runs == [(7, 9), (11, 12)]
        ahead.arrived(12)
        assert ahead.runs == []


class TestTheNextCommit:
    def test_is_none_where_neither_offset_nor_map_is_news(self) -> None:
        state = state_with(committed=0)
        deliver(state, range(5))
        assert state.next_commit() is None
        finish(state, [2])
        assert told(state) == (0, {2})
        offset, text = state.next_commit() or (0, "")
        state.note_committed(offset, text)
        assert state.next_commit() is None
        finish(state, [0])
        assert told(state) == (1, {2})

    def test_is_the_first_offset_of_a_group_that_has_none(self) -> None:
        state = state_with()
        deliver(state, range(7, 12))
        assert state.next_commit() is None
        finish(state, [9])
        assert told(state) == (7, {9})

    def test_has_no_map_where_the_topics_id_is_not_known(self) -> None:
        state = PartitionOffsets("t", 0, 1, 0)
        deliver(state, range(5))
        finish(state, [2])
        assert state.next_commit() is None
        finish(state, [0])
        assert state.next_commit() == (1, "")

    def test_of_who_takes_over_tells_on_what_has_not_arrived(self) -> None:
        before = state_with(committed=0)
        deliver(before, range(10))
        finish(before, [3, 4, 8])
        offset, text = before.next_commit() or (0, "")
        state = state_with(committed=offset)
        assert state.ahead.read(text, offset) == 3
        assert state.next_commit() is None, "nothing of it is news"
        assert deliver(state, range(4)) == [0, 1, 2]
        finish(state, [0])
        assert told(state) == (1, {3, 4, 8})


class TestRewind:
    def test_is_to_the_first_unfinished_message_and_keeps_what_is_finished(self) -> None:
        state = state_with(committed=0)
        deliver(state, range(10))
        finish(state, [0, 1, 4, 5, 9])
        assert state.rewind() == 2
        assert (state.position, state.unfinished, state.finished) == (2, 0, 5)
        assert told(state) == (2, {4, 5, 9})
        assert deliver(state, range(2, 12)) == [2, 3, 6, 7, 8, 10, 11]
        finish(state, range(2, 12))
        assert told(state) == (12, set())
        assert state.succeeded == 12

    def test_of_nothing_is_to_where_reading_goes_on(self) -> None:
        state = state_with(committed=0)
        deliver(state, range(3))
        finish(state, range(3))
        assert state.rewind() == 3
        assert deliver(state, range(3, 5)) == [3, 4]

    @given(st.data())
    @settings(max_examples=200)
    def test_at_any_moment_loses_nothing_and_repeats_nothing(self, data: st.DataObject) -> None:
        steps = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=30))
        log = [sum(steps[: index + 1]) for index in range(len(steps))]
        state = state_with(committed=0)
        at = 0  # the next to be delivered
        here: list[int] = []
        finished: set[int] = set()
        for _ in range(data.draw(st.integers(1, 12))):
            match data.draw(st.sampled_from(["deliver", "finish", "rewind", "commit", "move"])):
                case "deliver" if at < len(log):
                    stop = data.draw(st.integers(at + 1, len(log)))
                    new = deliver(state, log[at:stop])
                    assert not finished.intersection(new), "handled again"
                    here += new
                    at = stop
                case "finish" if here:
                    done = data.draw(st.sets(st.sampled_from(here)))
                    finish(state, done)
                    finished |= done
                    here = [offset for offset in here if offset not in done]
                case "rewind":
                    to = state.rewind()
                    assert all(offset >= to for offset in here), "lost"
                    at = next((i for i, o in enumerate(log) if o >= to), len(log))
                    here = []
                case "commit" if (new_commit := state.next_commit()) is not None:
                    state.note_committed(*new_commit)
                case "move":  # to another owner, who knows what was committed
                    if (last := state.next_commit()) is None:
                        continue
                    state = state_with(committed=last[0])
                    if last[1]:
                        state.ahead.read(last[1], last[0])
                    at = next((i for i, o in enumerate(log) if o >= last[0]), len(log))
                    here = []
        # In the end each is handled once.
        new = deliver(state, log[at:]) if at < len(log) else []
        assert not finished.intersection(new)
        finish(state, [*here, *new])
        finished.update(here, new)
        assert finished == set(log)
        state.reached_end(log[-1] + 1)
        assert (state.prefix() or state.committed) == log[-1] + 1
