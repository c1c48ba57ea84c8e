"""A processor whose lanes are keys: the other form of the hot loop in ``_processor.py``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import Item
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._stages._processor import LOOK_MASK, Processor, new
from trio_broadway_kafka._stages._tasks import cancellation_of

if TYPE_CHECKING:
    from trio_broadway_kafka._stages._processors import Processors

__all__ = ["KeyedProcessor"]


class _OwnLane:
    """The lane of a message for which none could be found."""


class KeyedProcessor(Processor):
    """Keeps the order within a key, and registers a key only when its handler suspends."""

    __slots__ = ("_waits",)

    def __init__(self, shared: Processors) -> None:
        super().__init__(shared)
        self._waits = False  # the lane it was at stays held, by a message that waits

    def _wait(self, item: Item, due: float) -> None:
        lanes = self._shared.lanes
        assert isinstance(lanes, KeyedLanes)
        if isinstance(self.lane, _OwnLane):
            lanes.wait(item, due)
            return
        self._enter(lanes)
        self._waits = True
        lanes.wait_on(self.busy, self.lane, item, due)

    async def _go_on_with_waiting(self) -> None:
        lanes = self._shared.lanes
        assert isinstance(lanes, KeyedLanes)
        busy, lane = lanes.waiting.popleft()
        await self._go_on(lanes, busy, lane)

    async def _take(self, segment: Segment) -> None:
        """Handle the messages of a segment whose lanes are free; park the others."""
        shared = self._shared
        lanes = shared.lanes
        assert isinstance(lanes, KeyedLanes)
        handle = shared.next_handle()
        forward = shared.forward
        success = shared.success
        clock = shared.clock
        make = new
        lane_of = shared.lane_of
        flags = segment.flags
        raw: Any = None
        index = -1
        self.segment = segment
        self.busy = busy = segment.busy
        try:
            for raw, index in shared.items_of(segment):
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
                        await self._fail_without_lane(lanes, segment, index, message, error)
                        if self.interrupted:
                            break
                        self.segment = segment
                        self.busy = busy
                        continue
                if busy and lane in busy:
                    if not lanes.park(segment, raw, index, lane):
                        break
                    if not index & LOOK_MASK and clock() >= shared.due:
                        self.message = None
                        await shared.let_others_run()
                    continue
                self.lane = lane
                lanes.hot = self
                if message is None:
                    message = make(Message)
                    message._raw = raw
                    message._special = message._route = None
                self.message = message
                try:
                    result = await handle(message)
                except Exception as error:
                    flags[index] = await self._failed(segment, index, message, error)
                else:
                    if (
                        result is None
                        and message._special is None
                        and (forward is None or forward(segment, index, message))
                    ):
                        flags[index] = success
                    else:
                        flags[index] = await self._judge(segment, index, message, result)
                if lanes.hot is self:
                    lanes.hot = None
                else:  # it was entered among the busy: others may be parked behind it
                    self.message = message = None
                    if self._waits:
                        self._waits = False
                    else:
                        await self._go_on(lanes, busy, lane)
                    if self.interrupted:
                        break
                    self.segment = segment
                    self.busy = busy
                if not index & LOOK_MASK:
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
                    if isinstance(self.lane, _OwnLane):
                        lanes.put_back(segment, raw, index)  # to look for its lane again
                    else:
                        lanes.put_back_parked(busy, self.lane, segment, raw, index)
                self._hand_over(lanes, busy, self.lane)
            raise cancellation_of(error) from None

    async def _fail_without_lane(
        self,
        lanes: KeyedLanes,
        segment: Segment,
        index: int,
        message: Message,
        error: Exception,
    ) -> None:
        """Settle a message for which no lane could be found: it gets one of its own."""
        self.lane = lane = _OwnLane()
        lanes.hot = self
        self.message = message
        segment.flags[index] = await self._failed(segment, index, message, error)
        self.message = None
        if lanes.hot is self:
            lanes.hot = None
        else:
            await self._go_on(lanes, self.busy, lane)

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
                await self._handle_one(segment, index, message)
                self.message = None
                if self._waits:
                    self._waits = False
                    return
                turns += 1  # the indices of a lane may all be odd
                if not turns & LOOK_MASK and shared.clock() >= shared.due:
                    await shared.let_others_run()
            except BaseException as error:
                if not self._is_interruption(error):
                    raise  # out of the pipeline: the lane stays held
                if self._cut_off(segment):
                    lanes.put_back_parked(busy, lane, segment, raw, index)
                self._hand_over(lanes, busy, lane)
                raise cancellation_of(error) from None
            finally:
                self.segment = self.message = None
                del item, raw, message, segment  # see run
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
