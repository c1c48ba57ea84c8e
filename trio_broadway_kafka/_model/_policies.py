"""What happens to a message whose handler failed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message

__all__ = [
    "POLICIES",
    "DeadLetter",
    "FailurePolicy",
    "OnFailure",
    "PausePartition",
    "Retry",
    "Skip",
    "Stage",
    "Stop",
    "check_on_failure",
    "is_count",
    "last_of",
    "may_retry",
    "turn_of",
]

# Where a message failed, by the handler's name.
Stage = Literal["prepare_messages", "handle_message", "handle_batch"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Let the handler's own exception out of the pipeline's block. If in doubt, use this.

    The message is not acknowledged, so it is handled again after a restart. The exception
    gets a note that names topic, partition, offset and attempt, never the payload.
    """


@dataclass(frozen=True, slots=True)
class Skip:
    """Log the failure, acknowledge the message and go on: what Broadway does.

    Do NOT use it for messages that must not be lost: nothing handles a skipped one again.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again after a while, for what may recover by itself.

    The message waits with its lane held, so that nothing overtakes it there, and without a
    worker: other lanes go on. It stays unfinished meanwhile, and counts against
    ``max_in_flight``. Each attempt starts from the fields the message had when the stage
    began. A drain or a revoke does not wait for a waiting message: it is handled again after
    a restart, or by the next owner, from its first attempt. Of a batch, the failed messages
    are tried again as a batch of their own.

    It waits ``min(wait_max, wait_initial * wait_exp_base ** (n - 1) + jitter)`` seconds after
    the n-th attempt, where the jitter is a random part of `wait_jitter`.

    Attributes:
        attempts: how many there are in all, the first one included; ``math.inf`` tries for
            ever, and holds the message's lane and the partition's committed offset for as
            long.
        wait_initial: seconds after the first attempt.
        wait_max: seconds at the most.
        wait_exp_base: by which each wait is longer than the one before.
        wait_jitter: seconds at the most that are added by chance, so that what failed
            together is not tried again together.
        then: the policy when all attempts have failed.

    Raises:
        ConfigError: naming the option that is wrong.
    """

    attempts: float = 5
    wait_initial: float = 0.1
    wait_max: float = 30.0
    wait_exp_base: float = 2.0
    wait_jitter: float = 1.0
    then: FailurePolicy = Stop()

    def __post_init__(self) -> None:
        if not is_count(self.attempts):
            raise ConfigError(
                f"attempts must be a whole number of 1 or more, or math.inf, not "
                f"{self.attempts!r}"
            )
        for name in ("wait_initial", "wait_max", "wait_jitter"):
            _check_seconds(name, getattr(self, name))
        base = self.wait_exp_base
        if not isinstance(base, int | float) or not 1 <= base < math.inf:
            raise ConfigError(f"wait_exp_base must be a number of 1 or more, not {base!r}")
        _check_policy("then", self.then)

    def wait_after(
        self, attempt: int, rand: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait after an attempt, None if it was the last.

        Args:
            attempt: which one, from 1.
            rand: gives the part of the jitter, from 0 to 1.
        """
        if attempt >= self.attempts:
            return None
        try:
            wait = self.wait_initial * self.wait_exp_base ** (attempt - 1)
        except OverflowError:
            wait = math.inf
        return min(self.wait_max, wait + self.wait_jitter * rand())


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Send the message to another topic, acknowledge it and go on.

    The dead letter has the message's key, value and headers, and headers that say where it
    came from and why (see `_dead_letters`). The message is acknowledged only after Kafka has
    the dead letter; while it can't be delivered it is tried again, until
    ``Output.delivery_timeout``, and nothing is committed past the message.

    Attributes:
        topic: the dead-letter topic; it must exist.
        max_consecutive: how many dead letters there may be in a row, with no message handled
            in between: more than that is no matter of single messages.
        then: the policy for the next one.

    Raises:
        ConfigError: naming the option that is wrong.
    """

    topic: str
    _: KW_ONLY
    max_consecutive: float = math.inf
    then: FailurePolicy = Stop()

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not self.topic:
            raise ConfigError(f"topic must be the dead-letter topic's name, not {self.topic!r}")
        if not is_count(self.max_consecutive):
            raise ConfigError(
                "max_consecutive must be a whole number of 1 or more, or math.inf, not "
                f"{self.max_consecutive!r}"
            )
        _check_policy("then", self.then)


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePartition:
    """Stop fetching the message's partition for a while, then try it again: for what can't
    be handled now, and must not be passed over. Other partitions go on.

    What has not started of the partition is forgotten, what has started is finished. When
    the pause is over, the partition is read again from the message on; what is finished is
    passed over. `Pipeline.resume` ends the pause early.

    Attributes:
        seconds: how long; inf until it is resumed, or assigned anew.

    Raises:
        ConfigError: `seconds` is wrong.
    """

    seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.seconds != math.inf:
            _check_seconds("seconds", self.seconds)


FailurePolicy = Stop | Skip | Retry | DeadLetter | PausePartition
OnFailure = FailurePolicy | Callable[[Message], FailurePolicy]

POLICIES = (Stop, Skip, Retry, DeadLetter, PausePartition)


def turn_of(policy: FailurePolicy, message: Message) -> FailurePolicy:
    """Of a policy with a ``then``, the part whose turn it is after this attempt."""
    while isinstance(policy, Retry) and message.attempt >= policy.attempts:
        policy = policy.then
    return policy


def last_of(policy: FailurePolicy) -> FailurePolicy:
    """What comes once nobody wants to try any more; a policy that would end the pipeline then
    stays as it is."""
    last = policy
    while isinstance(last, Retry):
        last = last.then
    return policy if isinstance(last, Stop) else last


def may_retry(on_failure: OnFailure) -> bool:
    """Whether a message may be tried again."""
    return not isinstance(on_failure, POLICIES) or isinstance(on_failure, Retry)


def check_on_failure(on_failure: object) -> None:
    """Check what was given as ``on_failure``.

    Raises:
        ConfigError: it is neither a policy nor a function that may return one.
    """
    _check_instance("on_failure", on_failure)
    if not isinstance(on_failure, POLICIES) and not callable(on_failure):
        raise ConfigError(
            "on_failure must be a policy such as Stop() or Skip(), or a function of the "
            f"message that returns one, not {on_failure!r}"
        )


def _check_instance(name: str, policy: object) -> None:
    if isinstance(policy, type):
        raise ConfigError(f"{name} must be an instance: write {policy.__name__}()")


def _check_policy(name: str, policy: object) -> None:
    _check_instance(name, policy)
    if not isinstance(policy, POLICIES):
        raise ConfigError(f"{name} must be a policy such as Stop() or Skip(), not {policy!r}")


def is_count(number: object) -> bool:
    """Whether it is a whole number of 1 or more, or inf."""
    whole = isinstance(number, int) and not isinstance(number, bool)
    return number == math.inf or (whole and number >= 1)  # type: ignore[operator]


def _check_seconds(name: str, seconds: object) -> None:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 <= seconds < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name} must be seconds of 0 or more, not {seconds!r}")
