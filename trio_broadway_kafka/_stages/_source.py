"""The source: the task that owns the client, and what the client reports.

It turns chunks into segments and answers demand. Which partitions are fetched is `_pausing`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import trio

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    KafkaClient,
    PartitionEnd,
    RawMessage,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._model._demand import Demand
from trio_broadway_kafka._model._lanes import Intake
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._stages._pausing import Pausing, address_of
from trio_broadway_kafka._stages._tasks import ShieldWhenStarted

__all__ = ["Source", "SourceListener", "read_map"]

_log = logging.getLogger("trio_broadway_kafka")


class SourceListener(Protocol):
    """Who is told what the source learns. Synchronous; may raise (the pipeline then ends)."""

    def assigned(self, partitions: Sequence[PartitionOffsets]) -> None:
        """These assignments have begun."""

    def revoking(
        self, assigned: Sequence[AssignedPartition], partitions: Sequence[PartitionOffsets]
    ) -> None:
        """These assignments are to end: drain them, then release them."""

    def lost(self, partitions: Sequence[PartitionOffsets]) -> None:
        """These assignments have ended: nothing of them may be committed."""

    def received(self, segments: Sequence[Segment]) -> None:
        """Messages arrived, or (with none) held ones came back or an end was reached."""

    def wanted(self, count: int) -> None:
        """So many messages are asked for; 0: nothing more fits in."""

    def failed(self, error: BaseException) -> None:
        """The pipeline can't go on."""


class Source:
    """Reports what the client says, and asks it for more.

    Args:
        client: the member of the group.
        session: what it joins with.
        partitions: filled with the live assignments.
        listener: who is told.
        demand: how much to ask for.
        intake: where the messages go.
        gap_limit: as in `Pausing`.
        enters: whether a partition is paused until `ready` is called for it.
        clock: trio's, in seconds.

    Attributes:
        pausing: which partitions are fetched.
    """

    def __init__(
        self,
        client: KafkaClient,
        session: Session,
        partitions: dict[TopicPartition, PartitionOffsets],
        listener: SourceListener,
        demand: Demand,
        intake: Intake,
        *,
        gap_limit: int,
        enters: bool = False,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._client = client
        self._session = session
        self._partitions = partitions
        self._listener = listener
        self._demand = demand
        self._intake = intake
        self.pausing = Pausing(
            client,
            partitions,
            demand,
            intake,
            gap_limit=gap_limit,
            came_back=lambda: listener.received(()),
        )
        self._clock = clock
        # One fetch may be open, so one wish at most waits here.
        self._wishes, self._wished = trio.open_memory_channel[int](1)
        self._fetch_open = False
        self._closing = False
        self._enters = enters
        self._seen_topics: set[str] = set()
        self.scope = trio.CancelScope()
        self.closed = trio.Event()

    @trio.lowlevel.enable_ki_protection  # leaving needs the client, after a Ctrl-C too
    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the client, from ``started()`` until it is stopped or `scope` is cancelled.

        Opening can be cancelled; from then on this is a shielded service, for leaving
        needs the client to the end.
        """
        try:
            with self.scope:
                await self._client.run(
                    self, self._session, task_status=ShieldWhenStarted(self.scope, task_status)
                )
        finally:
            self.closed.set()

    async def fetch_on_demand(self) -> None:
        """Pass the demand that comes up from the stages on to the client."""
        async for count in self._wished:
            self._client.fetch(count)

    def want(self) -> None:
        """Few messages are left to take: fetch more if there is room. Never waits."""
        # While all are being entered there is nothing to fetch, and an open fetch would keep
        # the client at its poll when the first one is to be resumed.
        entering = self.pausing.pauses.entering
        if self._closing or len(self._partitions) == len(entering):
            return
        self.pausing.let_go()  # whether or not a fetch is open, which may wait for just these
        now = self._clock()
        if self._fetch_open or self._demand.awaits_commit(now):
            return
        partitions = self._partitions.values()
        self.pausing.hold_gaps()
        count = self._demand.count(partitions, self._intake, now)
        if self._demand.pressed and len(partitions) > 1:
            self.pausing.hold_back(truncate=not count)
            if not count:
                count = self._demand.count(partitions, self._intake, now)
        if count:
            self._fetch_open = True
            self._wishes.send_nowait(count)
        self._listener.wanted(count)

    def ready(self, state: PartitionOffsets) -> None:
        """A partition's stages are there, or a pause by policy is over: fetch it."""
        self.pausing.ready(state)
        self.want()

    def pause_by_policy(self, state: PartitionOffsets) -> None:
        """Fetch no more of a partition until it is `ready` again."""
        self.pausing.by_policy(state, is_fetching=self._fetch_open)

    def close(self) -> None:
        """Ask for no more messages, and take in none."""
        self._closing = True
        self._client.pause(self._partitions)

    # What the client reports. Nothing here raises into the client.

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        """See `ClientEvents`."""
        try:
            states = []
            for new in partitions:
                address = TopicPartition(new.topic, new.partition)
                # To commit a start that nobody reads from would undo what others have done.
                start = None if self._closing else new.start
                state = PartitionOffsets(
                    *address, new.epoch, new.committed, start, new.topic_id
                )
                state.draining = self._closing
                if new.metadata is not None and new.start is None:
                    read_map(state, new.metadata)
                self._partitions[address] = state
                states.append(state)
            self.pausing.assigned(states, enter=self._enters)
            self._listener.assigned(states)
            self.want()
        except BaseException as error:
            self.failed(error)

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        """See `ClientEvents`."""
        try:
            self._listener.revoking(partitions, self._states(partitions))
        except BaseException as error:
            self.failed(error)

    def ended(self, states: Iterable[PartitionOffsets]) -> None:
        """These assignments have ended."""
        for state in states:
            state.live = False
            self.pausing.pauses.clear(state)
            if self._partitions.get(address_of(state)) is state:
                del self._partitions[address_of(state)]

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        """See `ClientEvents`."""
        try:
            self._listener.lost(self._states(partitions))
        except BaseException as error:
            self.failed(error)

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        """See `ClientEvents`."""
        try:
            if chunks:
                self._fetch_open = False
                self._receive(chunks)
                self.pausing.answered()
            for end in ends:
                for state in self._states((end,)):
                    if not state.draining and not self.pausing.pauses.of(state):
                        state.reached_end(end.offset)
            if ends:
                self._listener.received(())
        except BaseException as error:
            self.failed(error)

    def _receive(self, chunks: Sequence[Chunk]) -> None:
        now = self._clock()
        segments = []
        count = size = 0
        for chunk in chunks:
            address = TopicPartition(chunk.topic, chunk.partition)
            state = self._partitions.get(address)
            if state is None or state.epoch != chunk.epoch or state.draining:
                continue
            if self.pausing.is_stale(state):
                continue
            if chunk.end is not None:
                state.end = max(chunk.end, state.end or 0)
            messages = chunk.messages
            if state.position is not None and messages[0].offset() < state.position:
                # A seek that was asked for before these had arrived repeats them.
                messages = [m for m in messages if m.offset() >= state.position]
                if not messages:
                    continue
            if self.pausing.pauses.of(state):
                # Polled before the pause took effect: `resume` starts here again.
                state.refetch_from(messages[0].offset())
                continue
            self._look_at_keys(chunk, state)
            if state.ahead.runs:
                for segment in self._receive_around(state, messages, now):
                    segments.append(segment)
                    count += segment.untaken
                    size += segment.size
                continue
            segment = self._take_in(state, messages, chunk.size, now)
            self._intake.add(segment)
            segments.append(segment)
            count += len(messages)
            size += chunk.size
        if count:
            self._demand.received(count, size, now)
            self.pausing.received(count)
        if segments:
            self._listener.received(segments)
        if self._demand.filling or not count:
            self.want()

    def _take_in(
        self, state: PartitionOffsets, messages: Sequence[RawMessage], size: int, now: float
    ) -> Segment:
        """Make a segment of what has arrived."""
        first, last = messages[0].offset(), messages[-1].offset()
        gaps = last - first + 1 != len(messages)
        segment = Segment(
            state,
            messages,
            first=first,
            last=last,
            offsets=[message.offset() for message in messages] if gaps else None,
            size=size,
            received_at=now,
            timestamp=messages[0].timestamp(),
            whole=self._intake.takes_whole(state),
        )
        state.receive(segment)
        return segment

    def _receive_around(
        self, state: PartitionOffsets, messages: Sequence[RawMessage], now: float
    ) -> Iterator[Segment]:
        """Take in what has arrived, where some of it was finished before."""
        offsets = [message.offset() for message in messages]
        for start, stop, finished in [*state.ahead.split(offsets)]:
            part = messages[start:stop]
            size = sum(len(message.value() or b"") for message in part)
            segment = self._take_in(state, part, size, now)
            if finished:
                segment.pass_over()
            else:
                self._intake.add(segment)
            yield segment

    def _look_at_keys(self, chunk: Chunk, state: PartitionOffsets) -> None:
        """Warn once of a topic without keys under an ordering by key."""
        if chunk.topic not in self._seen_topics:
            self._seen_topics.add(chunk.topic)
            if self._intake.by_key(state) and all(
                message.key() is None for message in chunk.messages
            ):
                _log.warning(
                    "the messages of %s have no keys, so with ordering='key' each partition "
                    "is handled in order, one message at a time; say ordering='partition', "
                    "or 'unordered' for more at once",
                    chunk.topic,
                )

    def failed(self, error: BaseException) -> None:
        """See `ClientEvents`."""
        self._listener.failed(error)

    def _states(
        self, partitions: Iterable[AssignedPartition | PartitionEnd]
    ) -> list[PartitionOffsets]:
        """The live assignments among these."""
        return [
            state
            for a in partitions
            if (state := self._partitions.get(TopicPartition(a.topic, a.partition))) is not None
            and state.epoch == a.epoch
        ]


def read_map(state: PartitionOffsets, text: str) -> None:
    """Take over what an earlier owner has finished beyond the committed offset."""
    try:
        count = state.ahead.read(text, state.committed)
    except ValueError as error:
        _log.warning(
            "%r: the metadata of the committed offset is ignored, so what may have been "
            "finished beyond it is handled again: %s",
            state,
            error,
        )
    else:
        _log.info(
            "%r: %d offsets beyond the committed one are finished, and passed over",
            state,
            count,
        )
