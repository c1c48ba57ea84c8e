"""Rate limiting: a token bucket. Pure; time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trio_broadway_kafka._model._errors import ConfigError

__all__ = ["RateLimit", "TokenBucket", "check_rate_limit"]

# What a token may be short of a whole one: times of 10^6 s are exact to 10^-10 s only, and
# there may be 10^6 tokens a second. What is missing is made up for by the next one.
_EPSILON = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most so many messages are taken in so many seconds, in the long run.

    A bucket holds up to `messages` tokens; it is full at first, and filled evenly. Each
    message takes one before it is handled. So after a rest, `messages` may come at once: for
    a steady flow say ``RateLimit(messages=1, per=0.01)`` instead of 100 a second.

    Attributes:
        messages: how many.
        per: seconds.

    Raises:
        ConfigError: naming the value that is wrong.
    """

    messages: int
    per: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.messages, int) or self.messages < 1:
            raise ConfigError(
                f"messages must be a whole number of 1 or more, not {self.messages!r}; for "
                "less than one a second make per= longer"
            )
        seconds: object = self.per
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ConfigError(f"per must be seconds above 0, not {seconds!r}")


def check_rate_limit(limit: object) -> None:
    """Check what was given as the limit.

    Raises:
        ConfigError: it is neither a `RateLimit` nor None.
    """
    if limit is not None and not isinstance(limit, RateLimit):
        raise ConfigError(
            f"rate_limit must be a RateLimit(messages=..., per=...) or None, not {limit!r}"
        )


class TokenBucket:
    """The tokens of one limit.

    Args:
        limit: how large the bucket is, and how fast it is filled.
        now: seconds of the clock that all times are of.
    """

    def __init__(self, limit: RateLimit, now: float) -> None:
        self._limit = limit
        self._tokens = float(limit.messages)
        self._as_of = now

    def change(self, limit: RateLimit, now: float) -> None:
        """Go on with another limit; what is in the bucket stays, as far as it holds it."""
        self._fill(now)
        self._limit = limit
        self._tokens = min(self._tokens, limit.messages)

    def _fill(self, now: float) -> None:
        limit = self._limit
        came = (now - self._as_of) * limit.messages / limit.per
        self._tokens = min(self._tokens + came, limit.messages)
        self._as_of = now

    def take(self, now: float, at_most: int = 1) -> int:
        """Take tokens, as many as there are. Returns how many."""
        self._fill(now)
        taken = min(at_most, int(self._tokens + _EPSILON))
        self._tokens -= taken
        return taken

    def give_back(self) -> None:
        """Nobody needed a token that was taken."""
        self._tokens = min(self._tokens + 1, self._limit.messages)

    def next_at(self, now: float) -> float:
        """When there is a token."""
        self._fill(now)
        if self._tokens + _EPSILON >= 1:
            return now
        return now + (1 - self._tokens) * self._limit.per / self._limit.messages
