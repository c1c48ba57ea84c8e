"""What a client reported, in order, and waiting for it to report something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    KafkaClient,
    OffsetCommit,
    PartitionEnd,
    RawMessage,
    TopicPartition,
)

__all__ = ["Member", "Recorder", "address", "values"]

T = TypeVar("T")


def address(of: AssignedPartition | Chunk | PartitionEnd | OffsetCommit) -> TopicPartition:
    """Which partition something is about."""
    return TopicPartition(of.topic, of.partition)


def values(messages: Sequence[RawMessage]) -> list[bytes | None]:
    """The messages' values, in order."""
    return [message.value() for message in messages]


@dataclass(frozen=True)
class Fetched:
    """One call of ``fetched``, and when."""

    time: float
    chunks: Sequence[Chunk]
    ends: Sequence[PartitionEnd]


class Recorder:
    """A `ClientEvents` that remembers everything.

    Attributes:
        release: called with what is being revoked, if the test does not do it itself.
    """

    def __init__(self, *, patience: float) -> None:
        self.patience = patience
        self.release: Callable[[Sequence[AssignedPartition]], None] | None = None
        self.names: list[str] = []
        self.owned: dict[TopicPartition, AssignedPartition] = {}
        self.assignments: list[Sequence[AssignedPartition]] = []
        self.revocations: list[Sequence[AssignedPartition]] = []
        self.losses: list[Sequence[AssignedPartition]] = []
        self.calls: list[Fetched] = []
        self.failures: list[BaseException] = []
        self._news = trio.lowlevel.ParkingLot()

    # ClientEvents

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        self.names.append("assigned")
        self.assignments.append(partitions)
        self.owned.update((address(assigned), assigned) for assigned in partitions)
        self._news.unpark_all()

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        self.names.append("revoking")
        self.revocations.append(partitions)
        for assigned in partitions:
            del self.owned[address(assigned)]
        if self.release is not None:
            self.release(partitions)
        self._news.unpark_all()

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        self.names.append("lost")
        self.losses.append(partitions)
        for assigned in partitions:
            self.owned.pop(address(assigned), None)
        self._news.unpark_all()

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        self.names.append("fetched")
        self.calls.append(Fetched(trio.current_time(), chunks, ends))
        self._news.unpark_all()

    def failed(self, error: BaseException) -> None:
        self.names.append("failed")
        self.failures.append(error)
        self._news.unpark_all()

    # What was recorded

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for call in self.calls for chunk in call.chunks]

    @property
    def ends(self) -> list[PartitionEnd]:
        return [end for call in self.calls for end in call.ends]

    @property
    def answers(self) -> list[Fetched]:
        """The calls that answered a fetch."""
        return [call for call in self.calls if call.chunks]

    def messages(self, partition: TopicPartition | None = None) -> list[RawMessage]:
        return [
            message
            for chunk in self.chunks
            if partition is None or address(chunk) == partition
            for message in chunk.messages
        ]

    async def until(self, condition: Callable[[], T | None]) -> T:
        """What the condition gives, once that is true; TooSlowError if it takes too long."""
        with trio.fail_after(self.patience):
            while not (found := condition()):
                await self._news.park()
        return found


class Member:
    """A running client and what it reported.

    Attributes:
        closed: set once `run` has returned.
    """

    def __init__(self, client: KafkaClient, *, patience: float) -> None:
        self.client = client
        self.events = Recorder(patience=patience)
        self.closed = trio.Event()
        self._fetches = 0

    def release_at_once(self) -> None:
        """Let go of whatever is revoked, with nothing to commit."""
        self.events.release = lambda partitions: self.client.release(partitions, [])

    async def owns(self, count: int) -> dict[TopicPartition, AssignedPartition]:
        """Wait until that many partitions are owned."""
        await self.events.until(lambda: len(self.events.owned) == count)
        return dict(self.events.owned)

    async def revoked(self) -> Sequence[AssignedPartition]:
        """Wait for the first revoke."""
        return (await self.events.until(lambda: self.events.revocations))[0]

    async def read(self, count: int) -> list[RawMessage]:
        """Fetch until that many more messages have come."""
        start = len(self.events.messages())
        while (missing := start + count - len(self.events.messages())) > 0:
            await self.fetch_once(missing)
        return self.events.messages()[start:]

    async def fetch_once(self, count: int) -> Fetched:
        """Open a fetch (or go on with the one that is open) and wait for its answer."""
        answered = len(self.events.answers)
        self.open_fetch(count)
        await self.events.until(lambda: len(self.events.answers) > answered)
        return self.events.answers[answered]

    def open_fetch(self, count: int = 100) -> None:
        """Ask for messages unless a fetch is open, and don't wait."""
        if self._fetches == len(self.events.answers):
            self.client.fetch(count)
            self._fetches += 1

    async def end_at(
        self, partition: TopicPartition, offset: int, *, since: int = 0
    ) -> PartitionEnd:
        """The report that the partition was read to its end at `offset`.

        Args:
            since: how many reports of ends to leave out of account.
        """

        def reported() -> PartitionEnd | None:
            # Messages that come first answer the fetch, and the end needs another.
            self.open_fetch()
            for end in self.events.ends[since:]:
                if (address(end), end.offset) == (partition, offset):
                    return end
            return None

        return await self.events.until(reported)

    async def commit(
        self, assigned: AssignedPartition, offset: int, metadata: str = ""
    ) -> Sequence[OffsetCommit]:
        """Commit one offset, in the epoch of `assigned`."""
        with trio.fail_after(self.events.patience):
            return await self.client.commit([offset_of(assigned, offset, metadata)])

    async def commands_applied(self) -> None:
        """Return when all that was asked of the client before has taken effect.

        Commands are applied in order, and a commit has an answer: here one of an epoch
        that never was, so that nothing is committed.
        """
        with trio.fail_after(self.events.patience):
            assert await self.client.commit([OffsetCommit("no topic", 0, -1, 0)]) == []

    async def stop(self) -> None:
        """Stop the client and wait until it has left."""
        self.client.stop()
        with trio.fail_after(self.events.patience):
            await self.closed.wait()


def offset_of(assigned: AssignedPartition, offset: int, metadata: str = "") -> OffsetCommit:
    """A commit in the epoch of `assigned`."""
    return OffsetCommit(assigned.topic, assigned.partition, assigned.epoch, offset, metadata)
