"""What the batches of one batcher held, and why they left."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from trio_broadway_kafka._model._batch import Trigger

__all__ = ["SIZE_BOUNDS", "BatchSizes", "TriggerStatistics", "sum_of_triggers"]

SIZE_BOUNDS: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
"""Messages: upper bounds of `TriggerStatistics.buckets`. One more bucket holds the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerStatistics:
    """The batches of one batcher that left for the same reason.

    Attributes:
        trigger: as in `Batch.trigger`.
        batches: how many there were.
        messages: how many messages they held.
        buckets: how many of them held at most `SIZE_BOUNDS`, and more than the bound before;
            the last count is that of all others.
    """

    trigger: Trigger
    batches: int
    messages: int
    buckets: tuple[int, ...]


class BatchSizes:
    """Counts batches by what they held and why they left."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        # By trigger: batches, messages, and the buckets.
        self._of: dict[Trigger, tuple[list[int], list[int]]] = {}

    def add(self, trigger: Trigger, size: int) -> None:
        """A batch has ended."""
        found = self._of.get(trigger)
        if found is None:
            found = self._of[trigger] = ([0, 0], [0] * (len(SIZE_BOUNDS) + 1))
        counts, buckets = found
        counts[0] += 1
        counts[1] += size
        buckets[bisect_left(SIZE_BOUNDS, size)] += 1

    def statistics(self) -> tuple[TriggerStatistics, ...]:
        """Where it stands, by trigger."""
        return tuple(
            TriggerStatistics(
                trigger=trigger, batches=batches, messages=messages, buckets=tuple(buckets)
            )
            for trigger, ((batches, messages), buckets) in sorted(self._of.items())
        )


def sum_of_triggers(triggers: Iterable[TriggerStatistics]) -> tuple[TriggerStatistics, ...]:
    """One for each trigger, by its name."""
    found: dict[Trigger, TriggerStatistics] = {}
    for one in triggers:
        so_far = found.get(one.trigger)
        found[one.trigger] = (
            one
            if so_far is None
            else TriggerStatistics(
                trigger=one.trigger,
                batches=so_far.batches + one.batches,
                messages=so_far.messages + one.messages,
                buckets=tuple(map(sum, zip(so_far.buckets, one.buckets, strict=True))),
            )
        )
    return tuple(found[trigger] for trigger in sorted(found))
