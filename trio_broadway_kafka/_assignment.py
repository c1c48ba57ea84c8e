"""The stages of a pipeline over a set of partitions, and how their work ends.

The form with one pipeline over all partitions is one instance, for all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import trio

from trio_broadway_kafka._model._lanes import KeyedLanes, PartitionLanes, UnorderedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._stages._failures import Failures
from trio_broadway_kafka._stages._processors import Processors

__all__ = ["Assignment", "make_lanes"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds that handlers have to unwind after they were cancelled at a revoke's deadline.
# A handler that needs longer no longer blocks the revoke: its outcome is dropped.
_UNWIND = 0.1

# Seconds between two log lines about a handler that resists its cancellation.
_RESISTING_LOG = 10.0


def make_lanes(stages: Stages, *, share: int) -> KeyedLanes | PartitionLanes | UnorderedLanes:
    """The lanes for an ordering; `share` as in `KeyedLanes`."""
    match stages.ordering:
        case "unordered":
            return UnorderedLanes()
        case "partition":
            return PartitionLanes()
        case "key":
            return KeyedLanes(share=share)
        case _:
            return KeyedLanes(share=share, per_partition=False)


class Assignment:
    """Processors and lanes, from their start to their drain or cancellation.

    Args:
        stages: what to do with the messages.
        lanes: where they come from.
        want: called when few messages are left.
        finished: called after each message, None if nobody needs it.
        clock: paces the processors' checkpoints, in seconds.
    """

    def __init__(
        self,
        stages: Stages,
        lanes: KeyedLanes | PartitionLanes | UnorderedLanes,
        *,
        want: Callable[[], None],
        finished: Callable[[], None] | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.lanes = lanes
        self.failures = Failures(stages.on_failure)
        assert stages.handle_message is not None
        handle = stages.handle_message
        self.processors = Processors(
            handle=handle if finished is None else _telling(handle, finished),
            lanes=lanes,
            lane_of=stages.ordering if callable(stages.ordering) else None,
            count=stages.concurrency,
            settle=self.failures.settle,
            stop=self.drop_all,
            want=want,
            clock=clock,
        )
        self._partitions: set[PartitionOffsets] = set()

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
        """Segments were added to the lanes, or (with none) some that were held came back."""
        if segments or self.processors.has_work():
            self.processors.wake()

    def drop_all(self) -> None:
        """Start nothing more."""
        for partition in self._partitions:
            self.lanes.drop(partition)

    async def drain(
        self, partitions: Collection[PartitionOffsets] | None, timeout: float
    ) -> int:
        """Drop what has not started of these partitions (None: all), and wait for the rest.

        After `timeout` seconds their handlers are cancelled. Returns how many messages
        had started and did not finish.
        """
        if partitions is None:
            self.drop_all()
            partitions = frozenset(self._partitions)
        else:
            for partition in partitions:
                self.lanes.drop(partition)
        with trio.move_on_after(timeout) as scope:
            await self.processors.wait_done(partitions)
        if not scope.cancelled_caught:
            return 0
        return await self.cut_off(partitions)

    async def cut_off(self, partitions: Collection[PartitionOffsets]) -> int:
        """Cancel the handlers of these partitions. Returns how many there were."""
        running = self.processors.handling(partitions)
        left = sum(processor.message is not None for processor in running)
        for processor in running:
            processor.interrupt()
        with trio.move_on_after(_UNWIND):
            await self.processors.wait_done(partitions)
        return left

    def interrupt(self, partitions: Collection[PartitionOffsets]) -> None:
        """Drop these partitions and cancel their handlers, without waiting."""
        for partition in partitions:
            self.lanes.drop(partition)
        for processor in self.processors.handling(partitions):
            processor.interrupt()

    async def wait_ended(self) -> None:
        """Wait until all processors have ended, and log those that resist."""
        started = trio.current_time()
        while True:
            with trio.move_on_after(_RESISTING_LOG):
                await self.processors.wait_ended()
                return
            self.processors.log_resisting(trio.current_time() - started)


def _telling(
    handle: Callable[[Message], Awaitable[object]], finished: Callable[[], None]
) -> Callable[[Message], Awaitable[object]]:
    """A handler that tells when it has returned.

    The flag of the message is set after this, but before any other task runs.
    """

    async def handle_and_tell(message: Message) -> object:
        try:
            return await handle(message)
        finally:
            finished()

    return handle_and_tell
