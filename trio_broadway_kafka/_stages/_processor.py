"""A processor: a task that takes messages and runs the handler.

The processors' loops are the hot path. A message whose handler does not wait costs no task, no
scope, no channel hop and no checkpoint of its own; a checkpoint is due once in ``PACE``
seconds for all processors together (see ``_processors.py``). The order rules they keep are
stated in ``_model/_lanes.py``, whose fields they read inline. The loop here serves lanes that
are partitions or single messages; that of ``_keyed_processor.py`` repeats it on purpose: a
call per message would cost more than all else that they do.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable
from typing import TYPE_CHECKING, Any

import trio

from trio_broadway_kafka._model._lanes import Item
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._retries import TryAgain
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment
from trio_broadway_kafka._stages._tasks import cancellation_of, is_cancelled

if TYPE_CHECKING:
    from trio_broadway_kafka._stages._processors import Processors

__all__ = ["LOOK_MASK", "Processor", "new"]

_log = logging.getLogger("trio_broadway_kafka")

# Whether a checkpoint is due is looked at at every eighth message of a segment:
# `index & LOOK_MASK` costs less than counting.
LOOK_MASK = 7

# `Message(raw)` spelt out, where it is made for every message: a call of a slotted class
# goes through its __init__ the slow way (0.035 µs more, on 3.11 and 3.13).
new = object.__new__


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

    # One coroutine down to the handler's loop: a handler that waits is resumed through each.
    async def run(self) -> None:
        shared = self._shared
        shared.note_started()
        try:
            while True:
                self.interrupted = False
                with trio.CancelScope() as self._scope:
                    while not self.interrupted:
                        if shared.lanes.waiting:
                            await self._go_on_with_waiting()
                        elif (segment := shared.acquire()) is None:
                            await shared.park()
                        else:
                            try:
                                await self._take(segment)
                            finally:
                                # A parked task must not keep a chunk alive: old chunks held
                                # by idle tasks cost more garbage collections than
                                # everything else together.
                                segment = self.segment = self.message = None
                                shared.note_released()
        finally:
            shared.note_ended()

    async def _go_on_with_waiting(self) -> None:
        """Go on with what waits for a processor."""
        await self._handle_again(*self._shared.lanes.waiting.popleft())

    async def _handle_again(self, segment: Segment, raw: Any, index: int) -> None:
        """Handle a message whose time has come to be tried again, and free its lane."""
        shared = self._shared
        self.segment = segment
        self.message = message = Message(raw)
        try:
            await self._handle_one(segment, index, message)
        except BaseException as error:
            if not self._is_interruption(error):
                raise  # out of the pipeline: its lane stays held
            if self._cut_off(segment):
                shared.lanes.put_back(segment, raw, index)
            shared.lanes.release(segment)
            raise cancellation_of(error) from None
        else:
            shared.lanes.release(segment)
        finally:
            self.segment = self.message = None
            del raw, message, segment  # see run
            shared.note_released()

    async def _handle_one(self, segment: Segment, index: int, message: Message) -> None:
        """Handle one message outside the loop."""
        try:
            result = await self._shared.next_handle()(message)
        except Exception as error:
            segment.flags[index] = await self._failed(segment, index, message, error)
        else:
            segment.flags[index] = await self._judge(segment, index, message, result)

    async def _take(self, segment: Segment) -> None:
        """Handle the messages of a segment: unordered, or as its partition's owner."""
        shared = self._shared
        handle = shared.next_handle()
        forward = shared.forward
        success = shared.success
        clock = shared.clock
        make = new
        flags = segment.flags
        raw: Any = None
        index = -1
        self.segment = segment
        try:
            for raw, index in shared.items_of(segment):
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
                if not index & LOOK_MASK:
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
            raise cancellation_of(error) from None
        else:
            shared.lanes.release(segment)

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

    async def _failed(
        self, segment: Segment, index: int, message: Message, error: BaseException
    ) -> int:
        """Settle a failure. Returns the message's flag, or raises."""
        if self._is_void(segment, message, error):
            return 0
        try:
            settled = await self._shared.settle(message, error, segment.partition)
        except Exception as raised:
            # The handler's own under Stop, or what handle_failed raised, perhaps because
            # it was cancelled meanwhile.
            if raised is not error and self._is_void(segment, message, raised):
                return 0
            raise
        if isinstance(settled, TryAgain):
            self._wait((segment, message._again(), index), settled.due)
            self._shared.note_waiting()
            return 0
        if not settled:
            return 0  # left unfinished, and what it would have produced with it
        return self._shared.finish(segment, index, message, settled)

    def _wait(self, item: Item, due: float) -> None:
        """Let a message wait for another attempt, its lane held."""
        self._shared.lanes.wait(item, due)

    def _is_void(self, segment: Segment, message: Message, error: BaseException) -> bool:
        """Whether a failure counts for nothing: the message is left unfinished."""
        if self.interrupted and segment.partition.draining:
            # It was cut off as its partition went away.
            _log.warning("%r failed after it was revoked: %s", message, type(error).__name__)
            return True
        if not self.interrupted and is_cancelled():
            # It failed as the pipeline was cancelled: that is no reason to acknowledge it.
            _log.warning("%r failed as it was cancelled: %s", message, type(error).__name__)
            self._shared.stop()
            return True
        return False

    async def _judge(
        self, segment: Segment, index: int, message: Message, result: object
    ) -> int:
        """The flag of a message whose handler returned `result`."""
        if result is not None:
            error = TypeError(
                f"handle_message returned a {type(result).__name__}; it must return None: "
                "change the message in place"
            )
            error.add_note(f"for {message!r}")
            raise error
        shared = self._shared
        if message._failure is None:
            if shared.forward is None:
                return shared.finish(segment, index, message, SUCCEEDED)
            message._raw = message._record  # its attempts at the next stage count anew
            if shared.forward(segment, index, message):
                return 0
        assert message._failure is not None
        return await self._failed(segment, index, message, message._failure)
