"""How long things took: percentiles of the last minute, and totals, in bounded memory.

Buckets are a sixteenth of a power of two wide, as in HdrHistogram: a percentile is right
within 3.2 %, from a microsecond to a day and a half, with 592 counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BOUNDS", "WINDOW", "Latencies", "LatencyStatistics"]

BOUNDS: tuple[float, ...] = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
)  # fmt: skip
"""Seconds: upper bounds of `LatencyStatistics.buckets`. One more bucket holds the rest."""

WINDOW = 30.0
"""Seconds. Percentiles are those of what was measured in the last one to two of these."""

_STEPS = 16  # buckets in a power of two
_LEAST = -20  # the first bucket holds all below 2**_LEAST s (a microsecond)
_MOST = 17
_COUNT = (_MOST - _LEAST) * _STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStatistics:
    """How long something took, in seconds.

    It is measured of a sample: of all messages where they are few (up to a thousand a
    second), else of about that many. Batches are all measured.

    Attributes:
        count: how many were measured in the last 30 to 60 seconds.
        p50: half of those took at most that long (within 3.2 %); None if there are none.
        p90: nine of ten.
        p99: 99 of a hundred.
        max: the longest of those.
        total: how many were measured since opening.
        total_s: their sum.
        buckets: how many of them took at most `BOUNDS` and more than the bound before; the
            last count is that of all others.
    """

    count: int
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None
    total: int
    total_s: float
    buckets: tuple[int, ...]


class Latencies:
    """Collects durations. `now` is always that of one clock, which only goes forward."""

    __slots__ = ("_before", "_buckets", "_max", "_max_before", "_now", "_sum", "_until")

    def __init__(self) -> None:
        self._until = 0.0
        self._now = [0] * _COUNT
        self._before = [0] * _COUNT
        self._max = self._max_before = 0.0
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float, now: float) -> None:
        """It took that long; less than none, as clocks may differ, is none."""
        if now >= self._until:
            self._turn(now)
        seconds = max(seconds, 0.0)
        self._now[_index(seconds)] += 1
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds
        self._max = max(self._max, seconds)

    def _turn(self, now: float) -> None:
        """The window is over: it becomes the one before, unless that is long ago."""
        is_next = now < self._until + WINDOW
        self._before = self._now if is_next else [0] * _COUNT
        self._max_before = self._max if is_next else 0.0
        self._now = [0] * _COUNT
        self._max = 0.0
        self._until = now + WINDOW

    def statistics(self, now: float) -> LatencyStatistics:
        """Where it stands."""
        if now >= self._until:
            self._turn(now)
        counts = [a + b for a, b in zip(self._now, self._before, strict=True)]
        count = sum(counts)
        longest = max(self._max, self._max_before)
        p50, p90, p99 = _percentiles(counts, count, (0.5, 0.9, 0.99), longest)
        return LatencyStatistics(
            count=count,
            p50=p50,
            p90=p90,
            p99=p99,
            max=longest if count else None,
            total=sum(self._buckets),
            total_s=self._sum,
            buckets=tuple(self._buckets),
        )


def _index(seconds: float) -> int:
    """The bucket of a duration."""
    fraction, exponent = math.frexp(seconds)  # seconds == fraction * 2**exponent
    index = (exponent - 1 - _LEAST) * _STEPS + int((fraction * 2 - 1) * _STEPS)
    return min(max(index, 0), _COUNT - 1)


def _middle(index: int) -> float:
    """The duration that stands for a bucket's."""
    power, step = divmod(index, _STEPS)
    return math.ldexp(1 + (step + 0.5) / _STEPS, power + _LEAST)


def _percentiles(
    counts: Sequence[int], count: int, shares: Sequence[float], longest: float
) -> list[float | None]:
    if not count:
        return [None] * len(shares)
    found: list[float | None] = []
    passed = 0
    index = -1
    for share in shares:
        while passed < math.ceil(share * count):
            index += 1
            passed += counts[index]
        found.append(min(_middle(index), longest))
    return found
