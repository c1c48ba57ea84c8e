"""What waits for another attempt, by time, and what the lanes hold meanwhile."""

from __future__ import annotations

import pytest

from tests._records import arrive, assignment
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._retries import Retries


def test_what_is_due_comes_by_time_and_then_in_order() -> None:
    retries, state = Retries(), assignment()
    for due, item in [(3, "d"), (1, "a"), (2, "b"), (2, "c")]:
        retries.add(due, state, item)
    assert (retries.next_due, len(retries)) == (1, 4)
    assert retries.due(0.9) == []
    assert retries.due(2) == ["a", "b", "c"]
    assert (retries.next_due, len(retries)) == (3, 1)


def test_what_waits_of_an_assignment_is_dropped_with_it() -> None:
    retries, state, other = Retries(), assignment(0), assignment(1)
    retries.add(1, state, "a")
    retries.add(2, other, "b")
    retries.add(3, state, "c")
    assert sorted(retries.drop(state)) == ["a", "c"]
    assert retries.due(10) == ["b"]
    assert retries.next_due is None


def test_what_waits_unordered_counts_as_blocked() -> None:
    lanes, state = UnorderedLanes(), assignment()
    segment = arrive(state, [0, 1], lanes)
    raw, index = next(segment.items)
    lanes.wait((segment, raw, index), 5)
    assert lanes.blocked(state) == 1
    assert not lanes.try_again(4.9)
    assert lanes.try_again(5)
    assert lanes.blocked(state) == 0
    assert [*lanes.waiting] == [(segment, raw, index)]


@pytest.mark.parametrize("due", [False, True])
def test_a_partition_that_is_dropped_no_longer_waits(due: bool) -> None:
    for lanes in (UnorderedLanes(), PartitionLanes()):
        state = assignment()
        arrive(state, [0, 1, 2], lanes)
        segment = lanes.acquire()
        assert segment is not None
        raw, index = next(segment.items)
        lanes.wait((segment, raw, index), 5)
        lanes.release(segment)
        if due:
            lanes.try_again(5)
        lanes.drop(state)
        assert not lanes.retries
        assert not lanes.waiting
        assert state.unfinished == state.parked == 0
        later = assignment()
        arrive(later, [0], lanes)
        assert lanes.acquire() is not None
