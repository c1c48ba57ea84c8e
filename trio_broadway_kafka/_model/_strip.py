"""A partition between what may be committed and what has arrived, as a strip of cells."""

from __future__ import annotations

from dataclasses import dataclass

from trio_broadway_kafka._model._offset_map import finished_runs
from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = ["Strip", "strip_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """What is finished between two offsets.

    Attributes:
        first: the offset below which all is finished.
        behind: the offset after the last message that has arrived.
        finished: of that many parts of equal length, how much of each is finished, from 0
            to 1; empty if the two offsets are the same.
    """

    first: int
    behind: int
    finished: tuple[float, ...]


def strip_of(state: PartitionOffsets, cells: int) -> Strip:
    """The strip of one assignment, in at most so many cells."""
    first = state.reached
    behind = max(state.read_to, first)
    span = behind - first
    count = min(cells, span)
    if not count:
        return Strip(first=first, behind=behind, finished=())
    finished = [0.0] * count
    runs = finished_runs(first, state._segments, state.ahead.runs)
    for start, stop in runs:
        # In cells, from where to where the run reaches.
        left = (max(start, first) - first) * count / span
        right = (min(stop, behind) - first) * count / span
        for cell in range(int(left), min(count, int(right) + 1)):
            finished[cell] += max(0.0, min(right, cell + 1) - max(left, cell))
    shares = tuple(round(min(share, 1.0), 3) for share in finished)
    return Strip(first=first, behind=behind, finished=shares)
