"""What an assignment commits that starts elsewhere than at the committed offset."""

from __future__ import annotations

import pytest

from tests._records import arrive
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import SUCCEEDED


def started(committed: int | None, start: int) -> PartitionOffsets:
    return PartitionOffsets("t", 0, 1, committed, start)


@pytest.mark.parametrize("committed", [None, 3, 100])
def test_the_start_is_committed_before_anything_is_finished(committed: int | None) -> None:
    state = started(committed, 10)
    assert state.to_commit == 10
    state.note_committed(10)
    assert (state.committed, state.to_commit) == (10, None)


def test_a_start_at_the_committed_offset_has_nothing_to_commit() -> None:
    assert started(10, 10).to_commit is None


def test_what_is_finished_by_the_first_commit_is_in_it() -> None:
    state = started(100, 10)
    segment = arrive(state, [10, 11, 12])
    segment.flags[:2] = bytes((SUCCEEDED, SUCCEEDED))
    assert state.to_commit == 12
    state.note_committed(12)
    assert (state.committed, state.to_commit) == (12, None)


def test_after_the_first_commit_offsets_never_go_back() -> None:
    state = started(100, 10)
    state.note_committed(10)
    segment = arrive(state, [10, 11])
    segment.flags[0] = SUCCEEDED
    state.note_committed(11)
    state.note_committed(10)
    assert (state.committed, state.to_commit) == (11, None)


@pytest.mark.parametrize(("committed", "start"), [(100, 10), (10, 100), (None, 10)])
def test_what_was_committed_before_counts_no_more(committed: int | None, start: int) -> None:
    state = started(committed, start)
    state.end = 150
    assert (state.reached, state.lag) == (start, 150 - start)
    state.note_committed(start)
    assert (state.committed, state.reached, state.lag) == (start, start, 150 - start)


def test_until_the_first_commit_the_lag_counts_from_the_start() -> None:
    state = started(100, 10)
    arrive(state, [10, 11])
    state.end = 150
    assert (state.committed, state.lag) == (100, 140)
