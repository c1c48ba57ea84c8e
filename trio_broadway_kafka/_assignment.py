"""The stages of a pipeline over a set of partitions, and how their work ends.

The form with one pipeline over all partitions is one instance, for all of them; in the
form with one pipeline per partition each has its own (see ``_partition_pipelines.py``).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection

import trio

from trio_broadway_kafka._model._batch import Trigger
from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._policies import FailurePolicy, Stage, may_retry
from trio_broadway_kafka._model._stage_times import Times
from trio_broadway_kafka._stages._batchers import Batchers
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._outputs import Outputs
from trio_broadway_kafka._stages._preparer import Preparer
from trio_broadway_kafka._stages._processors import Processors
from trio_broadway_kafka._workings import Workings

__all__ = ["UNWIND", "Assignment"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds that handlers have to unwind after they were cancelled at a revoke's deadline.
# A handler that needs longer no longer blocks the revoke: its outcome is dropped.
UNWIND = 0.1

# Seconds between two log lines about a handler that resists its cancellation.
_RESISTING_LOG = 10.0


# What paces the processors' checkpoints, in seconds: real time, for that is what others wait
# for. A simulation, whose time stands still while a handler works, puts its own here.
pace: Callable[[], float] = time.perf_counter


class Assignment(Workings):
    """Processors, batchers and lanes, from their start to their drain or cancellation.

    Args:
        stages: what to do with the messages.
        lanes: where they come from.
        limiter: how many messages may be taken.
        want: called when few messages are left.
        finished: called after each message, None if nobody needs it.
        failed: called when a task has ended that was not told to, and so the pipeline.
        told: as for `Failures`.
        pause: as for `Failures`; where it is missing nothing is tried again after a pause.
        outputs: where the outputs of messages go.
        group: the consumer group's name, for dead letters.
        times: what the stages spend their time on is put down there.
        clock: paces the processors' checkpoints, in seconds; None is `pace`.
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
        pause: Callable[[PartitionOffsets, float], None] | None = None,
        outputs: Outputs | None = None,
        group: str | None = None,
        times: Times | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._limiter = limiter or Limiter()
        super().__init__(
            stages,
            lanes,
            want=want,
            finished=finished,
            limiter=self._limiter,
            stop=self._task_ended,
            told=told,
            pause=pause or _never_again,
            outputs=outputs or Outputs(),
            group=group,
            times=times or Times(trio.current_time),
            clock=pace if clock is None else clock,
        )
        self._failed = failed
        self._scopes: list[trio.CancelScope] = []
        self._ending = False

    def start(self, nursery: trio.Nursery) -> None:
        """Start all tasks in `nursery`."""
        if self.preparer is not None:
            self.preparer.start(nursery)
        tasks = [*self.processors.to_run(), *self.batchers.to_run()]
        if self.forwarder is not None:
            tasks.append(self.forwarder.run)
        if may_retry(self._stages.on_failure):
            tasks.append(self.retrier.run)
        for task in tasks:
            nursery.start_soon(self._run, task)
        self._limiter.watch(self._look_again)

    def _look_again(self) -> None:
        self.processors.look_again()
        if self.forwarder is not None:
            self.forwarder.wake()

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

    def add(self, partitions: Collection[PartitionOffsets]) -> None:
        """These partitions are handled here from now on."""
        self._partitions.update(partitions)

    def remove(self, partitions: Collection[PartitionOffsets]) -> None:
        """The assignments of these have ended."""
        self._partitions.difference_update(partitions)

    def drop_all(self) -> None:
        """Drop what has not started."""
        for partition in self._partitions:
            self.drop(partition)

    def drop(self, partition: PartitionOffsets) -> None:
        """Drop what has not started of a partition."""
        self.intake.drop(partition)
        if self.lanes.waiting:
            self.processors.wake()  # lanes that were held for it may be free

    def stop(self) -> None:
        """Start nothing more, not even what is in batches."""
        self.drop_all()
        self.batchers.stop()

    async def wait_quiet(self, partition: PartitionOffsets) -> None:
        """Let the batches of a partition leave, and wait for all that has started of it."""
        if self.preparer is not None:
            await self.preparer.wait_done(partition)
        await self.drain((partition,), math.inf, trigger="drain")

    async def drain(
        self,
        partitions: Collection[PartitionOffsets] | None,
        timeout: float,
        *,
        trigger: Trigger = "revoke",
    ) -> int:
        """Drop what has not started of these partitions (None: all), and wait for the rest.

        Their batches leave as they are, by `trigger`, or "drain" for all. After `timeout`
        seconds their handlers are cancelled. Returns how many messages had started and did
        not finish.
        """
        some = partitions
        if partitions is None:
            self.drop_all()
            partitions = frozenset(self._partitions)
        else:
            for partition in partitions:
                self.drop(partition)
        self.batchers.drop_retries(partitions)
        with trio.move_on_after(timeout) as scope:
            await self.processors.wait_done(partitions)
            self.batchers.flush("drain" if some is None else trigger, some)
            await self.batchers.wait_done(partitions)
            await self.outputs.wait_delivered(partitions)
        if not scope.cancelled_caught:
            return 0
        return await self.cut_off(partitions)

    async def cut_off(self, partitions: Collection[PartitionOffsets]) -> int:
        """Cancel the handlers of these partitions. Returns how many messages they had."""
        running = self.processors.handling(partitions)
        left = sum(one.message is not None for one in running) + self._cut_off(partitions)
        left += sum(partition.leaving for partition in partitions)
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
            self.drop(partition)
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
        waker = self.processors if self.forwarder is None else self.forwarder
        self._limiter.forget(waker.wake)


def _never_again(partition: PartitionOffsets, seconds: float) -> None:
    """What failed stays unfinished."""
