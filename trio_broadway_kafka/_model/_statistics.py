"""What `Pipeline.statistics` returns: plain frozen values, taken at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = [
    "BatcherStatistics",
    "Counts",
    "PartitionStatistics",
    "PipelineStatistics",
    "pipeline_statistics",
    "sum_of_batchers",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatistics:
    """One assigned partition.

    Attributes:
        topic: its topic.
        partition: its number.
        epoch: names this assignment of it.
        position: offset after the last message that arrived, None before the first.
        committed: the group's committed offset as far as known.
        highest_finished: offset of the last finished message, None if there is none.
        end: the partition's end as far as known; it is learnt from fetches.
        lag: offsets from `committed` to `end`, None while unknown: the number that lag tools
            show. Without a committed offset, and until the first commit after a
            ``start_from``, from where reading started.
        in_flight: messages here and not finished.
        oldest_unacked_s: seconds since the first unfinished message arrived (with those
            it arrived together with), None if all are finished.
        paused: why it is paused: "user", "policy" (by a `PausePartition`), "share" (its
            blocked messages hold their share) or "entering" (its own stages are not there
            yet); empty while it is not.
    """

    topic: str
    partition: int
    epoch: int
    position: int | None
    committed: int | None
    highest_finished: int | None
    end: int | None
    lag: int | None
    in_flight: int
    oldest_unacked_s: float | None
    paused: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStatistics:
    """One batcher.

    Attributes:
        name: its name.
        open_batches: batches being filled.
        pending: messages in batches whose handler has not started.
        delivered: messages of batches whose handler has ended, well or not.
    """

    name: str
    open_batches: int
    pending: int
    delivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatistics:
    """The pipeline since it was opened, and its assigned partitions.

    Attributes:
        received: messages that arrived.
        succeeded: messages whose handler returned.
        failed: times a handler failed.
        skipped: messages that failed and were acknowledged (see `Skip`).
        dead_lettered: messages that failed and are in a dead-letter topic (see `DeadLetter`).
        retried: times a failed message was to be tried again (see `Retry`).
        in_flight: messages here and not finished.
        in_flight_bytes: bytes of values held.
        busy: handlers running.
        queued: messages here that have not started.
        partitions: the assigned partitions, by topic and number.
        batchers: the batchers, in the order in which they were given. With stages of their
            own for each partition, those of one name are counted together.
    """

    received: int
    succeeded: int
    failed: int
    skipped: int
    dead_lettered: int
    retried: int
    in_flight: int
    in_flight_bytes: int
    busy: int
    queued: int
    partitions: tuple[PartitionStatistics, ...]
    batchers: tuple[BatcherStatistics, ...] = ()


def sum_of_batchers(batchers: Iterable[BatcherStatistics]) -> tuple[BatcherStatistics, ...]:
    """One for each name, in the order in which they first come."""
    found: dict[str, BatcherStatistics] = {}
    for one in batchers:
        so_far = found.get(one.name)
        found[one.name] = (
            one
            if so_far is None
            else BatcherStatistics(
                name=one.name,
                open_batches=so_far.open_batches + one.open_batches,
                pending=so_far.pending + one.pending,
                delivered=so_far.delivered + one.delivered,
            )
        )
    return tuple(found.values())


class Counts:
    """Counts over assignments that have ended."""

    def __init__(self) -> None:
        self.received = 0
        self.finished = 0
        self.skipped = 0
        self.dead_lettered = 0

    def add(self, states: Iterable[PartitionOffsets]) -> None:
        """Count these in."""
        for state in states:
            passed = state.passed  # the concern of who finished them
            self.received += state.received - passed
            self.finished += state.finished - passed
            self.skipped += state.skipped
            self.dead_lettered += state.dead_lettered

    def plus(self, states: Iterable[PartitionOffsets]) -> Counts:
        """These counts and those of live assignments."""
        total = Counts()
        total.received, total.finished = self.received, self.finished
        total.skipped, total.dead_lettered = self.skipped, self.dead_lettered
        total.add(states)
        return total


def pipeline_statistics(
    states: Sequence[PartitionOffsets],
    ended: Counts,
    *,
    failed: int,
    retried: int,
    busy: int,
    started: int,
    batchers: tuple[BatcherStatistics, ...],
    pauses: Callable[[PartitionOffsets], tuple[str, ...]],
    now: float,
) -> PipelineStatistics:
    """The statistics of a pipeline.

    Args:
        states: the live assignments, in the order in which to show them.
        ended: counts of those that have ended.
        failed: times a handler failed.
        retried: times a message was to be tried again.
        busy: handlers running.
        started: messages that have started and are not finished.
        batchers: the batchers' own.
        pauses: why a partition is paused.
        now: seconds of the clock that segments are stamped with.
    """
    counts = ended.plus(states)
    in_flight = sum(state.unfinished for state in states)
    return PipelineStatistics(
        received=counts.received,
        succeeded=counts.finished - counts.skipped - counts.dead_lettered,
        failed=failed,
        skipped=counts.skipped,
        dead_lettered=counts.dead_lettered,
        retried=retried,
        in_flight=in_flight,
        in_flight_bytes=sum(state.unfinished_bytes for state in states),
        busy=busy,
        queued=max(0, in_flight - started),
        partitions=tuple(_of_partition(state, pauses(state), now) for state in states),
        batchers=batchers,
    )


def _of_partition(
    state: PartitionOffsets, paused: tuple[str, ...], now: float
) -> PartitionStatistics:
    since = state.oldest_unfinished_since
    return PartitionStatistics(
        topic=state.topic,
        partition=state.partition,
        epoch=state.epoch,
        position=state.position,
        committed=state.committed,
        highest_finished=state.highest_finished,
        end=state.end,
        lag=state.lag,
        in_flight=state.unfinished,
        oldest_unacked_s=None if since is None else now - since,
        paused=paused,
    )
