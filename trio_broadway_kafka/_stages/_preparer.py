"""The preparer: what ``prepare_messages`` does to a list before any message of it starts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from trio_broadway_kafka._model._lanes import Lanes, forget_last
from trio_broadway_kafka._model._message import Message, Prepared, messages_of
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._stages._handlers import check_prepared
from trio_broadway_kafka._stages._tasks import cancellation_of, is_cancelled

__all__ = ["Preparer"]

_log = logging.getLogger("trio_broadway_kafka")


class Preparer:
    """The intake where messages are prepared: it passes on to the lanes (see `Intake`).

    What arrived together of one partition is one call. Those of a partition come one after
    another, those of several partitions side by side. What is being prepared has not started.

    Args:
        prepare: the user's ``prepare_messages``.
        lanes: where prepared messages go.
        arrived: told of segments that can be taken now.
        want: called when a call begins and nothing else of its partition is here.
        stop: called when a call ends the pipeline: nothing more may start.
    """

    def __init__(
        self,
        prepare: Callable[[list[Message]], Awaitable[object]],
        lanes: Lanes,
        *,
        arrived: Callable[[Sequence[Segment]], None],
        want: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._prepare = prepare
        self._lanes = lanes
        self._arrived = arrived
        self._want = want
        self._stop = stop
        self._nursery: trio.Nursery
        # The first of a partition that has a call under way is the one that is prepared.
        self._waiting: dict[PartitionOffsets, deque[Segment]] = {}
        self._running: dict[PartitionOffsets, trio.CancelScope] = {}
        self._idle = trio.Event()
        self._idle.set()
        self._call_ended = trio.Event()
        self.tasks: set[trio.lowlevel.Task] = set()

    def start(self, nursery: trio.Nursery) -> None:
        """Let all calls be in tasks of `nursery`."""
        self._nursery = nursery

    # The intake.

    def add(self, segment: Segment) -> None:
        state = segment.partition
        self._waiting.setdefault(state, deque()).append(segment)
        if state not in self._running:
            self._running[state] = scope = trio.CancelScope()
            self._idle = trio.Event()
            self._nursery.start_soon(self._run, state, scope)

    def takes_whole(self, partition: PartitionOffsets) -> bool:
        return True

    def by_key(self, partition: PartitionOffsets) -> bool:
        return self._lanes.by_key(partition)

    def is_empty(self) -> bool:
        return self._lanes.is_empty()

    def blocked(self, partition: PartitionOffsets) -> int:
        waiting = sum(segment.untaken for segment in self._waiting.get(partition, ()))
        return waiting + self._lanes.blocked(partition)

    def truncate(self, partition: PartitionOffsets, keep: int) -> None:
        waiting = self._waiting.get(partition)
        if waiting is None:
            self._lanes.truncate(partition, keep)
            return
        # What is being prepared stays.
        first = waiting.popleft()
        forget_last(waiting, partition, self.blocked(partition) + first.untaken - keep)
        waiting.appendleft(first)

    def hold(self, partition: PartitionOffsets) -> None:
        self._lanes.hold(partition)

    def let_go(self, partition: PartitionOffsets) -> None:
        self._lanes.let_go(partition)

    # The stage.

    def is_idle(self) -> bool:
        """Whether nothing is being prepared."""
        return not self._running

    def drop(self, partition: PartitionOffsets) -> None:
        """As `Lanes.drop`; a call that is under way for the partition is cancelled."""
        self._lanes.drop(partition)  # marks it as draining
        if partition in self._running:
            self._running[partition].cancel()
        for segment in self._waiting.pop(partition, ()):
            partition.drop(segment)

    def end(self) -> None:
        """Cancel all calls."""
        for scope in self._running.values():
            scope.cancel()

    async def wait_done(self, partition: PartitionOffsets) -> None:
        """Wait until no call is under way for a partition, which was dropped before."""
        while partition in self._running:
            await self._call_ended.wait()

    async def wait_ended(self) -> None:
        """Wait until no call is under way."""
        await self._idle.wait()

    def log_resisting(self, since: float) -> None:
        """Log which calls go on in spite of their cancellation."""
        for state, scope in self._running.items():
            if scope.cancel_called:
                _log.warning(
                    "prepare_messages goes on for %r, %.0f s after it was cancelled",
                    state,
                    since,
                )

    async def _run(self, state: PartitionOffsets, scope: trio.CancelScope) -> None:
        task = trio.lowlevel.current_task()
        self.tasks.add(task)
        try:
            with scope:
                while waiting := self._waiting.get(state):
                    if len(waiting) == 1:
                        self._want()
                    if not await self._prepare_segment(waiting[0]):
                        break
                    waiting.popleft()
        except BaseException:
            self._stop()
            raise
        finally:
            self.tasks.discard(task)
            self._waiting.pop(state, None)
            del self._running[state]
            self._call_ended.set()
            self._call_ended = trio.Event()
            if not self._running:
                self._idle.set()

    async def _prepare_segment(self, segment: Segment) -> bool:
        """Prepare and pass on; False if it was cancelled."""
        state = segment.partition
        messages = messages_of(segment.records)
        error: Exception | None = None
        try:
            result = await self._prepare(list(messages))
        except Exception as raised:
            if state.draining or is_cancelled():
                # That is no reason to acknowledge anything.
                kind = type(raised).__name__
                _log.warning("prepare_messages failed as it was cancelled: %s", kind)
                return False
            error = raised
        except BaseExceptionGroup as group:
            # A nursery of its own raises a group of what its tasks raised.
            if not state.draining:
                raise
            raise cancellation_of(group) from None
        else:
            check_prepared(result, messages)
        if state.draining:
            return False  # it resisted its cancellation: nothing of it may start
        for message in messages:
            message._failure = message._failure or error
        segment.replace(list(map(Prepared, messages)))
        self._lanes.add(segment)
        self._arrived([segment])
        return True
