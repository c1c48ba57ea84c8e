"""What the source tells, carried out: assignments begin, are drained, and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import trio
from trio_util import AsyncValue

from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._fan_out import FanOut
from trio_broadway_kafka._kafka._client import AssignedPartition, TopicPartition
from trio_broadway_kafka._model._demand import Demand
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import PipelineOptions
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._model._statistics import Counts
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka._stages._acknowledger import Acknowledger

__all__ = ["Listener"]

_log = logging.getLogger("trio_broadway_kafka")


# Seconds of a revoke that are left for its transaction when the handlers' time is over.
_COMMITTING = 0.7


class Listener:
    """The `SourceListener` of a pipeline.

    Args:
        name: the pipeline's, for logs.
        options: the pipeline's.
        partitions: the live assignments.
        assignment: the stages.
        acknowledger: commits what is finished.
        demand: knows a partition's share.
        finished: called when something may have finished, None if nobody needs it.
        ending: called with assignments that begin to end.
        ended: called with assignments that have ended.
        told: the instruments.

    Attributes:
        assigned_once: whether there has been an assignment.
        ended_counts: counts over assignments that have ended.
    """

    def __init__(
        self,
        name: str,
        options: PipelineOptions,
        partitions: Mapping[TopicPartition, PartitionOffsets],
        assignment: Assignment | PartitionPipelines,
        acknowledger: Acknowledger,
        demand: Demand,
        *,
        finished: Callable[[], None] | None,
        ending: Callable[[Sequence[PartitionOffsets]], None],
        ended: Callable[[Sequence[PartitionOffsets]], None],
        told: FanOut,
    ) -> None:
        self.assigned_once = AsyncValue(False)
        self.ended_counts = Counts()
        self._revokes: set[trio.CancelScope] = set()
        self._given_up = False
        self._is_full = False
        self._name = name
        self._options = options
        self._partitions = partitions
        self._assignment = assignment
        self._acknowledger = acknowledger
        self._demand = demand
        self._finished = finished
        self._ending = ending
        self._ended = ended
        self._told = told
        self._failure: AsyncValue[BaseException | None] = AsyncValue(None)
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        """Let revokes be tasks of `nursery`."""
        self._nursery = nursery

    async def raise_failure(self) -> None:
        """Wait for a failure of the client or of a listener, and raise it."""
        failure = await self._failure.wait_value(lambda failure: failure is not None)
        assert failure is not None
        raise failure

    def give_up(self) -> None:
        """Cancel the revokes under way, and those that have not begun."""
        self._given_up = True
        for scope in self._revokes:
            scope.cancel()

    # See `SourceListener`.

    def assigned(self, partitions: Sequence[PartitionOffsets]) -> None:
        self._told.assigned(partitions)
        self._assignment.add(partitions)
        self._share_anew()
        self.assigned_once.value = True
        if self._finished is not None and any(p.to_commit is not None for p in partitions):
            self._finished()  # where it starts is to be committed

    def revoking(
        self, assigned: Sequence[AssignedPartition], partitions: Sequence[PartitionOffsets]
    ) -> None:
        self._ending(partitions)
        self._nursery.start_soon(self._revoke, assigned, partitions)

    async def _revoke(
        self, assigned: Sequence[AssignedPartition], partitions: Sequence[PartitionOffsets]
    ) -> None:
        # Shielded: the rebalance waits for it, and it ends by its own deadline.
        since = trio.current_time()
        with trio.CancelScope(shield=True) as scope:
            self._revokes.add(scope)
            if self._given_up:  # it came as the client was closed: nobody commits any more
                scope.cancel()
            left = await self._assignment.drain(
                frozenset(partitions), self._options.revoke_timeout
            )
            self.note_cut_off(left, self._options.revoke_timeout)
            # The client waits a second longer than the handlers have: time for a transaction.
            deadline = since + self._options.revoke_timeout + _COMMITTING
            await self._acknowledger.release(assigned, partitions, deadline)
            self._end(partitions, lost=False, duration=trio.current_time() - since)
        self._revokes.discard(scope)

    def note_cut_off(self, left: int, seconds: float) -> None:
        """Log how many messages had no time to finish."""
        if left:
            _log.warning(
                "%s: cut off %d messages whose handlers did not end within %.1f s; they are "
                "handled again",
                self._name,
                left,
                seconds,
            )

    def lost(self, partitions: Sequence[PartitionOffsets]) -> None:
        _log.warning("%s: lost %s", self._name, ", ".join(map(repr, partitions)))
        self._ending(partitions)
        self._assignment.interrupt(partitions)
        self._end(partitions, lost=True, duration=0.0)

    def _end(
        self, partitions: Sequence[PartitionOffsets], *, lost: bool, duration: float
    ) -> None:
        # A partition may be lost while its revoke drains it: it ends once.
        partitions = [partition for partition in partitions if partition.live]
        self._told.ended(partitions, lost=lost, duration=duration)
        self.ended_counts.add(partitions)
        self._ended(partitions)
        self._assignment.remove(partitions)
        self._share_anew()

    def _share_anew(self) -> None:
        self._assignment.set_share(self._demand.share(len(self._partitions)))

    def received(self, segments: Sequence[Segment]) -> None:
        self._acknowledger.received(segments)
        to_handle = [segment for segment in segments if segment.untaken]
        if to_handle or not segments:
            self._told.received(to_handle)
            self._assignment.received(to_handle)
        if self._finished is not None:
            self._finished()

    def wanted(self, count: int) -> None:
        is_full = not count
        if is_full != self._is_full:
            self._is_full = is_full
            self._assignment.set_full(is_full)
        if is_full:
            self._assignment.relieve()

    def failed(self, error: BaseException) -> None:
        if self._nursery.cancel_scope.cancel_called:  # nobody is left to raise it
            _log.error("%s: while closing: %s", self._name, error)
        if self._failure.value is None:
            self._failure.value = error
