"""What the caller has been told of: a command of its is meant for that, and nothing later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    ClientEvents,
    PartitionEnd,
    TopicPartition,
)

__all__ = ["Told"]


class Told:
    """Passes events on, and remembers the assignments they were about.

    One poll may end an assignment of a partition and begin another. A command that was given
    before its caller heard of that would hit the new one: a position of the old one would
    skip messages there.
    """

    def __init__(self, events: ClientEvents) -> None:
        self._events = events
        self._epochs: dict[TopicPartition, int] = {}

    def epochs_of(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The epochs that a caller means by these partitions; without those it has not."""
        known = self._epochs
        return {place: known[place] for place in partitions if place in known}

    # See `ClientEvents`.

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        for one in partitions:
            self._epochs[TopicPartition(one.topic, one.partition)] = one.epoch
        self._events.assigned(partitions)

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        self._events.revoking(partitions)

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        self._events.lost(partitions)

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        self._events.fetched(chunks, ends)

    def failed(self, error: BaseException) -> None:
        self._events.failed(error)
