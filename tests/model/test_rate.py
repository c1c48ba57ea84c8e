"""A token bucket: full at first, filled evenly, never above its size."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trio_broadway_kafka import ConfigError, RateLimit
from trio_broadway_kafka._model._rate import TokenBucket


def test_it_is_full_at_first_and_gives_no_more_than_it_has() -> None:
    bucket = TokenBucket(RateLimit(messages=10), now=100.0)
    assert bucket.take(100.0, 7) == 7
    assert bucket.take(100.0, 7) == 3
    assert bucket.take(100.0, 7) == 0


def test_it_is_filled_evenly() -> None:
    bucket = TokenBucket(RateLimit(messages=10, per=5.0), now=0.0)
    assert bucket.take(0.0, 10) == 10
    assert bucket.next_at(0.0) == 0.5
    assert bucket.take(0.49, 10) == 0
    assert bucket.take(0.5, 10) == 1
    assert bucket.take(1.75, 10) == 2
    assert bucket.next_at(1.75) == pytest.approx(2.0)


def test_a_rest_does_not_fill_it_above_its_size() -> None:
    bucket = TokenBucket(RateLimit(messages=3), now=0.0)
    assert bucket.take(1000.0, 10) == 3


def test_the_time_it_names_is_one_at_which_there_is_a_token() -> None:
    """Else who waits for that time would look again and again at the same moment."""
    for messages in (3, 7, 1000, 999_983):
        bucket = TokenBucket(RateLimit(messages=messages, per=0.7), now=1e6)
        now = 1e6
        bucket.take(now, messages)
        for _ in range(1000):
            now = bucket.next_at(now)
            assert bucket.take(now) == 1


def test_another_limit_keeps_what_is_there_as_far_as_it_holds_it() -> None:
    bucket = TokenBucket(RateLimit(messages=10), now=0.0)
    bucket.take(0.0, 8)
    bucket.change(RateLimit(messages=1), now=0.0)
    assert bucket.take(0.0, 10) == 1
    bucket.change(RateLimit(messages=100), now=0.0)
    assert bucket.take(0.0, 10) == 0
    assert bucket.next_at(0.0) == 0.01


def test_a_token_that_nobody_needed_is_given_back() -> None:
    bucket = TokenBucket(RateLimit(messages=2), now=0.0)
    bucket.take(0.0, 2)
    bucket.give_back()
    assert bucket.take(0.0, 2) == 1


@pytest.mark.parametrize("messages", [0, -1, 1.5, "10", None])
def test_messages_is_a_whole_number_above_zero(messages: Any) -> None:
    with pytest.raises(ConfigError, match="messages must be a whole number of 1 or more"):
        RateLimit(messages=messages)


@pytest.mark.parametrize("per", [0, -1.0, math.inf, math.nan, "1", None])
def test_per_is_seconds_above_zero(per: Any) -> None:
    with pytest.raises(ConfigError, match="per must be seconds above 0"):
        RateLimit(messages=1, per=per)
