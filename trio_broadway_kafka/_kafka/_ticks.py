"""Whether trio's loop still turns, asked from the feeder's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["TICK_EVERY", "Ticks"]

TICK_EVERY: Final = 0.25
TICK_LIMIT: Final = 1.0
"""Seconds in which trio's loop must answer a tick, for the polling to go on."""


class Ticks:
    """Sends a tick now and then, and tells whether the last one was answered in time.

    Args:
        post: calls a function in trio's thread soon.
    """

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._sent_at = 0.0
        self._sent = 0
        self._answered = 0

    def answered(self, now: float) -> bool:
        """Whether trio's loop answers; to be asked every `TICK_EVERY` seconds or so."""
        if self._answered != self._sent:
            return now - self._sent_at < TICK_LIMIT
        if now - self._sent_at >= TICK_EVERY:
            self._sent += 1
            self._sent_at = now
            self._post(self._answer, self._sent)
        return True

    def _answer(self, number: int) -> None:
        self._answered = number
