"""What one client of the fake broker reads: positions, pauses, and the open fetch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    ClientEvents,
    OffsetCommit,
    PartitionEnd,
    RawMessage,
    TopicPartition,
)
from trio_broadway_kafka.testing._fake_cluster import Cluster
from trio_broadway_kafka.testing._fake_log import PartitionLog

__all__ = ["Reader", "share_out"]


@dataclass(slots=True, eq=False)
class _Live:
    """A partition of a live epoch.

    Attributes:
        position: where delivery goes on.
        end_reported: the end that was reported last, None after a seek or resume.
    """

    assigned: AssignedPartition
    log: PartitionLog
    position: int
    paused: bool = False
    end_reported: int | None = None

    def available(self) -> int:
        return 0 if self.paused else self.log.available(self.position)

    def is_at_new_end(self) -> bool:
        return (
            not self.paused
            and self.end_reported != self.log.end
            and not self.log.available(self.position)
        )


class Reader:
    """The partitions that a client owns, and how far each has been delivered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._live: dict[TopicPartition, _Live] = {}
        # A fetch is reserved in the caller's moment and opened between two polls.
        self._reserved = False
        self._count = 0
        self._has_waited = False
        self._seen_at: float | None = None
        self._turn = 0
        self._failed = False

    # Epochs

    def assign(self, partitions: Sequence[AssignedPartition]) -> None:
        """Read these from their start, the committed offset, or the first record."""
        for assigned in partitions:
            address = TopicPartition(assigned.topic, assigned.partition)
            position = assigned.committed if assigned.start is None else assigned.start
            self._live[address] = _Live(
                assigned, self._cluster.log(address), position=position or 0
            )

    def assigned(self, partitions: Iterable[TopicPartition]) -> list[AssignedPartition]:
        """These partitions as they were assigned."""
        return [self._live[partition].assigned for partition in partitions]

    def end_epochs(self, partitions: Iterable[TopicPartition]) -> list[AssignedPartition]:
        """Read these no longer; return those that were live."""
        return [
            self._live.pop(partition).assigned
            for partition in list(partitions)
            if partition in self._live
        ]

    def live(self, offsets: Sequence[OffsetCommit]) -> list[OffsetCommit]:
        """Those of `offsets` whose epoch has not ended."""
        return [
            commit
            for commit in offsets
            if (live := self._live.get(TopicPartition(commit.topic, commit.partition)))
            and live.assigned.epoch == commit.epoch
        ]

    # Asking

    def reserve(self, count: int) -> None:
        """Claim the one fetch that may be open."""
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        if self._reserved:
            raise trio.BusyResourceError("a fetch is open: wait until it is answered")
        self._reserved = True

    def open(self, count: int) -> None:
        """Let the reserved fetch be answered."""
        self._count = count
        self._has_waited = False

    @property
    def has_open_fetch(self) -> bool:
        return self._count > 0

    # What is done later is meant for the assignments of now: one poll may end one of them and
    # begin another, and a position of the old one would skip messages there.

    def pausing(self, partitions: Iterable[TopicPartition]) -> Callable[[], None]:
        """Deliver neither messages nor ends of these, from when that is called on."""
        meant = [self._live[partition] for partition in partitions if partition in self._live]

        def pause() -> None:
            for live in meant:
                live.paused = True

        return pause

    def resuming(self, positions: Mapping[TopicPartition, int | None]) -> Callable[[], None]:
        """Deliver these again. As with Kafka, an end that still holds is reported again."""
        meant = [
            (self._live[partition], offset)
            for partition, offset in positions.items()
            if partition in self._live
        ]

        def resume() -> None:
            for live, offset in meant:
                live.paused = False
                live.end_reported = None
                if offset is not None:
                    live.position = offset

        return resume

    # Delivering

    def arrival(self) -> float:
        """When what there is to deliver arrives; inf if there is nothing."""
        if self._seen_at is None:
            return math.inf
        return self._cluster.arrival("fetch", self._seen_at)

    def deliver(self, events: ClientEvents) -> bool:
        """Report what has arrived for the open fetch; tell whether that answered it."""
        if not self.has_open_fetch or self._failed:
            return False
        waiting = {address: live.available() for address, live in self._live.items()}
        if not any(waiting.values()) and not self._new_ends():
            self._seen_at = None
            self._has_waited = True
            return False
        if self._seen_at is None:
            self._seen_at = trio.current_time()
        if self.arrival() > trio.current_time():
            return False
        self._seen_at = None
        if failure := self._cluster.failures.next("fetch"):
            # librdkafka tries again by itself what may be tried again.
            if not failure.retriable:
                self._failed = True
                events.failed(failure)
            elif math.isinf(self._cluster.poll_interval):
                self._seen_at = trio.current_time()  # no poll will end and be the next try
            return False
        chunks = self._take_chunks(waiting)
        # The end of a partition stands in the consumer's queue behind its messages: it takes
        # a place, and a poll that has waited returns with the messages, before it is there.
        full = sum(len(chunk.messages) for chunk in chunks) >= self._count
        ends = [] if full or (chunks and self._has_waited) else self._take_ends()
        self._has_waited = True
        if chunks:
            self._count = 0
            self._reserved = False
        events.fetched(chunks, ends)
        return bool(chunks)

    def _take_chunks(self, waiting: Mapping[TopicPartition, int]) -> list[Chunk]:
        addresses = list(waiting)
        # Begin with another partition each time, or the last ones would starve.
        start = self._turn % len(addresses)
        self._turn += 1
        rotated = addresses[start:] + addresses[:start]
        counts = share_out(self._count, [waiting[address] for address in rotated])
        chunks: list[Chunk] = []
        for address, count in zip(rotated, counts, strict=True):
            if not count:
                continue
            live = self._live[address]
            messages: list[RawMessage] = [*live.log.read(live.position, count)]
            live.position = messages[-1].offset() + 1
            chunks.append(
                Chunk(
                    address.topic,
                    address.partition,
                    live.assigned.epoch,
                    messages,
                    size=sum(len(message.value() or b"") for message in messages),
                    end=live.log.end,
                )
            )
        return chunks

    def _new_ends(self) -> list[_Live]:
        return [live for live in self._live.values() if live.is_at_new_end()]

    def _take_ends(self) -> list[PartitionEnd]:
        ends: list[PartitionEnd] = []
        for live in self._new_ends():
            live.end_reported = live.log.end
            assigned = live.assigned
            ends.append(
                PartitionEnd(assigned.topic, assigned.partition, assigned.epoch, live.log.end)
            )
        return ends


def share_out(count: int, waiting: Sequence[int]) -> list[int]:
    """How many of each to take, up to `count` in all: as evenly as there is."""
    shares = [0] * len(waiting)
    while count:
        hungry = [index for index, most in enumerate(waiting) if shares[index] < most]
        if not hungry:
            break
        portion = max(1, count // len(hungry))
        for index in hungry:
            taken = min(portion, waiting[index] - shares[index], count)
            shares[index] += taken
            count -= taken
    return shares
