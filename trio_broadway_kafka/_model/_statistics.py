"""What `Pipeline.statistics` returns: plain frozen values, taken at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from trio_broadway_kafka._model._batch_sizes import TriggerStatistics, sum_of_triggers
from trio_broadway_kafka._model._latencies import LatencyStatistics
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._stage_times import StageStatistics, Times

__all__ = [
    "BatcherStatistics",
    "Counts",
    "PartitionStatistics",
    "PipelineStatistics",
    "TopicStatistics",
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
        finished_to: the offset below which all is finished: what the next commit makes of
            `committed`; None while neither is known.
        behind_gap: messages that are finished beyond it: some before them are not.
        highest_finished: offset of the last finished message, None if there is none.
        end: the partition's end as far as known; it is learnt from fetches.
        lag: offsets from `committed` to `end`, None while unknown: the number that lag tools
            show. Without a committed offset, and until the first commit after a
            ``start_from``, from where reading started.
        lag_s: seconds since the oldest record that is not finished was produced (or one that
            arrived shortly before it); 0 without lag, None while unknown.
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
    finished_to: int | None
    behind_gap: int
    highest_finished: int | None
    end: int | None
    lag: int | None
    lag_s: float | None
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
        running: messages in batches whose handler runs.
        delivered: messages of batches whose handler has ended, well or not.
        triggers: why the batches left, and what they held.
    """

    name: str
    open_batches: int
    pending: int
    running: int
    delivered: int
    triggers: tuple[TriggerStatistics, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStatistics:
    """What has been done of one topic since opening.

    Attributes:
        topic: its name.
        received, succeeded, skipped, dead_lettered, end_to_end: as in `PipelineStatistics`.
    """

    topic: str
    received: int = 0
    succeeded: int = 0
    skipped: int = 0
    dead_lettered: int = 0
    end_to_end: LatencyStatistics | None = None


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
        produced: outputs and dead letters that have left, with their messages finished.
        in_flight: messages here and not finished.
        max_in_flight: how many there may be.
        in_flight_bytes: bytes of values held.
        busy: handlers running.
        queued: messages here that have not started.
        partitions: the assigned partitions, by topic and number.
        batchers: the batchers, in the order in which they were given. With stages of their
            own for each partition, those of one name are counted together.
        topics: what has been done of each topic, by name.
        stages: what the tasks of each stage spend their time on, and how long its handlers
            take: "handle_message", then the batchers.
        end_to_end: from a record's timestamp until the last of its handlers has ended; of a
            batch its first record. Clocks that differ show here.
    """

    received: int
    succeeded: int
    failed: int
    skipped: int
    dead_lettered: int
    retried: int
    produced: int
    in_flight: int
    max_in_flight: int
    in_flight_bytes: int
    busy: int
    queued: int
    partitions: tuple[PartitionStatistics, ...]
    batchers: tuple[BatcherStatistics, ...] = ()
    topics: tuple[TopicStatistics, ...] = ()
    stages: tuple[StageStatistics, ...] = ()
    end_to_end: LatencyStatistics | None = None


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
                running=so_far.running + one.running,
                delivered=so_far.delivered + one.delivered,
                triggers=sum_of_triggers((*so_far.triggers, *one.triggers)),
            )
        )
    return tuple(found.values())


class Counts:
    """Counts over assignments that have ended, by topic."""

    def __init__(self) -> None:
        self._of: dict[str, TopicStatistics] = {}

    def add(self, states: Iterable[PartitionOffsets]) -> None:
        """Count these in."""
        for state in states:
            so_far = self._of.get(state.topic) or TopicStatistics(topic=state.topic)
            passed = state.passed  # the concern of who finished them
            skipped, dead_lettered = state.skipped, state.dead_lettered
            succeeded = state.finished - passed - skipped - dead_lettered
            self._of[state.topic] = TopicStatistics(
                topic=state.topic,
                received=so_far.received + state.received - passed,
                succeeded=so_far.succeeded + succeeded,
                skipped=so_far.skipped + skipped,
                dead_lettered=so_far.dead_lettered + dead_lettered,
            )

    def plus(self, states: Iterable[PartitionOffsets]) -> tuple[TopicStatistics, ...]:
        """These counts and those of live assignments, by topic."""
        total = Counts()
        total._of = dict(self._of)
        total.add(states)
        return tuple(total._of[topic] for topic in sorted(total._of))


def pipeline_statistics(
    states: Sequence[PartitionOffsets],
    ended: Counts,
    *,
    failed: int,
    retried: int,
    produced: int,
    busy: int,
    started: int,
    batchers: tuple[BatcherStatistics, ...],
    max_in_flight: int,
    times: Times,
    pauses: Callable[[PartitionOffsets], tuple[str, ...]],
    now: float,
) -> PipelineStatistics:
    """The statistics of a pipeline.

    Args:
        states: the live assignments, in the order in which to show them.
        ended: counts of those that have ended.
        failed: times a handler failed.
        retried: times a message was to be tried again.
        produced: outputs that have left.
        busy: handlers running.
        started: messages that have started and are not finished.
        batchers: the batchers' own.
        max_in_flight: the pipeline's.
        times: what the stages spend their time on.
        pauses: why a partition is paused.
        now: seconds of the clock that segments are stamped with.
    """
    topics = ended.plus(states)
    in_flight = sum(state.unfinished for state in states)
    return PipelineStatistics(
        received=sum(topic.received for topic in topics),
        succeeded=sum(topic.succeeded for topic in topics),
        failed=failed,
        skipped=sum(topic.skipped for topic in topics),
        dead_lettered=sum(topic.dead_lettered for topic in topics),
        retried=retried,
        produced=produced,
        in_flight=in_flight,
        max_in_flight=max_in_flight,
        in_flight_bytes=sum(state.unfinished_bytes for state in states),
        busy=busy,
        queued=max(0, in_flight - started),
        partitions=tuple(_of_partition(state, pauses(state), times, now) for state in states),
        batchers=batchers,
        topics=tuple(
            replace(topic, end_to_end=times.topics[topic.topic].statistics(now))
            if topic.topic in times.topics
            else topic
            for topic in topics
        ),
        stages=times.statistics(),
        end_to_end=times.end_to_end.statistics(now),
    )


def _of_partition(
    state: PartitionOffsets, paused: tuple[str, ...], times: Times, now: float
) -> PartitionStatistics:
    since = state.oldest_unfinished_since
    return PartitionStatistics(
        topic=state.topic,
        partition=state.partition,
        epoch=state.epoch,
        position=state.position,
        committed=state.committed,
        finished_to=state.reached or None,
        behind_gap=state.finished_behind_gap,
        highest_finished=state.highest_finished,
        end=state.end,
        lag=state.lag,
        lag_s=times.age(state.oldest_timestamp) if state.lag else state.lag,
        in_flight=state.unfinished,
        oldest_unacked_s=None if since is None else now - since,
        paused=paused,
    )
