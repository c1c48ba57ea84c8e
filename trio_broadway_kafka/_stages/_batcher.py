"""A batcher: one task that keeps its time, and its workers, which handle batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

import trio

from trio_broadway_kafka._model._batch import Batch, Failed
from trio_broadway_kafka._model._batches import Batches
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Batcher
from trio_broadway_kafka._model._retries import TryAgainTogether
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment
from trio_broadway_kafka._model._stage_times import Times
from trio_broadway_kafka._stages._tasks import PACE, cancellation_of, is_cancelled

__all__ = ["BatcherStage", "Worker"]

_log = logging.getLogger("trio_broadway_kafka")

Settle = Callable[[Sequence[Failed]], Awaitable[TryAgainTogether | None]]


class BatcherStage:
    """One batcher: what it holds, its timer and its workers.

    Args:
        name: its name.
        options: what the user asked for.
        ordered: batches of the same key do not overlap.
        settle: decides what becomes of failed messages: sets their flags, or raises, or
            says which are to be tried again.
        finish: gives the flag of a message that is settled, 0 while its outputs leave.
        retries: whether any may be tried again.
        ended: called whenever a batch has been settled.
        stop: called when a task of it ends, and so the pipeline: nothing more may start.
        times: what its workers spend their time on is put down there.
        clock: paces the checkpoints, in seconds.

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
        finish: Callable[[Segment, int, Message, int], int],
        retries: bool,
        ended: Callable[[], None],
        stop: Callable[[], None],
        times: Times,
        clock: Callable[[], float],
    ) -> None:
        self.batches = Batches(
            name,
            size=options.size,
            weigh=options.weigh,
            timeout=options.timeout,
            ordered=ordered,
            clock=trio.current_time,
        )
        self.workers = tuple(Worker(self) for _ in range(options.concurrency))
        self._keeps_time = retries or not math.isinf(options.timeout)
        self.retries = retries
        self.handle: Callable[[Batch], Awaitable[object]] = options.handle_batch
        self.settle = settle
        self.finish = finish
        self.ended = ended
        self.stop = stop
        self.all_times = times
        self.times = times.of(f"handle_batch:{name}")
        self.clock = clock
        self.stopped = False
        self.idle = trio.lowlevel.ParkingLot()
        self._untimed = trio.lowlevel.ParkingLot()
        self._sleep = trio.CancelScope()

    def to_run(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """The tasks that make it work."""
        if self._keeps_time:
            yield self._keep_time
        for worker in self.workers:
            yield worker.run

    def changed(self) -> None:
        """Something was added or closed: wake whom it concerns."""
        if self.batches.ready:
            self.idle.unpark(count=len(self.batches.ready))
        if self._untimed:
            self._untimed.unpark()
        elif self.retries and (deadline := self.batches.next_deadline) is not None:
            # Without retries those come in order, and the first is slept for.
            self._sleep.deadline = min(self._sleep.deadline, deadline)

    async def _keep_time(self) -> None:
        batches = self.batches
        while True:
            deadline = batches.next_deadline
            if deadline is None:
                await self._untimed.park()
                continue
            # Where batches fill in time, this wakes once in a timeout, not once a batch.
            with trio.move_on_at(deadline) as self._sleep:
                await trio.sleep_forever()
            batches.close_due()
            self.changed()

    def done(self, batch: Batch, again: TryAgainTogether | None) -> None:
        """A batch has been settled, but for what is to be tried again."""
        failed = () if again is None else again.failed
        # A partition may have been revoked while handle_failed ran.
        failed = [one for one in failed if not one.segment.partition.draining]
        if again is None or not failed:
            self.batches.done(batch)
        else:
            self.batches.try_again(batch, batch._again(failed), again.due)


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
        self._again: TryAgainTogether | None = None
        self.task: trio.lowlevel.Task | None = None
        self.has_ended = trio.Event()

    def interrupt(self, partitions: Collection[PartitionOffsets]) -> None:
        """Cancel the handler that runs, as these assignments end."""
        self.cutting.update(partitions)
        self._scope.cancel()

    async def run(self) -> None:
        stage = self._stage
        batches = stage.batches
        clock = stage.clock
        self.task = trio.lowlevel.current_task()
        due = clock() + PACE
        stage.times.change(tasks=1)
        try:
            while True:
                batch = None if stage.stopped else batches.take()
                if batch is None:
                    await stage.idle.park()
                    due = clock() + PACE
                    continue
                self.batch = batch
                self._again = None
                try:
                    with trio.CancelScope() as self._scope:
                        await self._handle(batch)
                finally:
                    self.batch = None
                if self.cutting:
                    batches.put_back(batch, self.cutting)
                    self.cutting = set()
                else:
                    stage.done(batch, self._again)
                    self._again = None
                del batch  # a parked task must not keep a batch alive
                stage.ended()
                stage.changed()
                if clock() >= due:
                    await trio.lowlevel.checkpoint()
                    due = clock() + PACE
        finally:
            stage.times.change(tasks=-1)
            stage.stop()
            self.has_ended.set()

    async def _handle(self, batch: Batch) -> None:
        """Handle a batch and settle its messages; `cutting` is empty if all of them are."""
        try:
            if not batch._failed:
                await self._call(batch)
            elif not self._is_void(batch, batch.messages[0].failure):
                await self._settle(batch, None)
        except BaseExceptionGroup as group:
            if not self.cutting:
                raise
            raise cancellation_of(group) from None

    async def _call(self, batch: Batch) -> None:
        if self._stage.retries:
            batch._note_starts()
        times = self._stage.times
        started = times.change(busy=1)
        try:
            result = await self._stage.handle(batch)
        except Exception as error:
            ended = times.change(busy=-1)
            if not self._is_void(batch, error):
                times.note(ended - started, ended)
                await self._settle(batch, error)
            return
        except BaseException:
            times.change(busy=-1)
            raise
        ended = times.change(busy=-1)
        times.note(ended - started, ended)
        if result is not None:
            mistake = TypeError(
                f"handle_batch returned a {type(result).__name__}; it must return None: "
                "change the messages in place"
            )
            mistake.add_note(f"for {batch!r}")
            raise mistake
        if batch._has_special():
            await self._settle(batch, None)
        else:
            batch._finish()
            self._stage.all_times.note_end(batch._first_record, ended)
            self.cutting.clear()  # it has ended after all

    async def _settle(self, batch: Batch, error: Exception | None) -> None:
        """Settle each message: what has not failed first, so that no failure loses it."""
        failed = []
        for message, (segment, index) in zip(batch.messages, batch._places(), strict=True):
            reason = message._failure or error
            if reason is None:
                segment.flags[index] = self._stage.finish(segment, index, message, SUCCEEDED)
            else:
                failed.append(Failed(message, reason, segment, index))
        try:
            self._again = await self._stage.settle(failed)
        except Exception as raised:
            # The handler's own under Stop, or what handle_failed raised, perhaps because
            # it was cancelled meanwhile.
            if not self._is_void(batch, raised):
                raise

    def _is_void(self, batch: Batch, error: BaseException | None) -> bool:
        """Whether a failure counts for nothing: the messages are left unfinished."""
        kind = type(error).__name__
        if self.cutting:
            _log.warning("%r failed as it was cut off: %s", batch, kind)
            return True
        if is_cancelled():
            # It failed as the pipeline was cancelled: no reason to acknowledge anything.
            _log.warning("%r failed as it was cancelled: %s", batch, kind)
            self._stage.stop()
            return True
        return False
