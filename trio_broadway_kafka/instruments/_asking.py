"""Asking pipelines from any thread: exporters have threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

__all__ = ["Asking"]

T = TypeVar("T")


class Asking:
    """Calls functions where pipelines may be asked: in trio's thread."""

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None

    def note_loop(self) -> None:
        """A pipeline has opened: its loop is the one to ask in."""
        self._token = trio.lowlevel.current_trio_token()

    def ask(self, function: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What `function` returns; `otherwise` if trio's loop is over, or has not begun."""
        if self._token is None:
            return otherwise()
        if trio.lowlevel.in_trio_run():
            return function()
        try:
            return trio.from_thread.run_sync(function, trio_token=self._token)
        except trio.RunFinishedError:
            return otherwise()
