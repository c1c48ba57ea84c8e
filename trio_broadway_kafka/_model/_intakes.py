"""The intake where each partition has lanes of its own."""

from __future__ import annotations

from trio_broadway_kafka._model._lanes import Intake
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment

__all__ = ["PartitionIntakes"]


class PartitionIntakes:
    """Passes everything on to the partition's own intake (see `Intake`).

    Attributes:
        of: the intake of each partition that may be fetched.
    """

    def __init__(self) -> None:
        self.of: dict[PartitionOffsets, Intake] = {}

    def add(self, segment: Segment) -> None:
        self.of[segment.partition].add(segment)

    def takes_whole(self, partition: PartitionOffsets) -> bool:
        return self.of[partition].takes_whole(partition)

    def by_key(self, partition: PartitionOffsets) -> bool:
        return self.of[partition].by_key(partition)

    def is_empty(self) -> bool:
        return all(intake.is_empty() for intake in self.of.values())

    def blocked(self, partition: PartitionOffsets) -> int:
        intake = self.of.get(partition)
        return 0 if intake is None else intake.blocked(partition)

    def truncate(self, partition: PartitionOffsets, keep: int) -> None:
        if (intake := self.of.get(partition)) is not None:
            intake.truncate(partition, keep)

    def hold(self, partition: PartitionOffsets) -> None:
        self.of[partition].hold(partition)

    def let_go(self, partition: PartitionOffsets) -> None:
        self.of[partition].let_go(partition)
