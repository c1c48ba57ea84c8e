"""A pipeline as of one moment, as JSON: what the page, ``top`` and scripts are shown.

No value, header or text of an exception is in it, and no key unless it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import asdict
from typing import Any, Final

from trio_broadway_kafka._model._latencies import LatencyStatistics
from trio_broadway_kafka._model._statistics import PartitionStatistics
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.dashboard._recorder import Recorder

__all__ = ["STRIPS", "snapshot"]

STRIPS: Final = 50
"""Partitions whose strip and blocker are shown: those with the most to do."""

CELLS: Final = 60

KEY: Final = 60  # characters of a key


def snapshot(
    pipeline: Pipeline, recorder: Recorder, wall_time: float, *, show_keys: bool = False
) -> dict[str, Any]:
    """All of it. Counts are those since opening: a rate is made of two snapshots."""
    statistics = pipeline.statistics()
    topology = pipeline.topology()
    partitions = [_partition(one) for one in statistics.partitions]
    busiest = sorted(
        partitions, key=lambda one: (-one["in_flight"], -(one["lag"] or 0), one["topic"])
    )
    for one in busiest[:STRIPS]:
        place = (one["topic"], one["partition"])
        strip, blocker = pipeline.strip(*place, cells=CELLS), pipeline.blocker(*place)
        one["strip"] = None if strip is None else asdict(strip)
        one["blocker"] = None if blocker is None else asdict(blocker)
    return {
        "at": wall_time,
        "name": topology.name,
        "group": topology.group,
        "topics": list(topology.topics),
        "state": topology.state,
        "per_partition": topology.per_partition,
        "handlers": [asdict(stages) for stages in topology.stages[:1]],
        "since_poll": pipeline.since_poll(),
        "counts": {
            name: getattr(statistics, name)
            for name in (
                *("received", "succeeded", "failed", "skipped", "dead_lettered", "retried"),
                *("in_flight", "max_in_flight", "in_flight_bytes", "busy", "queued"),
            )
        },
        # At most so many would be handed out again after a crash now: finished beyond the
        # committed offsets. What the offset maps tell of is not.
        "again_after_crash": sum(one["uncommitted"] for one in partitions),
        "stages": [
            {
                **{
                    name: getattr(stage, name)
                    for name in (
                        *("name", "concurrency", "busy"),
                        *("busy_s", "idle_s", "backpressured_s"),
                    )
                },
                "handling": _latency(stage.handling),
            }
            for stage in statistics.stages
        ],
        "end_to_end": _latency(statistics.end_to_end),
        "batchers": [
            {
                "name": one.name,
                "open_batches": one.open_batches,
                "pending": one.pending,
                "running": one.running,
                "delivered": one.delivered,
                "triggers": {t.trigger: [t.batches, t.messages] for t in one.triggers},
            }
            for one in statistics.batchers
        ],
        "partitions": partitions,
        "hot_keys": [
            {
                "place": "" if one.partition is None else f"{one.topic}/{one.partition}",
                "key": _shown(one.key) if show_keys else _fingerprint(one.key),
                "waiting": one.waiting,
            }
            for one in pipeline.hot_keys()
        ],
        "lately": recorder.as_json(),
    }


def _partition(one: PartitionStatistics) -> dict[str, Any]:
    """A partition, with its lag in three: not fetched, unfinished here, finished and not
    committable or not committed yet."""
    unfetched = None
    if one.end is not None and one.position is not None:
        unfetched = max(0, one.end - one.position)
    elif one.lag is not None:
        unfetched = one.lag
    uncommitted = one.behind_gap
    if one.finished_to is not None and one.committed is not None:
        uncommitted += max(0, one.finished_to - one.committed)
    return {**asdict(one), "unfetched": unfetched, "uncommitted": uncommitted}


def _fingerprint(key: Hashable) -> str:
    """What tells keys apart without telling them."""
    data = key if isinstance(key, bytes) else repr(key).encode()
    return f"#{hashlib.sha256(data).hexdigest()[:8]}"


def _shown(key: Hashable) -> str:
    text = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
    return text if len(text) <= KEY else f"{text[:KEY]}…"


def _latency(found: LatencyStatistics | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {name: getattr(found, name) for name in ("count", "p50", "p90", "p99", "max")}
