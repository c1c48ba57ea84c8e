"""Whether a pipeline is alive, and whether it is ready, with the reason in words.

Alive: the client is polled, and trio's loop turns, or there would be no answer. A program that
is not can only be started anew.

Ready: partitions were assigned, and what there is to do is being done: no partition has had
work for longer than `STALLED` without moving the offset that it may commit.
"""

from __future__ import annotations

from dataclasses import dataclass

from trio_broadway_kafka._model._statistics import PartitionStatistics, PipelineStatistics

__all__ = ["STALLED", "Progress", "Verdict", "health"]

STALLED = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Verdict:
    """Yes or no, and why."""

    ok: bool
    reason: str


def health(state: str, since_poll: float, revoke_timeout: float) -> Verdict:
    """Whether it is alive."""
    if state == "closed":
        return Verdict(False, "the pipeline is closed")
    limit = revoke_timeout + 10.0  # a revoke polls nothing while it drains
    if since_poll > limit:
        return Verdict(
            False, f"Kafka's client was not polled for {since_poll:.0f} s ({limit:.0f} at most)"
        )
    return Verdict(True, "the client is polled, and the loop turns")


class Progress:
    """When each partition last moved, and so whether the pipeline is ready."""

    def __init__(self, stalled: float = STALLED) -> None:
        self._stalled = stalled
        # By partition and epoch: the offset below which all is finished, and since when it
        # is that, or there was nothing to do.
        self._moved: dict[tuple[str, int, int], tuple[int | None, float]] = {}

    def look(self, statistics: PipelineStatistics, now: float) -> None:
        """Note what has moved: to be called every few seconds."""
        moved = {}
        for one in statistics.partitions:
            key = (one.topic, one.partition, one.epoch)
            before = self._moved.get(key)
            if before is None or before[0] != one.finished_to or not _has_work(one):
                before = (one.finished_to, now)
            moved[key] = before
        self._moved = moved

    def ready(
        self, state: str, statistics: PipelineStatistics, was_assigned: bool, now: float
    ) -> Verdict:
        """Whether it is ready."""
        if state != "open":
            return Verdict(False, f"the pipeline is {state}")
        if not was_assigned:
            return Verdict(False, "no partition has been assigned yet")
        self.look(statistics, now)
        for one in statistics.partitions:
            _, since = self._moved[one.topic, one.partition, one.epoch]
            if now - since > self._stalled:
                return Verdict(
                    False,
                    f"{one.topic}/{one.partition} stands at {one.finished_to} for "
                    f"{now - since:.0f} s, with {one.in_flight} messages unfinished here and a "
                    f"lag of {one.lag}",
                )
        if not statistics.partitions:
            return Verdict(True, "no partition is assigned: others of the group have them")
        if not any(map(_has_work, statistics.partitions)):
            return Verdict(True, "there is nothing to do")
        return Verdict(True, f"{len(statistics.partitions)} partitions move")


def _has_work(one: PartitionStatistics) -> bool:
    """Whether something is to be done of it; what was paused on purpose rests."""
    if "user" in one.paused or "policy" in one.paused:
        return False
    return bool(one.in_flight or one.lag)
