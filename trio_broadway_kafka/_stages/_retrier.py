"""The retrier: the task that knows when a failed message's time has come again."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_broadway_kafka._model._lanes import Lanes

__all__ = ["Retrier"]


class Retrier:
    """Lets messages be taken again when they are due.

    Args:
        lanes: where they wait.
        wake: called when some can be taken.
    """

    def __init__(self, lanes: Lanes, wake: Callable[[], None]) -> None:
        self._lanes = lanes
        self._wake = wake
        self._changed = trio.Event()

    def note_waiting(self) -> None:
        """One more waits."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the time, until cancelled."""
        retries = self._lanes.retries
        while True:
            self._changed = trio.Event()
            due = retries.next_due
            with trio.CancelScope() as scope:
                if due is not None:
                    scope.deadline = due
                await self._changed.wait()
            if scope.cancelled_caught and self._lanes.try_again(trio.current_time()):
                self._wake()
