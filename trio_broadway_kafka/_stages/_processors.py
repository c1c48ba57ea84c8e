"""All processors of an assignment, and what they share: the pace, the parking, the waits."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator
from typing import Any

import trio

from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._retries import TryAgain
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment
from trio_broadway_kafka._model._stage_times import StageTimes, Times
from trio_broadway_kafka._stages._keyed_processor import KeyedProcessor
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._processor import Processor
from trio_broadway_kafka._stages._tasks import PACE

__all__ = ["Processors"]

_log = logging.getLogger("trio_broadway_kafka")


class Processors:
    """All processors of one assignment, and what they share.

    Args:
        handle: the user's handler.
        lanes: what may be taken, and in which order.
        lane_of: the lane of a message, None for its key (only with `KeyedLanes`).
        count: how many.
        forward: puts a handled message where it goes next, or says that it can't (the
            message has failed then); None where a handled message is finished.
        settle: decides what becomes of a failed message: returns its flag, or when it is to
            be tried again, or raises.
        waiting: called when a message waits to be tried again.
        finish: gives the flag of a message that is settled, 0 while its outputs leave.
        stop: called when the first processor ends, and so the pipeline: nothing more may
            start, not even what another one would take before it is cancelled.
        limiter: how many messages may be taken.
        want: called whenever few messages are left to take.
        times: how long messages take from end to end is put down there.
        own_times: what the processors spend their time on, there.
        clock: seconds; tests inject one that does not run away.

    Attributes:
        due: when the next checkpoint of them all is due.
        running: how many are not parked.
        tasks: the tasks that they are.
        success: the flag of a message whose handler has returned.
    """

    def __init__(
        self,
        *,
        handle: Callable[[Message], Awaitable[object]],
        lanes: KeyedLanes | PartitionLanes | UnorderedLanes,
        lane_of: Callable[[Message], Hashable] | None,
        count: int,
        forward: Callable[[Segment, int, Message], bool] | None,
        settle: Callable[[Message, BaseException, PartitionOffsets], Awaitable[int | TryAgain]],
        waiting: Callable[[], None],
        finish: Callable[[Segment, int, Message, int], int],
        stop: Callable[[], None],
        limiter: Limiter,
        want: Callable[[], None],
        times: Times,
        own_times: StageTimes,
        clock: Callable[[], float],
    ) -> None:
        self.handle = handle
        self.lanes = lanes
        self.lane_of = lane_of
        self.forward = forward
        self.success = SUCCEEDED if forward is None else 0
        self.settle = settle
        self.note_waiting = waiting
        self.finish = finish
        self.stop = stop
        self.clock = clock
        self.due = clock() + PACE
        kind = KeyedProcessor if isinstance(lanes, KeyedLanes) else Processor
        self.all = tuple(kind(self) for _ in range(count))
        self._limiter = limiter
        self._want = want
        self._all_times = times
        self._times = own_times
        self._parked = 0
        self._is_full = self._is_limited = self._is_blocked = False
        self.tasks: set[trio.lowlevel.Task] = set()
        self._lot = trio.lowlevel.ParkingLot()
        self._released: trio.Event | None = None
        self.running = 0
        self._ended = trio.Event()
        self._left = count
        if not count:
            self._ended.set()

    @property
    def busy(self) -> int:
        """How many handlers are running."""
        return sum(processor.message is not None for processor in self.all)

    def want_if_few(self) -> None:
        """Ask for more if so few messages can be taken that it should be on its way.

        None at all while one processor does all the work, for then handlers do not wait;
        otherwise two for each processor at work: all of them may end in one turn of the loop,
        and what was asked for arrives with the next.
        """
        running = self.running
        if not self.lanes.has_more_than(2 * running if running > 2 else 0):
            self._want()
            if self.has_work():  # what was held may have come back
                self.wake()

    def wake(self) -> None:
        """There is something to take: wake one processor, which wakes the next."""
        self._lot.unpark()

    def to_run(self) -> Iterable[Callable[[], Awaitable[None]]]:
        """The tasks that make it work."""
        return (processor.run for processor in self.all)

    async def wait_ended(self) -> None:
        """Wait until every processor task has ended."""
        await self._ended.wait()

    def note_started(self) -> None:
        """The current task is a processor."""
        self.tasks.add(trio.lowlevel.current_task())
        self.running += 1
        self._times.change(tasks=1, busy=1)

    def note_ended(self) -> None:
        """The current task is one no longer."""
        self.tasks.discard(trio.lowlevel.current_task())
        self.running -= 1
        self._times.change(tasks=-1, busy=-1)
        is_first = self._left == len(self.all)
        # Before what may raise: closing waits for it, shielded.
        self._left -= 1
        if not self._left:
            self._ended.set()
        if is_first:
            self.stop()

    async def park(self) -> None:
        """Wait for something to take."""
        self.running -= 1
        try:
            if self.lanes.is_empty():  # without a limit it is
                self._want()
            if not self.can_take():  # what was held may have come back
                # If there is something to take it is the limit that forbids it.
                self.set_blocked(limited=not self.lanes.is_empty())
                await self._wait()
        finally:
            self.running += 1
        self.due = self.clock() + PACE
        # One wakes the next, later ones two each: a slow handler's processors are all at
        # work within a few turns, a fast one's wake a single one in vain.
        if self.can_take():
            self._lot.unpark(count=1 if self.running == 1 else 2)

    async def _wait(self) -> None:
        self._times.change(busy=-1, blocked=self._is_blocked)
        self._parked += 1
        try:
            await self._lot.park()
        finally:
            self._parked -= 1
            self._times.change(busy=1, blocked=-self._is_blocked)
            self.set_blocked(limited=False)

    def set_blocked(self, *, full: bool | None = None, limited: bool | None = None) -> None:
        """Why those that wait might have something to do if it was not for a bound: no more
        fits in, or there are no tokens. None: as before."""
        self._is_full = self._is_full if full is None else full
        self._is_limited = self._is_limited if limited is None else limited
        is_blocked = self._is_full or self._is_limited
        if is_blocked != self._is_blocked:
            self._is_blocked = is_blocked
            self._times.change(blocked=self._parked if is_blocked else -self._parked)

    def next_handle(self) -> Callable[[Message], Awaitable[object]]:
        """The handler for what is taken next: now and then it is timed."""
        return self._handle_timed if self._times.is_sample() else self.handle

    async def _handle_timed(self, message: Message) -> object:
        began = self._times.begin()
        try:
            result = await self.handle(message)
        except Exception:
            self._times.end(began)
            raise
        now = self._times.end(began)
        if self.forward is None and message.failure is None:
            self._all_times.note_end(message._record, now)
        return result

    def has_work(self) -> bool:
        """Whether a processor would find something to do."""
        return bool(self.lanes.waiting) or self.lanes.has_more_than(0)

    def can_take(self) -> bool:
        """Whether a processor may do it now: what has no token waits for one."""
        if self.lanes.waiting:
            return True
        return not self.lanes.is_empty() and self._limiter.ready(self.wake)

    def acquire(self) -> Segment | None:
        """A segment to take messages from."""
        return self.lanes.acquire() if self._limiter.ready(self.wake) else None

    def items_of(self, segment: Segment) -> Iterator[tuple[Any, int]]:
        """What may be taken of it: it ends where the tokens do."""
        limited = self._limiter.limit is not None
        return self._limiter.limited(segment) if limited else segment.items

    def look_again(self) -> None:
        """The limit has changed, or a limit has come: let nobody go on without asking."""
        for processor in self.all:
            if processor.segment is not None:
                processor.segment.put_back(())
        self.wake()

    async def let_others_run(self) -> None:
        """The checkpoint that is due."""
        self.due = self.clock() + PACE
        await trio.lowlevel.checkpoint()
        self.due = self.clock() + PACE

    def note_released(self) -> None:
        """A processor is done with a segment."""
        if self._released is not None:
            self._released.set()
            self._released = None

    def handling(self, partitions: Collection[PartitionOffsets]) -> list[Processor]:
        """The processors that are at a message of these assignments."""
        return [processor for processor in self.all if processor.is_at(partitions)]

    async def wait_done(self, partitions: Collection[PartitionOffsets]) -> None:
        """Wait until no handler runs for a message of these assignments.

        Their other messages must have been dropped before, so that none can start.
        """
        remaining = self.handling(partitions)
        while remaining:
            if remaining[-1].is_at(partitions):
                if self._released is None:
                    self._released = trio.Event()
                await self._released.wait()
            else:
                remaining.pop()

    def log_resisting(self, since: float) -> None:
        """Log which handlers go on in spite of their cancellation."""
        for processor in self.all:
            if processor.message is not None:
                _log.warning(
                    "the handler of %r goes on %.0f s after it was cancelled",
                    processor.message,
                    since,
                )
