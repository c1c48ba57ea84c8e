"""The metrics of a pipeline, by their Prometheus names without the prefix, from its statistics.

Never a key or an offset is a label, so that there are no more series than partitions, stages,
exception types and topics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from trio_broadway_kafka._model._batch_sizes import SIZE_BOUNDS
from trio_broadway_kafka._model._latencies import BOUNDS, LatencyStatistics
from trio_broadway_kafka._model._statistics import PipelineStatistics

__all__ = [
    "COUNTERS",
    "GAUGES",
    "HISTOGRAMS",
    "PREFIX",
    "Histogram",
    "counts_of",
    "gauges_of",
    "histogram_of",
    "histograms_of",
    "one_duration",
]

PREFIX: Final = "broadway_kafka_"

Description = tuple[str, tuple[str, ...]]
"""What it is, and its labels beside ``pipeline`` and ``group``."""

COUNTERS: Final[dict[str, Description]] = {
    "messages_received_total": ("Messages that arrived.", ("topic", "partition")),
    "messages_processed_total": (
        "Messages that are settled, by the stage in which messages end.",
        ("stage", "topic", "status"),
    ),
    "failures_total": ("Times a message failed.", ("stage", "exception_type")),
    "retries_total": ("Times a failed message was to be tried again.", ("stage",)),
    "dead_letters_total": ("Messages that are in a dead-letter topic.", ("topic",)),
    "commits_total": ("Commits that Kafka took (ok), or refused (failed).", ("status",)),
    "rebalances_total": ("Partitions that were assigned, revoked or lost.", ("event",)),
    "stage_time_seconds_total": (
        "What the tasks of a stage spent their time on, all of them together.",
        ("stage", "state"),
    ),
}

_PARTITION: Final = ("topic", "partition")

GAUGES: Final[dict[str, Description]] = {
    "partition_end_offset": ("The partition's end as far as known.", _PARTITION),
    "partition_highest_seen_offset": ("The last message that arrived.", _PARTITION),
    "partition_highest_finished_offset": ("The last finished message.", _PARTITION),
    "partition_committed_offset": ("The group's committed offset.", _PARTITION),
    "partition_unfinished_messages": ("Messages here and not finished.", _PARTITION),
    "partition_oldest_unfinished_age_seconds": (
        "Since the first unfinished message arrived; 0 if there is none.",
        _PARTITION,
    ),
    "partition_lag_messages": ("Offsets from the committed one to the end.", _PARTITION),
    "partition_lag_seconds": (
        "Since the oldest record was produced that is not finished.",
        _PARTITION,
    ),
    "partition_paused": ("1 while it is paused.", _PARTITION),
    "partition_assignment_epoch": ("Names this assignment of it.", _PARTITION),
    "in_flight_messages": ("Messages whose handler runs.", ("stage",)),
    "queue_messages": ("Messages that wait for the stage.", ("stage",)),
    "queue_capacity": ("How many messages may be here and not finished.", ("stage",)),
}

HISTOGRAMS: Final[dict[str, Description]] = {
    "process_duration_seconds": ("How long handle_message takes, of a sample.", ("stage",)),
    "batch_duration_seconds": ("How long handle_batch takes.", ("batcher",)),
    "batch_size_messages": ("What the batches held.", ("batcher", "trigger")),
    "commit_duration_seconds": ("From a commit's request to its answer.", ()),
    "end_to_end_latency_seconds": (
        "From a record's timestamp until its last handler has ended, of a sample.",
        ("topic",),
    ),
}

_MESSAGES: Final = "handle_message"
_BATCHES: Final = "handle_batch:"

Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, its labels' values, its value."""


@dataclass(frozen=True)
class Histogram:
    """Counts by bucket, the last one for what is above all bounds; and the sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(map(sum, zip(self.counts, other.counts, strict=True)))
        return Histogram(self.bounds, counts, self.sum + other.sum)


def counts_of(statistics: PipelineStatistics) -> Iterator[Sample]:
    """What counts since the pipeline was opened."""
    last = "handle_batch" if statistics.batchers else _MESSAGES
    for topic in statistics.topics:
        for status in ("succeeded", "skipped", "dead_lettered"):
            labels = (last, topic.topic, status)
            yield "messages_processed_total", labels, getattr(topic, status)
        yield "dead_letters_total", (topic.topic,), topic.dead_lettered
    for stage in statistics.stages:
        times = (stage.busy_s, stage.idle_s, stage.backpressured_s)
        for state, seconds in zip(("busy", "idle", "backpressured"), times, strict=True):
            yield "stage_time_seconds_total", (stage.name, state), seconds


def gauges_of(statistics: PipelineStatistics) -> Iterator[Sample]:
    """Where it stands."""
    for one in statistics.partitions:
        labels = (one.topic, str(one.partition))
        values = {
            "end_offset": one.end,
            "highest_seen_offset": None if one.position is None else one.position - 1,
            "highest_finished_offset": one.highest_finished,
            "committed_offset": one.committed,
            "unfinished_messages": one.in_flight,
            "oldest_unfinished_age_seconds": one.oldest_unacked_s or 0.0,
            "lag_messages": one.lag,
            "lag_seconds": one.lag_s,
            "paused": int(bool(one.paused)),
            "assignment_epoch": one.epoch,
        }
        for name, value in values.items():
            if value is not None:
                yield f"partition_{name}", labels, value
    if any(stage.name == _MESSAGES for stage in statistics.stages):
        busy = next(stage.busy for stage in statistics.stages if stage.name == _MESSAGES)
        yield "in_flight_messages", (_MESSAGES,), busy
        yield "queue_messages", (_MESSAGES,), statistics.queued
        yield "queue_capacity", (_MESSAGES,), statistics.max_in_flight
    for batcher in statistics.batchers:
        stage_name = f"{_BATCHES}{batcher.name}"
        yield "in_flight_messages", (stage_name,), batcher.running
        yield "queue_messages", (stage_name,), batcher.pending
        yield "queue_capacity", (stage_name,), statistics.max_in_flight


def histograms_of(
    statistics: PipelineStatistics,
) -> Iterator[tuple[str, tuple[str, ...], Histogram]]:
    """How long things took, and how large they were, since the pipeline was opened."""
    for stage in statistics.stages:
        durations = histogram_of(stage.handling)
        if stage.name == _MESSAGES:
            yield "process_duration_seconds", (stage.name,), durations
        else:
            yield "batch_duration_seconds", (stage.name.removeprefix(_BATCHES),), durations
    for topic in statistics.topics:
        if topic.end_to_end is not None:
            durations = histogram_of(topic.end_to_end)
            yield "end_to_end_latency_seconds", (topic.topic,), durations
    for batcher in statistics.batchers:
        for one in batcher.triggers:
            sizes = Histogram(SIZE_BOUNDS, one.buckets, one.messages)
            yield "batch_size_messages", (batcher.name, one.trigger), sizes


def one_duration(seconds: float) -> Histogram:
    """One that holds just this."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[bisect_left(BOUNDS, seconds)] = 1
    return Histogram(BOUNDS, tuple(counts), seconds)


def histogram_of(latencies: LatencyStatistics) -> Histogram:
    """The same with its bounds."""
    return Histogram(BOUNDS, latencies.buckets, latencies.total_s)
