"""What the tasks of all stages share: how they start, give way, and are cancelled."""

from __future__ import annotations

import logging
import math
from collections.abc import Container

import trio

__all__ = ["PACE", "ShieldWhenStarted", "cancellation_of", "is_cancelled", "is_within"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds of handling after which the other tasks get a turn.
PACE = 0.002


def is_cancelled() -> bool:
    """Whether the current task is cancelled: its next checkpoint raises."""
    return trio.current_effective_deadline() == -math.inf


def is_within(tasks: Container[trio.lowlevel.Task | None]) -> bool:
    """Whether the current task is one of these, or runs in a nursery of one."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None and task not in tasks:
        task = task.parent_nursery.parent_task if task.parent_nursery else None
    return task is not None


def cancellation_of(error: BaseException) -> BaseException:
    """A cancellation without what tasks of the handler raised as they were cancelled."""
    if isinstance(error, BaseExceptionGroup):
        cancelled, others = error.split(trio.Cancelled)
        if cancelled is not None and isinstance(others, Exception):
            kinds = ", ".join(type(other).__name__ for other in others.exceptions)
            _log.warning("a handler failed as it was cancelled: %s", kinds)
            return cancelled
    return error


class ShieldWhenStarted:
    """A task status that shields a scope before it says that its task has started."""

    def __init__(self, scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        self._scope = scope
        self._task_status = task_status

    def started(self, value: None = None) -> None:
        # With who waits for it cancelled already, trio leaves the task where it is and waits
        # for its end: shielded, it would never come.
        self._scope.shield = not is_cancelled()
        self._task_status.started(value)
