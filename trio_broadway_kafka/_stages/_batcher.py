"""A batcher: one task that keeps its time, and its workers, which handle batches."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import trio

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._batches import Batches
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Batcher
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment

__all__ = ["BatcherStage", "Worker"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds of handling after which the other tasks get a turn, as for processors.
_PACE = 0.002

Failed = tuple[Message, BaseException, Segment, int]
Settle = Callable[[Sequence[Failed]], Awaitable[None]]


class BatcherStage:
    """One batcher: what it holds, its timer and its workers.

    Args:
        name: its name.
        options: what the user asked for.
        ordered: batches of the same key do not overlap.
        settle: decides what becomes of failed messages: sets their flags, or raises.
        ended: called whenever a batch has been settled.
        stop: called when a task of it ends, and so the pipeline: nothing more may start.

    Attributes:
        stopped: nothing more may start.
    """

    def __init__(
        self,
        name: str,
        options: Batcher,
        *,
        ordered: bool,
        settle: Settle,
        ended: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self.batches = Batches(
            name,
            size=options.size,
            weigh=options.weigh,
            timeout=options.timeout,
            ordered=ordered,
        )
        self.workers = tuple(Worker(self) for _ in range(options.concurrency))
        self.handle: Callable[[Batch], Awaitable[object]] = options.handle_batch
        self.settle = settle
        self.ended = ended
        self.stop = stop
        self.stopped = False
        self.idle = trio.lowlevel.ParkingLot()
        self._untimed = trio.lowlevel.ParkingLot()

    def start(self, nursery: trio.Nursery) -> None:
        """Start its tasks."""
        nursery.start_soon(self._keep_time)
        for worker in self.workers:
            nursery.start_soon(worker.run)

    def changed(self) -> None:
        """Something was added or closed: wake whom it concerns."""
        if self.batches.ready:
            self.idle.unpark(count=len(self.batches.ready))
        if self._untimed:
            self._untimed.unpark()

    async def _keep_time(self) -> None:
        batches = self.batches
        while True:
            deadline = batches.next_deadline
            if deadline is None or math.isinf(deadline):
                await self._untimed.park()
                continue
            # Where batches fill in time, this wakes once in a timeout, not once a batch.
            await trio.sleep_until(deadline)
            batches.close_due(trio.current_time())
            self.changed()


class Worker:
    """Handles one batch at a time.

    Attributes:
        batch: what it is at.
        cutting: the assignments for whose sake its handler was cancelled.
    """

    def __init__(self, stage: BatcherStage) -> None:
        self._stage = stage
        self._scope = trio.CancelScope()
        self.batch: Batch | None = None
        self.cutting: set[PartitionOffsets] = set()
        self.task: trio.lowlevel.Task | None = None
        self.has_ended = trio.Event()

    def interrupt(self, partitions: Collection[PartitionOffsets]) -> None:
        """Cancel the handler that runs, as these assignments end."""
        self.cutting.update(partitions)
        self._scope.cancel()

    async def run(self) -> None:
        stage = self._stage
        batches = stage.batches
        self.task = trio.lowlevel.current_task()
        due = time.perf_counter() + _PACE
        try:
            while True:
                batch = None if stage.stopped else batches.take()
                if batch is None:
                    await stage.idle.park()
                    due = time.perf_counter() + _PACE
                    continue
                self.batch = batch
                try:
                    with trio.CancelScope() as self._scope:
                        await self._handle(batch)
                finally:
                    self.batch = None
                if self.cutting:
                    batches.put_back(batch, self.cutting)
                    self.cutting = set()
                else:
                    batches.done(batch)
                del batch  # a parked task must not keep a batch alive
                stage.ended()
                stage.changed()
                if time.perf_counter() >= due:
                    await trio.lowlevel.checkpoint()
                    due = time.perf_counter() + _PACE
        finally:
            stage.stop()
            self.has_ended.set()

    async def _handle(self, batch: Batch) -> None:
        try:
            if batch.failed:
                await self._settle(batch, None)
                return
            result = await self._stage.handle(batch)
        except Exception as error:
            await self._failed(batch, error)
            return
        except BaseExceptionGroup as group:
            # What a nursery of the handler makes of a cancellation, with what else failed.
            cancelled, _ = group.split(trio.Cancelled)
            if not self.cutting or cancelled is None:
                raise
            raise cancelled from None
        if result is not None:
            mistake = TypeError(
                f"handle_batch returned a {type(result).__name__}; it must return None: "
                "change the messages in place"
            )
            mistake.add_note(f"for {batch!r}")
            raise mistake
        self.cutting.clear()  # it has ended after all
        if batch.has_failures():
            await self._settle(batch, None)
        else:
            batch.finish()

    async def _failed(self, batch: Batch, error: Exception) -> None:
        if self.cutting:
            _log.warning("%r failed as it was cut off: %s", batch, type(error).__name__)
        elif trio.current_effective_deadline() == -math.inf:
            # It failed as the pipeline was cancelled: no reason to acknowledge anything.
            _log.warning("%r failed as it was cancelled: %s", batch, type(error).__name__)
            self._stage.stop()
        else:
            await self._settle(batch, error)

    async def _settle(self, batch: Batch, error: Exception | None) -> None:
        """Settle each message: what has not failed first, so that no failure loses it."""
        failed = []
        for message, (segment, index) in zip(batch.messages, batch.places(), strict=True):
            reason = message._failure or error
            if reason is None:
                segment.flags[index] = SUCCEEDED
            else:
                failed.append((message, reason, segment, index))
        try:
            await self._stage.settle(failed)
        except Exception as raised:
            # What handle_failed raised, perhaps because it was cancelled.
            if self.cutting or trio.current_effective_deadline() == -math.inf:
                _log.warning("%r failed as it was cut off: %s", batch, type(raised).__name__)
            else:
                raise
