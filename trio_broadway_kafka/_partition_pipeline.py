"""The stages of one assigned partition: entered, worked with, and left.

::

    assigned ─▶ entering ─▶ at work ─▶ drained ─▶ leaving ─▶ left: committed, released
                (paused)    (fetched)             (nothing is committed)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from trio_broadway_kafka._assignment import UNWIND, Assignment
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages, StagesFactory

__all__ = ["PartitionPipeline"]

_log = logging.getLogger("trio_broadway_kafka")


class PartitionPipeline:
    """The stages of one assignment of one partition.

    Args:
        state: the assignment.
        factory: the user's.
        previous: each set when those of an earlier assignment of the partition have been left.
        begin: makes the stages work, once they are there.

    Attributes:
        assignment: the stages at work; None before they are there.
        left: set when its task ends: whatever was entered has been left.
    """

    def __init__(
        self,
        state: PartitionOffsets,
        factory: StagesFactory,
        previous: Sequence[trio.Event],
        begin: Callable[[PartitionOffsets, Stages], Assignment],
    ) -> None:
        self.state = state
        self.assignment: Assignment | None = None
        self.left = trio.Event()
        self.scope = trio.CancelScope(shield=True)
        self.task: trio.lowlevel.Task | None = None
        self._factory = factory
        self._previous = previous
        self._begin = begin
        self._to_leave = trio.Event()
        self._has_context = True

    def __repr__(self) -> str:
        return f"the stages of {self.state.topic}/{self.state.partition}"

    async def run(self) -> None:
        """Enter the stages, wait until they are to be left, leave them."""
        self.task = trio.lowlevel.current_task()
        doing = "entering"
        swallowed: BaseException | None = None
        try:
            with self.scope:
                # All of them: the last one may have ended while it waited for the others.
                for left in self._previous:
                    await left.wait()
                await trio.lowlevel.checkpoint_if_cancelled()
                made = self._factory(self.state.topic, self.state.partition)
                if isinstance(made, Stages):
                    self._has_context = False  # and so nothing that leaving could lose
                    await self._work(made)
                elif hasattr(type(made), "__aenter__"):
                    async with made as stages:
                        doing = "in the context of"
                        try:
                            await self._work(stages)
                        except BaseException as error:
                            swallowed = error
                            raise
                        doing = "leaving"
                    if swallowed is not None and not self.scope.cancel_called:
                        raise _ended_too_early() from swallowed
                else:
                    raise _wrong(made)
                if not self.scope.cancel_called:  # else something may not have been done
                    self.state.sealed = False
        except BaseException as error:
            error.add_note(f"{doing} {self!r}")
            raise
        finally:
            del swallowed  # its traceback leads here
            self.left.set()

    async def _work(self, stages: Stages) -> None:
        if not isinstance(stages, Stages):
            raise _wrong(stages)
        # Entering may have resisted: its assignment may have ended long ago.
        await trio.lowlevel.checkpoint_if_cancelled()
        self.assignment = assignment = self._begin(self.state, stages)
        try:
            await self._to_leave.wait()
        finally:
            self.state.sealed = self._has_context
            assignment.end()
            with trio.CancelScope(shield=True):
                await assignment.wait_ended()

    def cancel(self) -> None:
        """Enter no further, or leave without more ado."""
        self.scope.cancel()

    async def drain(self, timeout: float, least: float) -> int:
        """Drain and leave within `timeout`; the leaving has at least `least` seconds.

        Returns how many messages had started and were left unfinished.
        """
        deadline = trio.current_time() + timeout
        left = 0
        if self.assignment is not None:
            left = await self.assignment.drain([self.state], timeout)
        await self.leave(max(deadline, trio.current_time() + least))
        return left

    async def leave(self, deadline: float) -> None:
        """Leave the stages; at the deadline that is cancelled, and nothing is committed."""
        if self.left.is_set():
            return
        if self.assignment is None:
            self.cancel()
        else:
            self.state.sealed = self._has_context
            self.scope.deadline = min(self.scope.deadline, deadline)
            self._to_leave.set()
        with trio.move_on_at(max(deadline, trio.current_time()) + UNWIND) as waiting:
            await self.left.wait()
        if waiting.cancelled_caught:
            _log.warning(
                "%r have not been left in time: what is not committed of them is handled "
                "again, and the next ones wait",
                self,
            )


def _ended_too_early() -> RuntimeError:
    return RuntimeError(
        "the context ended though nobody left it, so its partition would never be handled: at "
        "its yield it swallowed an exception, or what it had cancelled itself; raise there "
        "what the matter is"
    )


def _wrong(made: object) -> ConfigError:
    return ConfigError(
        "stages, as a function, must return a Stages(...) or an async context manager of "
        f"one for each partition, not {type(made).__name__}"
    )
