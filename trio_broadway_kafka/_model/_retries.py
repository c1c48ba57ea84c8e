"""What waits for another attempt, by time. Pure."""

from __future__ import annotations

import heapq
import itertools
from typing import Any, NamedTuple

from trio_broadway_kafka._model._batch import Failed
from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = ["Retries", "TryAgain", "TryAgainTogether"]


class TryAgain(NamedTuple):
    """A failed message is to be tried again.

    Attributes:
        due: when, in seconds of trio's clock.
    """

    due: float


class TryAgainTogether(NamedTuple):
    """Failed messages of a batch are to be tried again, as a batch of their own.

    Attributes:
        due: when, in seconds of trio's clock.
        failed: the messages.
    """

    due: float
    failed: list[Failed]


class Retries:
    """What waits for another attempt, and until when; times are in seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PartitionOffsets, Any]] = []
        self._order = itertools.count()  # of what is due at the same time

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float | None:
        """When the first one is due, None if there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, due: float, partition: PartitionOffsets, item: Any) -> None:
        """Let `item`, of this assignment, wait until `due`."""
        heapq.heappush(self._heap, (due, next(self._order), partition, item))

    def due(self, now: float) -> list[Any]:
        """Take what is due, the earliest first."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[3])
        return found

    def of(self, partition: PartitionOffsets) -> list[Any]:
        """What waits of this assignment, in no order."""
        return [entry[3] for entry in self._heap if entry[2] is partition]

    def hasten(self, item: Any, now: float) -> None:
        """Let what waits be due now. Nothing changes if it does not wait (any more)."""
        for index, (due, order, partition, found) in enumerate(self._heap):
            if found is item:
                self._heap[index] = (min(due, now), order, partition, found)
                heapq.heapify(self._heap)
                return

    def drop(self, partition: PartitionOffsets) -> list[Any]:
        """Take what waits of this assignment."""
        dropped = [entry[3] for entry in self._heap if entry[2] is partition]
        if dropped:
            self._heap = [entry for entry in self._heap if entry[2] is not partition]
            heapq.heapify(self._heap)
        return dropped
