"""How long things took: percentiles of the last minute, totals since opening."""

from __future__ import annotations

import math
import random

import pytest

from trio_broadway_kafka._model._latencies import BOUNDS, Latencies


def test_without_a_measurement_there_are_no_percentiles() -> None:
    found = Latencies().statistics(0.0)
    assert (found.count, found.p50, found.p99, found.max) == (0, None, None, None)
    assert (found.total, found.total_s, sum(found.buckets)) == (0, 0.0, 0)


def test_percentiles_are_those_of_a_sorted_list_within_a_thirty_second_part() -> None:
    rng = random.Random(5)
    for _ in range(50):
        latencies = Latencies()
        spread = rng.choice([1e-5, 1e-2, 1.0, 100.0])
        durations = sorted(rng.lognormvariate(math.log(spread), 1) for _ in range(1_000))
        for duration in rng.sample(durations, len(durations)):
            latencies.add(duration, now=1.0)
        found = latencies.statistics(1.0)
        for share, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
            assert value == pytest.approx(durations[int(share * 1_000) - 1], rel=1 / 31)
        assert found.max == durations[-1]
        assert found.total_s == pytest.approx(sum(durations))


def test_a_percentile_is_never_above_the_longest() -> None:
    latencies = Latencies()
    latencies.add(1.0, now=0.0)
    found = latencies.statistics(0.0)
    assert (found.p50, found.p99, found.max) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("duration", [-5.0, 0.0, 1e-12, 1e9])
def test_any_duration_has_a_place(duration: float) -> None:
    latencies = Latencies()
    latencies.add(duration, now=0.0)
    found = latencies.statistics(0.0)
    assert found.count == found.total == sum(found.buckets) == 1
    assert found.max == max(duration, 0.0)


def test_what_is_older_than_two_windows_is_in_the_totals_only() -> None:
    latencies = Latencies()
    latencies.add(1.0, now=0.0)
    latencies.add(2.0, now=31.0)
    assert latencies.statistics(59.9).count == 2
    later = latencies.statistics(61.5)
    assert (later.count, later.p50, later.max) == (1, pytest.approx(2.0, rel=1 / 31), 2.0)
    much_later = latencies.statistics(1000.0)
    assert (much_later.count, much_later.p50, much_later.max) == (0, None, None)
    assert (much_later.total, much_later.total_s) == (2, 3.0)


def test_after_a_long_rest_nothing_of_before_is_shown() -> None:
    latencies = Latencies()
    latencies.add(1.0, now=0.0)
    latencies.add(3.0, now=1000.0)
    assert (latencies.statistics(1000.0).count, latencies.statistics(1000.0).max) == (1, 3.0)


def test_each_bound_holds_what_took_at_most_that_long() -> None:
    latencies = Latencies()
    for bound in BOUNDS:
        latencies.add(bound, now=0.0)
        latencies.add(bound * 1.01, now=0.0)
    buckets = latencies.statistics(0.0).buckets
    assert buckets == (1, *[2] * (len(BOUNDS) - 1), 1)
