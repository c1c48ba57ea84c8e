"""A service task: cancellable until it has started, then ended by its owner only."""

from __future__ import annotations

import math

import trio

__all__ = ["ShieldWhenStarted"]


class ShieldWhenStarted:
    """A task status that shields a scope before it says that its task has started."""

    def __init__(self, scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        self._scope = scope
        self._task_status = task_status

    def started(self, value: None = None) -> None:
        # With who waits for it cancelled already, trio leaves the task where it is and waits
        # for its end: shielded, it would never come.
        self._scope.shield = trio.current_effective_deadline() > -math.inf
        self._task_status.started(value)
