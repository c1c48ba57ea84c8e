"""The stages of a pipeline over a set of partitions, and how their work ends.

The form with one pipeline over all partitions is one instance, for all of them; in the
form with one pipeline per partition each has its own (see ``_partition_pipelines.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

import trio

from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import Address, PartitionLanes, UnorderedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages
from trio_broadway_kafka._model._policies import FailurePolicy, Stage
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment
from trio_broadway_kafka._model._statistics import BatcherStatistics
from trio_broadway_kafka._model._topology import StagesTopology, topology_of
from trio_broadway_kafka._stages._batcher import BatcherStage
from trio_broadway_kafka._stages._batchers import Batchers
from trio_broadway_kafka._stages._failures import Failures
from trio_broadway_kafka._stages._forwarder import Forwarder
from trio_broadway_kafka._stages._handlers import (
    going_on_from_prepared,
    lane_of_prepared,
    nothing,
    telling,
)
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._preparer import Preparer
from trio_broadway_kafka._stages._processors import Processors
from trio_broadway_kafka._stages._tasks import is_within

__all__ = ["UNWIND", "Assignment"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds that handlers have to unwind after they were cancelled at a revoke's deadline.
# A handler that needs longer no longer blocks the revoke: its outcome is dropped.
UNWIND = 0.1

# Seconds between two log lines about a handler that resists its cancellation.
_RESISTING_LOG = 10.0


class Assignment:
    """Processors, batchers and lanes, from their start to their drain or cancellation.

    Args:
        stages: what to do with the messages.
        lanes: where they come from.
        limiter: how many messages may be taken.
        want: called when few messages are left.
        finished: called after each message, None if nobody needs it.
        failed: called when a task has ended that was not told to, and so the pipeline.
        told: as for `Failures`.
        clock: paces the processors' checkpoints, in seconds.
    """

    def __init__(
        self,
        stages: Stages,
        lanes: KeyedLanes | PartitionLanes | UnorderedLanes,
        *,
        want: Callable[[], None],
        finished: Callable[[], None] | None,
        limiter: Limiter | None = None,
        failed: Callable[[], None] | None = None,
        told: Callable[[Message, FailurePolicy, Stage], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.lanes = lanes
        self._stages = stages
        self._limiter = limiter or Limiter()
        self._failed = failed
        self._scopes: list[trio.CancelScope] = []
        self._ending = False
        self.failures = Failures(stages.on_failure, stages.handle_failed, told)
        self._finished = finished
        self.batchers = Batchers(
            {
                name: BatcherStage(
                    name,
                    batcher,
                    ordered=stages.ordering != "unordered",
                    settle=partial(self.failures.settle_batch, on_failure=batcher.on_failure),
                    ended=self._batch_ended,
                    stop=self._task_ended,
                    clock=clock,
                )
                for name, batcher in stages.batchers.items()
            },
        )
        handle: Callable[[Message], Awaitable[object]] = stages.handle_message or nothing
        lane_of = stages.ordering if callable(stages.ordering) else None
        self.preparer: Preparer | None = None
        if stages.prepare_messages is not None:
            handle = going_on_from_prepared(handle)
            lane_of = None if lane_of is None else lane_of_prepared(lane_of)
            self.preparer = Preparer(
                stages.prepare_messages,
                lanes,
                arrived=self._arrived,
                want=want,
                stop=self._task_ended,
            )
        if finished is not None:
            handle = telling(handle, finished)
        # To pass on what was prepared, in its order, one is enough.
        passing_on = 0 if self.preparer is None else 1
        self.processors = Processors(
            handle=handle,
            lanes=lanes,
            lane_of=lane_of,
            count=passing_on if stages.handle_message is None else stages.concurrency,
            forward=self.batchers.forward if stages.batchers else None,
            settle=self._settle,
            limiter=self._limiter,
            stop=self._task_ended,
            want=want,
            clock=clock,
        )
        self._forwarder: Forwarder | None = None
        if stages.handle_message is None and self.preparer is None:
            self._forwarder = Forwarder(
                lanes=lanes,
                forward=self.batchers.forward_all if stages.batchers else self._acknowledge,
                backlogged=self.batchers.backlogged,
                is_idle=self.batchers.is_idle,
                limiter=self._limiter,
                want=want,
                stop=self._task_ended,
            )
        self._partitions: set[PartitionOffsets] = set()

    def start(self, nursery: trio.Nursery) -> None:
        """Start all tasks in `nursery`."""
        if self.preparer is not None:
            self.preparer.start(nursery)
        tasks = [*self.processors.to_run(), *self.batchers.to_run()]
        if self._forwarder is not None:
            tasks.append(self._forwarder.run)
        for task in tasks:
            nursery.start_soon(self._run, task)
        self._limiter.watch(self._look_again)

    def _look_again(self) -> None:
        self.processors.look_again()
        if self._forwarder is not None:
            self._forwarder.wake()

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            if self._ending:
                scope.cancel()
            await task()

    def end(self) -> None:
        """End all tasks; the pipeline goes on."""
        self._ending = True
        self._limiter.unwatch(self._look_again)
        self.stop()
        if self.preparer is not None:
            self.preparer.end()
        for scope in self._scopes:
            scope.cancel()

    def _task_ended(self) -> None:
        """Nothing more may start, in the whole pipeline if this was no end of its own."""
        self.stop()
        if self._failed is not None and not self._ending:
            self._failed()

    async def _settle(self, message: Message, error: BaseException) -> int:
        try:
            return await self.failures.settle(message, error)
        finally:
            if self._finished is not None:  # its handler may have ended long before
                self._finished()

    def _acknowledge(self, raws: Sequence[object], segment: Segment, first: int) -> None:
        """Finish what nobody wants to handle."""
        segment.flags[first : first + len(raws)] = bytes((SUCCEEDED,)) * len(raws)
        if self._finished is not None:
            self._finished()

    def _batch_ended(self) -> None:
        self.batchers.note_settled()
        if self._finished is not None:
            self._finished()
        if self._forwarder is not None:
            self._forwarder.step()
        else:
            self.processors.want_if_few()

    def includes_caller(self) -> bool:
        """Whether the current task runs a handler, or runs in a nursery of one."""
        tasks = {*self.processors.tasks, *self.batchers.tasks()}
        if self.preparer is not None:
            tasks |= self.preparer.tasks
        return is_within(tasks)

    @property
    def intake(self) -> Preparer | KeyedLanes | PartitionLanes | UnorderedLanes:
        """Where what arrives is put."""
        return self.lanes if self.preparer is None else self.preparer

    @property
    def failed(self) -> int:
        """How many times a handler failed."""
        return self.failures.failed

    @property
    def busy(self) -> int:
        """How many handlers are running."""
        return self.processors.busy + self.batchers.busy

    @property
    def started(self) -> int:
        """How many messages have started and are not finished."""
        return self.processors.busy + self.batchers.held

    def topology(self, address: Address | None = None) -> tuple[StagesTopology, ...]:
        """What the stages are; `address` is the partition whose own they are."""
        return (topology_of(self._stages, address),)

    def batcher_statistics(self) -> tuple[BatcherStatistics, ...]:
        """What each batcher holds and has delivered."""
        return self.batchers.statistics()

    def relieve(self) -> None:
        """No more fits in: if nothing here will make room by itself, a batch must leave."""
        # Who has no batchers pays for a look.
        if self.batchers.stages and self.is_idle():
            self.batchers.relieve()

    def flush_if_idle(self, partitions: Collection[PartitionOffsets]) -> None:
        """No more will come of these: let their batches leave, unless more goes into them."""
        if self.batchers.stages and self.is_idle():
            self.batchers.flush("drain", partitions)

    def is_idle(self) -> bool:
        """Whether nothing is being handled, or about to."""
        return (
            self.batchers.is_idle()
            and not self.processors.has_work()
            and not self.processors.busy
            and (self.preparer is None or self.preparer.is_idle())
        )

    def set_share(self, share: int) -> None:
        """How many blocked messages of one partition may be here from now on."""
        if isinstance(self.lanes, KeyedLanes):
            self.lanes.share = share

    def add(self, partitions: Collection[PartitionOffsets]) -> None:
        """These partitions are handled here from now on."""
        self._partitions.update(partitions)

    def remove(self, partitions: Collection[PartitionOffsets]) -> None:
        """The assignments of these have ended."""
        self._partitions.difference_update(partitions)

    def received(self, segments: Sequence[Segment]) -> None:
        """Segments were added to the intake, or (with none) some that were held came back."""
        if self.preparer is None or not segments:
            self._arrived(segments)

    def _arrived(self, segments: Sequence[Segment]) -> None:
        """Segments were added to the lanes."""
        if self._forwarder is not None:
            self._forwarder.wake()
        elif segments or self.processors.has_work():
            self.processors.wake()

    def drop_all(self) -> None:
        """Drop what has not started."""
        for partition in self._partitions:
            self.intake.drop(partition)

    def stop(self) -> None:
        """Start nothing more, not even what is in batches."""
        self.drop_all()
        self.batchers.stop()

    async def drain(
        self, partitions: Collection[PartitionOffsets] | None, timeout: float
    ) -> int:
        """Drop what has not started of these partitions (None: all), and wait for the rest.

        Their batches leave as they are. After `timeout` seconds their handlers are
        cancelled. Returns how many messages had started and did not finish.
        """
        some = partitions
        if partitions is None:
            self.drop_all()
            partitions = frozenset(self._partitions)
        else:
            for partition in partitions:
                self.intake.drop(partition)
        with trio.move_on_after(timeout) as scope:
            await self.processors.wait_done(partitions)
            self.batchers.flush("drain" if some is None else "revoke", some)
            await self.batchers.wait_done(partitions)
        if not scope.cancelled_caught:
            return 0
        return await self.cut_off(partitions)

    async def cut_off(self, partitions: Collection[PartitionOffsets]) -> int:
        """Cancel the handlers of these partitions. Returns how many messages they had."""
        running = self.processors.handling(partitions)
        left = sum(one.message is not None for one in running) + self._cut_off(partitions)
        with trio.move_on_after(UNWIND):
            await self.processors.wait_done(partitions)
            await self.batchers.wait_done(partitions)
        return left

    def _cut_off(self, partitions: Collection[PartitionOffsets]) -> int:
        for partition in partitions:
            partition.cut_off = True
        for processor in self.processors.handling(partitions):
            processor.interrupt()
        return self.batchers.cut_off(partitions)

    async def leave(self) -> None:
        """Leave what was entered for the stages: nothing, in this form."""

    def give_up(self) -> None:
        """Cancel that."""

    def interrupt(self, partitions: Collection[PartitionOffsets]) -> None:
        """Drop these partitions and cancel their handlers, without waiting."""
        for partition in partitions:
            self.intake.drop(partition)
        self._cut_off(partitions)

    async def wait_ended(self) -> None:
        """Wait until all handlers have ended, and log those that resist."""
        stages: list[Processors | Batchers | Preparer] = [self.processors, self.batchers]
        if self.preparer is not None:
            stages.append(self.preparer)
        started = trio.current_time()
        while stages:
            with trio.move_on_after(_RESISTING_LOG) as scope:
                await stages[0].wait_ended()
                del stages[0]
            if scope.cancelled_caught:
                for stage in stages:
                    stage.log_resisting(trio.current_time() - started)
        waker = self.processors if self._forwarder is None else self._forwarder
        self._limiter.forget(waker.wake)
