"""Carries out `PausePartition`.

::

    failed ─▶ what has not started is dropped ─▶ what has started ends ─▶ forgotten: what is
    finished stays so ─▶ the time is over, or somebody resumes it ─▶ read again
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from math import isinf

import trio

from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka._stages._pausing import address_of

__all__ = ["PolicyPauses"]


class _Pause:
    def __init__(self, due: float) -> None:
        self.due = due
        self.is_quiet = False
        self.resumed = trio.Event()
        self.scope = trio.CancelScope()


class PolicyPauses:
    """The pauses that failed messages have asked for.

    Args:
        stages: what handles the messages.
        settled: waits until all that has arrived is accounted for.
        begin: called to fetch no more of an assignment.
        end: called to read on at its ``position``.
    """

    def __init__(
        self,
        stages: Assignment | PartitionPipelines,
        settled: Callable[[], Awaitable[None]],
        *,
        begin: Callable[[PartitionOffsets], None],
        end: Callable[[PartitionOffsets], None],
    ) -> None:
        self._stages = stages
        self._settled = settled
        self._begin = begin
        self._end = end
        self._of: dict[PartitionOffsets, _Pause] = {}
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        """Let pauses be tasks of `nursery`."""
        self._nursery = nursery

    def begin(self, state: PartitionOffsets, seconds: float) -> None:
        """Pause an assignment. Never waits: nothing of it starts from now on.

        If it is paused already (what had started may fail too), the longer pause counts.
        """
        due = trio.current_time() + seconds
        if (pause := self._of.get(state)) is not None:
            pause.due = max(pause.due, due)
        elif not state.draining:  # else it ends, and what failed is left to Kafka
            self._of[state] = pause = _Pause(due)
            self._begin(state)
            self._stages.drop(state)
            self._nursery.start_soon(self._run, state, pause)

    async def _run(self, state: PartitionOffsets, pause: _Pause) -> None:
        with pause.scope:
            await self._stages.wait_quiet(state)
            await self._settled()
            state.rewind()
            pause.is_quiet = True
            with trio.move_on_at(pause.due):
                await pause.resumed.wait()
            # Since it was last looked at nothing has ended it, or it were cancelled.
            if not pause.scope.cancel_called:
                del self._of[state]
                state.draining = False
                self._end(state)

    def resume(self, address: TopicPartition) -> None:
        """End the pause of a partition early; nothing to do if there is none."""
        for state, pause in self._of.items():
            if address_of(state) == address:
                pause.resumed.set()

    def endless(self) -> set[TopicPartition]:
        """The partitions of which nothing goes on until they are resumed."""
        return {
            address_of(state)
            for state, pause in self._of.items()
            if pause.is_quiet and isinf(pause.due)
        }

    def forget(self, states: Iterable[PartitionOffsets] | None = None) -> None:
        """These assignments (None: all) end: nothing is to be tried again here."""
        for state in [*self._of] if states is None else states:
            if (pause := self._of.pop(state, None)) is not None:
                pause.scope.cancel()
