"""A processor: a task that takes messages and runs the handler.

The loops below are the hot path. A message whose handler does not wait costs no task, no
scope, no channel hop and no checkpoint of its own; a checkpoint is due once in ``PACE``
seconds for all processors together (see ``_processors.py``). The order rules they keep are
stated in ``_model/_lanes.py``, whose fields they read inline. The two loops repeat each other
on purpose: a call per message would cost more than all else that they do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import TYPE_CHECKING, Any

import trio

from trio_broadway_kafka._model._lanes import KeyedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment

if TYPE_CHECKING:
    from trio_broadway_kafka._stages._processors import Processors

__all__ = ["Processor"]

_log = logging.getLogger("trio_broadway_kafka")

# Whether a checkpoint is due is looked at at every eighth message of a segment:
# `index & _LOOK_MASK` costs less than counting.
_LOOK_MASK = 7

# `Message(raw)` spelt out, where it is made for every message: a call of a slotted class
# goes through its __init__ the slow way (0.035 µs more, on 3.11 and 3.13).
_new = object.__new__


class Processor:
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
        if self.segment is not None:
            # Its loop then finds nothing to take, and need not look at the flag for each.
            self.segment.put_back(())
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
        forward = shared.forward
        clock = shared.clock
        new = _new
        flags = segment.flags
        raw: Any = None
        index = -1
        self.segment = segment
        try:
            for raw, index in segment.items:
                message = new(Message)
                message._raw = raw
                message._failure = None
                self.message = message
                try:
                    result = await handle(message)
                except Exception as error:
                    flags[index] = self._failed(segment, message, error)
                else:
                    if result is None and message._failure is None:
                        flags[index] = (
                            SUCCEEDED if forward is None else forward(segment, index, message)
                        )
                    else:
                        flags[index] = self._judge(segment, index, message, result)
                if not index & _LOOK_MASK:
                    if shared.running > 2:  # handlers wait: more should be here in time
                        shared.want_if_few()
                    if clock() >= shared.due:
                        self.message = None
                        await shared.let_others_run()
        except BaseException as error:
            if not self._is_interruption(error):
                raise  # out of the pipeline: its lane stays held
            if self._cut_off(segment):
                shared.lanes.put_back(segment, raw, index)
            shared.lanes.release(segment)
            raise _cancellation_of(error) from None
        else:
            shared.lanes.release(segment)

    async def _take_keyed(self, segment: Segment) -> None:
        """Handle the messages of a segment whose lanes are free; park the others."""
        shared = self._shared
        lanes = shared.lanes
        assert isinstance(lanes, KeyedLanes)
        handle = shared.handle
        forward = shared.forward
        clock = shared.clock
        new = _new
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
                message: Message | None = None
                if lane_of is None:
                    lane: Hashable = raw.key()
                else:
                    message = Message(raw)
                    try:
                        lane = lane_of(message)
                        hash(lane)
                    except Exception as error:
                        flags[index] = self._failed(segment, message, error)
                        continue
                if busy and lane in busy:
                    if not lanes.park(segment, raw, index, lane):
                        break
                    if not index & _LOOK_MASK and clock() >= shared.due:
                        self.message = None
                        await shared.let_others_run()
                    continue
                self.lane = lane
                lanes.hot = self
                if message is None:
                    message = new(Message)
                    message._raw = raw
                    message._failure = None
                self.message = message
                try:
                    result = await handle(message)
                except Exception as error:
                    flags[index] = self._failed(segment, message, error)
                else:
                    if result is None and message._failure is None:
                        flags[index] = (
                            SUCCEEDED if forward is None else forward(segment, index, message)
                        )
                    else:
                        flags[index] = self._judge(segment, index, message, result)
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
                    if shared.running > 2:  # handlers wait: more should be here in time
                        shared.want_if_few()
                    if clock() >= shared.due:
                        self.message = None
                        await shared.let_others_run()
        except BaseException as error:
            self._enter(lanes)
            if not self._is_interruption(error):
                raise  # out of the pipeline: its lane stays held
            if self.message is not None:
                if self._cut_off(segment):
                    lanes.put_back_parked(busy, self.lane, segment, raw, index)
                self._hand_over(lanes, busy, self.lane)
            raise _cancellation_of(error) from None

    async def _go_on(
        self, lanes: KeyedLanes, busy: dict[Hashable, Any], lane: Hashable
    ) -> None:
        """Handle what is parked on a lane that this processor holds, then free it."""
        shared = self._shared
        self.busy = busy
        self.lane = lane
        turns = 0
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
                    segment.flags[index] = self._judge(segment, index, message, result)
                self.message = None
                turns += 1  # the indices of a lane may all be odd
                if not turns & _LOOK_MASK and shared.clock() >= shared.due:
                    await shared.let_others_run()
            except BaseException as error:
                if not self._is_interruption(error):
                    raise  # out of the pipeline: the lane stays held
                if self._cut_off(segment):
                    lanes.put_back_parked(busy, lane, segment, raw, index)
                self._hand_over(lanes, busy, lane)
                raise _cancellation_of(error) from None
            finally:
                self.segment = self.message = None
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

    def _is_interruption(self, error: BaseException) -> bool:
        """Whether `error` is what `interrupt` made of a handler.

        A handler's nursery raises a group of what its tasks raised. A cancellation of the
        pipeline as a whole is none: what comes next in the lane must not start.
        """
        return self.interrupted and (
            isinstance(error, trio.Cancelled)
            or (isinstance(error, BaseExceptionGroup) and not isinstance(error, Exception))
        )

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
        if not self.interrupted and trio.current_effective_deadline() == -math.inf:
            # It failed as the pipeline was cancelled: that is no reason to acknowledge it.
            _log.warning("%r failed as it was cancelled: %s", message, type(error).__name__)
            self._shared.stop()
            return 0
        return self._shared.settle(message, error)

    def _judge(self, segment: Segment, index: int, message: Message, result: object) -> int:
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
        forward = self._shared.forward
        return SUCCEEDED if forward is None else forward(segment, index, message)


def _cancellation_of(error: BaseException) -> BaseException:
    """A cancellation without what tasks of the handler raised as they were cancelled."""
    if isinstance(error, BaseExceptionGroup):
        cancelled, others = error.split(trio.Cancelled)
        if cancelled is not None and isinstance(others, Exception):
            kinds = ", ".join(type(other).__name__ for other in others.exceptions)
            _log.warning("a handler failed as it was cancelled: %s", kinds)
            return cancelled
    return error
