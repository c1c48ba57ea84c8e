"""The processors: N tasks that take messages and run the handler.

The loops below are the hot path. A message whose handler does not wait costs no task, no
scope, no channel hop and no checkpoint of its own; a checkpoint is due once in `PACE`
seconds for all processors together. The order rules they keep are stated in
``_model/_lanes.py``, whose fields they read inline.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Any

import trio

from trio_broadway_kafka._model._lanes import KeyedLanes, PartitionLanes, UnorderedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import SUCCEEDED, PartitionOffsets, Segment

__all__ = ["PACE", "Processors"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds of handling after which the other tasks get a turn. The clock is looked at at
# every eighth message of a segment: `index & _LOOK_MASK` costs less than counting.
PACE = 0.002
_LOOK_MASK = 7


class Processors:
    """All processors of one assignment, and what they share.

    Args:
        handle: the user's handler.
        lanes: what may be taken, and in which order.
        lane_of: the lane of a message, None for its key (only with `KeyedLanes`).
        count: how many.
        settle: decides what becomes of a failed message: returns its flag or raises.
        want: called whenever few messages are left to take.
        clock: seconds; tests inject one that does not run away.
    """

    def __init__(
        self,
        *,
        handle: Callable[[Message], Awaitable[object]],
        lanes: KeyedLanes | PartitionLanes | UnorderedLanes,
        lane_of: Callable[[Message], Hashable] | None,
        count: int,
        settle: Callable[[Message, BaseException], int],
        want: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.handle = handle
        self.lanes = lanes
        self.lane_of = lane_of
        self.settle = settle
        self.clock = clock
        self.due = clock() + PACE
        self.all = tuple(_Processor(self) for _ in range(count))
        self._want = want
        self.tasks: set[trio.lowlevel.Task] = set()
        self._lot = trio.lowlevel.ParkingLot()
        self._released: trio.Event | None = None
        self._running = 0
        self._ended = trio.Event()
        self._left = count

    @property
    def running(self) -> int:
        """How many processors are not parked."""
        return self._running

    @property
    def busy(self) -> int:
        """How many handlers are running."""
        return sum(processor.message is not None for processor in self.all)

    def want_if_few(self) -> None:
        """Ask for more if so few messages can be taken that it should be on its way.

        None at all while one processor does all the work, for then handlers do not wait;
        about one for each processor at work otherwise.
        """
        running = self._running
        if not self.lanes.has_more_than(running if running > 2 else 0):
            self._want()

    def wake(self) -> None:
        """There is something to take: wake one processor, which wakes the next."""
        self._lot.unpark()

    def start(self, nursery: trio.Nursery) -> None:
        """Start all of them in `nursery`."""
        for processor in self.all:
            nursery.start_soon(processor.run)

    async def wait_ended(self) -> None:
        """Wait until every processor task has ended."""
        await self._ended.wait()

    def note_started(self) -> None:
        """The current task is a processor."""
        self.tasks.add(trio.lowlevel.current_task())
        self._running += 1

    def note_ended(self) -> None:
        """The current task is one no longer."""
        self.tasks.discard(trio.lowlevel.current_task())
        self._running -= 1
        self._left -= 1
        if not self._left:
            self._ended.set()

    async def park(self) -> None:
        """Wait for something to take."""
        self._running -= 1
        try:
            self._want()
            await self._lot.park()
        finally:
            self._running += 1
        self.due = self.clock() + PACE
        # One wakes the next, later ones two each: a slow handler's processors are all at
        # work within a few turns, a fast one's wake a single one in vain.
        if self.has_work():
            self._lot.unpark(count=1 if self._running == 1 else 2)

    def has_work(self) -> bool:
        """Whether a processor would find something to do."""
        lanes = self.lanes
        return lanes.has_more_than(0) or (isinstance(lanes, KeyedLanes) and bool(lanes.waiting))

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

    def handling(self, partitions: Collection[PartitionOffsets]) -> list[_Processor]:
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


class _Processor:
    """One task that takes messages and handles them, one at a time.

    Attributes:
        segment: where the message it is at came from; None between segments.
        message: what it is at. It is read by whoever looks from outside; the loops clear
            it wherever they may be cancelled without a message in hand.
        busy, lane: where that message's lane is entered (see `KeyedLanes`).
        interrupted: its scope was cancelled by `interrupt`; it must take no message
            before it has a new one. (A cancellation that comes as the handler is already
            resuming would hit the handler of the next message.)
    """

    __slots__ = (
        "_scope",
        "_shared",
        "busy",
        "interrupted",
        "lane",
        "message",
        "segment",
    )

    def __init__(self, shared: Processors) -> None:
        self._shared = shared
        self._scope = trio.CancelScope()
        self.segment: Segment | None = None
        self.message: Message | None = None
        self.busy: dict[Hashable, Any] = {}
        self.lane: Hashable = None
        self.interrupted = False

    def is_at(self, partitions: Collection[PartitionOffsets]) -> bool:
        return self.segment is not None and self.segment.partition in partitions

    def interrupt(self) -> None:
        """Cancel the handler that runs; the processor goes on afterwards."""
        self.interrupted = True
        self._scope.cancel()

    async def run(self) -> None:
        shared = self._shared
        shared.note_started()
        lanes = shared.lanes
        take = self._take_keyed if isinstance(lanes, KeyedLanes) else self._take
        try:
            while True:
                self.interrupted = False
                with trio.CancelScope() as self._scope:
                    await self._work(take)
        finally:
            shared.note_ended()

    async def _work(self, take: Callable[[Segment], Awaitable[None]]) -> None:
        shared = self._shared
        lanes = shared.lanes
        keyed = lanes if isinstance(lanes, KeyedLanes) else None
        while not self.interrupted:
            if keyed is not None and keyed.waiting:
                busy, lane = keyed.waiting.popleft()
                await self._go_on(keyed, busy, lane)
                continue
            segment = lanes.acquire()
            if segment is None:
                await shared.park()
                continue
            try:
                await take(segment)
            finally:
                # A parked task must not keep a chunk alive: old chunks held by idle tasks
                # cost more garbage collections than everything else together.
                segment = self.segment = self.message = None
                shared.note_released()

    async def _take(self, segment: Segment) -> None:
        """Handle the messages of a segment: unordered, or as its partition's owner."""
        shared = self._shared
        handle = shared.handle
        clock = shared.clock
        flags = segment.flags
        raw: Any = None
        index = -1
        self.segment = segment
        try:
            for raw, index in segment.items:
                self.message = message = Message(raw)
                try:
                    result = await handle(message)
                except Exception as error:
                    flags[index] = self._failed(segment, message, error)
                else:
                    if result is None and message._failure is None:
                        flags[index] = SUCCEEDED
                    else:
                        flags[index] = self._judge(segment, message, result)
                if not index & _LOOK_MASK:
                    if shared._running > 2:  # handlers wait: more should be here in time
                        shared.want_if_few()
                    if clock() >= shared.due:
                        self.message = None
                        await shared.let_others_run()
        except trio.Cancelled:
            if self._cut_off(segment):
                shared.lanes.put_back(segment, raw, index)
            shared.lanes.release(segment)
            raise
        else:
            shared.lanes.release(segment)
        # An exception is on its way out of the pipeline: its lane stays held.

    async def _take_keyed(self, segment: Segment) -> None:
        """Handle the messages of a segment whose lanes are free; park the others."""
        shared = self._shared
        lanes = shared.lanes
        assert isinstance(lanes, KeyedLanes)
        handle = shared.handle
        clock = shared.clock
        lane_of = shared.lane_of
        flags = segment.flags
        raw: Any = None
        index = -1
        self.segment = segment
        self.busy = busy = segment.busy
        try:
            for raw, index in segment.items:
                hot = lanes.hot
                if hot is not None:  # its handler is suspended, or we would not be here
                    hot.busy[hot.lane] = None
                    lanes.hot = None
                if lane_of is None:
                    lane: Hashable = raw.key()
                    message = None
                else:
                    message = Message(raw)
                    try:
                        lane = lane_of(message)
                        hash(lane)
                    except Exception as error:
                        flags[index] = self._failed(segment, message, error)
                        continue
                if busy and lane in busy:
                    if lanes.park(segment, raw, index, lane):
                        continue
                    break
                self.lane = lane
                lanes.hot = self
                if message is None:
                    message = Message(raw)
                self.message = message
                try:
                    result = await handle(message)
                except Exception as error:
                    flags[index] = self._failed(segment, message, error)
                else:
                    if result is None and message._failure is None:
                        flags[index] = SUCCEEDED
                    else:
                        flags[index] = self._judge(segment, message, result)
                if lanes.hot is self:
                    lanes.hot = None
                else:  # it was entered among the busy: others may be parked behind it
                    self.message = message = None
                    await self._go_on(lanes, busy, lane)
                    if self.interrupted:
                        break
                    self.segment = segment
                    self.busy = busy
                if not index & _LOOK_MASK:
                    if shared._running > 2:  # handlers wait: more should be here in time
                        shared.want_if_few()
                    if clock() >= shared.due:
                        self.message = None
                        await shared.let_others_run()
        except trio.Cancelled:
            if self.message is not None:
                self._enter(lanes)
                if self._cut_off(segment):
                    lanes.put_back_parked(busy, self.lane, segment, raw, index)
                self._hand_over(lanes, busy, self.lane)
            raise
        except BaseException:
            self._enter(lanes)  # on its way out of the pipeline: its lane stays held
            raise

    async def _go_on(
        self, lanes: KeyedLanes, busy: dict[Hashable, Any], lane: Hashable
    ) -> None:
        """Handle what is parked on a lane that this processor holds, then free it."""
        shared = self._shared
        self.busy = busy
        self.lane = lane
        while not self.interrupted:
            item = lanes.next_parked(busy, lane)
            if item is None:
                return
            if lanes.ready:
                shared.wake()  # a held partition may have come back
            segment, raw, index = item
            self.segment = segment
            self.message = message = Message(raw)
            try:
                try:
                    result = await shared.handle(message)
                except Exception as error:
                    segment.flags[index] = self._failed(segment, message, error)
                else:
                    segment.flags[index] = self._judge(segment, message, result)
                self.message = None
                if not index & _LOOK_MASK and shared.clock() >= shared.due:
                    await shared.let_others_run()
            except trio.Cancelled:
                if self.message is not None and self._cut_off(segment):
                    lanes.put_back_parked(busy, lane, segment, raw, index)
                self.message = None
                self._hand_over(lanes, busy, lane)
                raise
            finally:
                self.segment = None
                del item, raw, message, segment  # see _work
                shared.note_released()
        self._hand_over(lanes, busy, lane)

    def _enter(self, lanes: KeyedLanes) -> None:
        """Enter the lane this processor holds among the busy, if nobody has yet."""
        if lanes.hot is self:
            lanes.hot = None
            self.busy[self.lane] = None

    def _hand_over(self, lanes: KeyedLanes, busy: dict[Hashable, Any], lane: Hashable) -> None:
        """Leave a busy lane to whoever is free."""
        lanes.waiting.append((busy, lane))
        self._shared.wake()

    def _cut_off(self, segment: Segment) -> bool:
        """Whether a message that was cut off is to be handled again here: this processor
        was interrupted for another partition's sake."""
        return self.message is not None and self.interrupted and not segment.partition.draining

    def _failed(self, segment: Segment, message: Message, error: BaseException) -> int:
        """Settle a failure. Returns the message's flag, or raises."""
        if self.interrupted and segment.partition.draining:
            # It was cut off as its partition went away: its outcome counts for nothing.
            _log.warning("%r failed after it was revoked: %s", message, type(error).__name__)
            return 0
        return self._shared.settle(message, error)

    def _judge(self, segment: Segment, message: Message, result: object) -> int:
        """The flag of a message whose handler returned `result`."""
        if result is not None:
            error = TypeError(
                f"handle_message returned a {type(result).__name__}; it must return None: "
                "change the message in place"
            )
            error.add_note(f"for {message!r}")
            raise error
        if message._failure is not None:
            return self._failed(segment, message, message._failure)
        return SUCCEEDED
