"""A transaction on its way to the producer's thread, and how far it can be done without."""

from __future__ import annotations

import threading
from collections.abc import Callable

import trio

__all__ = ["GivenUp", "Job"]


class GivenUp(Exception):
    """Nobody waits for the transaction any more."""


class Job:
    """A call for the producer's thread, and who waits for it.

    Attributes:
        given_up: nobody waits any more.
        is_committing: it is too late to give up.
    """

    def __init__(self, call: Callable[[Job], None]) -> None:
        self.call = call
        self.given_up = False
        self.is_committing = False
        self._lock = threading.Lock()
        self.done = trio.Event()
        self.error: BaseException | None = None

    def give_up(self) -> bool:
        """Do without it. Returns whether that could be: else it may be committed yet."""
        with self._lock:
            self.given_up = True
            return not self.is_committing

    def begin_to_commit(self) -> None:
        """It is not to be given up from now on.

        Raises:
            GivenUp: it was.
        """
        with self._lock:
            if self.given_up:
                raise GivenUp
            self.is_committing = True
