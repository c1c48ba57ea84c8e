"""The reader of a topic of letters, up to where it ends as the reading begins.

The reader is a member of the group that redrives them, and begins where that has come to:
what was sent back is passed over, whether it lies below the committed offset or the map in its
metadata tells of it. Several readers share the topic.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    KafkaClient,
    PartitionEnd,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import PASSED, Segment
from trio_broadway_kafka._model._topics import check_topics
from trio_broadway_kafka._stages._acknowledger import Acknowledger
from trio_broadway_kafka._stages._outputs import Outputs
from trio_broadway_kafka._stages._pausing import address_of
from trio_broadway_kafka._stages._source import read_map
from trio_broadway_kafka._stages._tasks import ShieldWhenStarted
from trio_broadway_kafka.dead_letters._letter import Letter, letter_of

__all__ = ["Found", "Place", "Reader", "client_of", "group_of", "reading"]

_log = logging.getLogger("trio_broadway_kafka")

FETCH: Final = 200
"""Letters that are here at once."""

NOBODY_ELSE: Final = 10.0
"""Seconds after which who was given no partition takes it that others have them all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a letter is."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Found:
    """A letter that is not sent back yet, and where to note that it is."""

    letter: Letter
    segment: Segment
    index: int


class Reader:
    """Reads letters; a `ClientEvents`.

    Attributes:
        lock: held while letters are being sent back: their partitions are not let go of.
        acknowledger: commits what was sent back.
        is_full: whether no more can be told of what was sent back behind what was left.
        total: letters, and gaps, that there were to be read of what is owned.
        passed: how many of them were read, or are not there.
    """

    def __init__(self, client: KafkaClient, topic: str, place: Place | None) -> None:
        self.client = client
        self.topic = topic
        self.lock: trio.Lock = trio.Lock()
        self._place = place
        self.is_full: bool = False
        self._states: dict[TopicPartition, PartitionOffsets] = {}
        self.acknowledger: Acknowledger = Acknowledger(
            client, self._states, math.inf, Outputs(), overfull=self._note_full
        )
        self._first: dict[PartitionOffsets, int] = {}  # the committed offset, as it was
        self._begins: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._arrived: deque[Chunk | PartitionEnd] = deque()
        self._is_fetching = False
        self._news = trio.Event()
        self._failure: BaseException | None = None
        self._was_assigned = False
        self._nursery: trio.Nursery

    async def open(self, nursery: trio.Nursery, session: Session) -> None:
        """Join, and fix where the topic ends."""
        self._nursery = nursery
        nursery.start_soon(self.acknowledger.run)
        await nursery.start(self._run, session)
        places = await self.client.partitions([self.topic])
        if self._place is not None:
            places = [place for place in places if place.partition == self._place.partition]
        self._ends = await self.client.end_offsets(places)
        self._begins = await self.client.begin_offsets(places)

    async def _run(
        self, session: Session, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        # What was delivered is committed, though all is cancelled: it ends by `stop`.
        try:
            with trio.CancelScope() as scope:
                await self.client.run(
                    self, session, task_status=ShieldWhenStarted(scope, task_status)
                )
        finally:
            self.acknowledger.scope.cancel()

    def _note_full(self, state: PartitionOffsets) -> None:
        self.is_full = True

    async def next(self) -> list[Found]:
        """The next letters that are not sent back yet; none at the end.

        Raises:
            KafkaFailure: the client has failed.
        """
        with trio.move_on_after(NOBODY_ELSE) as alone:
            while not self._was_assigned:
                await self._wait()
        if alone.cancelled_caught:
            self._tell_of_others()
            return []
        while True:
            while self._arrived:
                if found := self._take(self._arrived.popleft()):
                    return found
            if self._failure is not None:
                raise self._failure
            if all(self._is_read(state) for state in self._states.values()):
                self._tell_of_others()
                return []
            if not self._is_fetching:
                self._is_fetching = True
                self.client.fetch(FETCH)
            await self._wait()

    def _tell_of_others(self) -> None:
        """Log what was not read here, as other members of the group have it."""
        theirs = sorted(
            place.partition
            for place, end in self._ends.items()
            if place not in self._states and end > self._begins.get(place, 0)
        )
        if theirs:
            _log.warning(
                "partitions of %s that others have, and that are not read here: %s",
                self.topic,
                ", ".join(map(str, theirs)),
            )

    @property
    def total(self) -> int:
        return sum(
            max(0, self._end(state) - self._begin(state)) for state in self._states.values()
        )

    @property
    def passed(self) -> int:
        return sum(
            max(0, min(state.read_to, self._end(state)) - self._begin(state))
            for state in self._states.values()
        )

    def _begin(self, state: PartitionOffsets) -> int:
        return max(self._first.get(state, 0), self._begins.get(address_of(state), 0))

    def _end(self, state: PartitionOffsets) -> int:
        if self._place is not None and self._place.partition != state.partition:
            return 0
        end = self._ends.get(address_of(state), 0)
        return end if self._place is None else min(end, self._place.offset + 1)

    def _is_read(self, state: PartitionOffsets) -> bool:
        return max(state.read_to, self._begin(state)) >= self._end(state)

    async def _wait(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    def _take(self, chunk: Chunk | PartitionEnd) -> list[Found]:
        state = self._states.get(TopicPartition(chunk.topic, chunk.partition))
        if state is None or state.epoch != chunk.epoch:
            return []
        if isinstance(chunk, PartitionEnd):
            state.reached_end(chunk.offset)
            return []
        end = self._end(state)
        messages = [
            message
            for message in chunk.messages
            if max(state.position or 0, self._place.offset if self._place else 0)
            <= message.offset()
            < end
        ]
        if len(messages) < len(chunk.messages):
            state.reached_end(end)
        if not messages:
            return []
        offsets = [message.offset() for message in messages]
        runs = [*state.ahead.split(offsets)]
        segment = Segment(
            state,
            messages,
            first=offsets[0],
            last=offsets[-1],
            offsets=offsets,
            size=chunk.size,
        )
        state.receive(segment)
        self.acknowledger.received([segment])
        for start, stop, finished in runs:
            if finished:
                segment.flags[start:stop] = bytes((PASSED,)) * (stop - start)
        return [
            Found(letter_of(message), segment, index)
            for message, index in segment.items
            if not segment.flags[index]
        ]

    # See `ClientEvents`.

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        self._was_assigned = True
        place = self._place
        for new in partitions:
            address = TopicPartition(new.topic, new.partition)
            committed = new.committed if new.start is None else None
            state = PartitionOffsets(*address, new.epoch, committed, topic_id=new.topic_id)
            if new.metadata is not None and new.start is None:
                read_map(state, new.metadata)
            self._states[address] = state
            self._first[state] = state.committed or 0
            if place is not None:
                self.client.pause([address])
                if place.partition == new.partition:
                    self.client.resume({address: place.offset})
        self._news.set()

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        self._nursery.start_soon(self._release, partitions)

    async def _release(self, partitions: Sequence[AssignedPartition]) -> None:
        async with self.lock:  # what is on its way is to arrive first
            await self.acknowledger.release(partitions, self._live(partitions), math.inf)
            self.lost(partitions)

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        for state in self._live(partitions):
            state.live = False
            del self._states[address_of(state)]
        self._news.set()

    def _live(self, partitions: Sequence[AssignedPartition]) -> list[PartitionOffsets]:
        found = (self._states.get(TopicPartition(p.topic, p.partition)) for p in partitions)
        epochs = {one.epoch for one in partitions}
        return [state for state in found if state is not None and state.epoch in epochs]

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        self._arrived += chunks
        self._arrived += ends
        if chunks:
            self._is_fetching = False
        self._news.set()

    def failed(self, error: BaseException) -> None:
        self._failure = error
        self._news.set()


def group_of(topic: str) -> str:
    """The group that redrives the letters of a topic, unless another is given."""
    return f"{topic}-redrive"


def client_of(
    kafka: Mapping[str, object] | None, client: KafkaClient | None, topic: str, session: Session
) -> KafkaClient:
    """The client to use: the given one, or a real one.

    Raises:
        ConfigError: an option is wrong.
    """
    check_topics([topic])
    if topic.startswith("^"):
        raise ConfigError(f"{topic!r} is a pattern; give the name of one topic")
    if client is not None:
        if kafka is not None:
            raise ConfigError("give either kafka or client, not both")
        return client
    if kafka is None:
        raise ConfigError("kafka is missing: give at least bootstrap.servers")
    from trio_broadway_kafka._kafka._confluent import ConfluentClient

    confluent = ConfluentClient({"group.id": group_of(topic), **kafka})
    confluent.check(session)
    return confluent


@asynccontextmanager
async def reading(
    client: KafkaClient, topic: str, session: Session, place: Place | None = None
) -> AsyncGenerator[Reader]:
    """A reader, while the block runs."""
    async with trio.open_nursery() as nursery:
        reader = Reader(client, topic, place)
        try:
            await reader.open(nursery, session)
            yield reader
        finally:
            client.stop()
