"""Policies are plain values."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tests._records import record
from trio_broadway_kafka import ConfigError, Message, PausePartition, Retry, Skip, Stages, Stop
from trio_broadway_kafka._model._message import Retried
from trio_broadway_kafka._model._policies import may_retry, turn_of


@pytest.mark.parametrize("policy", [Stop, Skip, Retry, PausePartition])
def test_a_policy_is_a_value(policy: type) -> None:
    assert policy() == policy()
    assert hash(policy()) == hash(policy())
    with pytest.raises((AttributeError, TypeError)):  # which one depends on the Python
        policy().attempts = 3


def test_policies_differ() -> None:
    assert len({Stop(), Skip(), Retry(), PausePartition(), Retry(then=Skip())}) == 5


def test_waits_double_from_the_first_to_the_longest() -> None:
    retry = Retry(attempts=8, wait_initial=0.5, wait_max=10, wait_jitter=0)
    assert [retry.wait_after(n) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 10, 10, None]


def test_the_jitter_is_added_and_never_exceeds_the_longest_wait() -> None:
    retry = Retry(wait_initial=1, wait_max=2.5, wait_jitter=2)
    assert retry.wait_after(1, lambda: 0.5) == 2
    assert retry.wait_after(2, lambda: 0.5) == 2.5
    rng = random.Random(7)
    waits = [retry.wait_after(1, rng.random) for _ in range(1000)]
    assert 1 <= min(waits) < 1.1  # type: ignore[type-var]
    assert max(waits) == 2.5  # type: ignore[type-var]


def test_retrying_for_ever_does_not_overflow() -> None:
    retry = Retry(attempts=math.inf, wait_jitter=0)
    assert retry.wait_after(5000) == 30


def message(attempt: int) -> Message:
    made = record(0)
    return Message(made if attempt == 1 else Retried(made, attempt))


def test_the_turn_passes_on_when_all_attempts_have_been() -> None:
    last = Retry(attempts=4, then=Skip())
    policy = Retry(attempts=2, then=last)
    assert [turn_of(policy, message(n)) for n in range(1, 5)] == [policy, last, last, Skip()]
    assert turn_of(Stop(), message(1)) == Stop()


def test_a_function_may_ask_for_retries() -> None:
    assert may_retry(Retry())
    assert may_retry(lambda message: Stop())
    assert not may_retry(Skip())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"attempts": 0}, "attempts must be a whole number of 1 or more, or math.inf, not 0"),
        ({"attempts": 2.5}, "attempts must be a whole number"),
        ({"attempts": True}, "attempts must be a whole number"),
        ({"wait_initial": -1}, "wait_initial must be seconds of 0 or more, not -1"),
        ({"wait_max": math.inf}, "wait_max must be seconds of 0 or more"),
        ({"wait_jitter": "1"}, "wait_jitter must be seconds of 0 or more, not '1'"),
        ({"wait_exp_base": 0.5}, "wait_exp_base must be a number of 1 or more, not 0.5"),
        ({"then": Skip}, "then must be an instance: write Skip()"),
        ({"then": None}, "then must be a policy such as Stop"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Retry(**options)
    assert complaint in str(raised.value)


@pytest.mark.parametrize("seconds", [-1, math.nan, "1", True])
def test_a_wrong_pause_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="seconds must be"):
        PausePartition(seconds=seconds)


async def handle(message: Message) -> None: ...


@pytest.mark.parametrize("wrong", [Retry, None, "skip", handle])
def test_what_is_no_policy_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="on_failure must be"):
        Stages(handle_message=handle, on_failure=wrong)
