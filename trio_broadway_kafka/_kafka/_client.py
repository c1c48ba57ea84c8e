"""What the stages see of Kafka: one protocol, and the plain events it reports.

Two things implement `KafkaClient`: the consumer of `_confluent` (a real Kafka) and the
clients of `testing.FakeBroker`. tests/contract/ is one suite that both pass, so what is
proved on the fake is true of Kafka.

All methods are called in trio's thread, and all events arrive there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from trio_broadway_kafka._model._moments import StartFrom
from trio_broadway_kafka._model._output import Output

if TYPE_CHECKING:
    from trio_broadway_kafka._kafka._producing import KafkaProducer

__all__ = [
    "Answered",
    "AssignedPartition",
    "Chunk",
    "ClientEvents",
    "KafkaClient",
    "OffsetCommit",
    "PartitionEnd",
    "RawMessage",
    "Session",
    "TopicPartition",
]


class TopicPartition(NamedTuple):
    """A partition's address."""

    topic: str
    partition: int


class RawMessage(Protocol):
    """A record as the client delivers it: the methods of ``confluent_kafka.Message``."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def timestamp(self) -> tuple[int, int]:
        """``(type, milliseconds since the epoch)``; type 0 means that there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a client needs to know to join; every time is in seconds.

    Attributes:
        topics: names, or patterns that start with ``^`` (see `matching`).
        start_from: where the first assignment of a partition to this client starts. Later
            ones start from the committed offset; but as long as neither this client nor any
            other has committed anything of it since, there again.
        create_topics: make missing topics with the broker's defaults.
        open_timeout: until the broker has answered and every named topic exists.
        revoke_timeout: how long the draining of revoked partitions may take.
        close_timeout: for leaving the group and closing.
    """

    topics: tuple[str, ...]
    start_from: StartFrom = "committed"
    create_topics: bool = False
    open_timeout: float = 30.0
    revoke_timeout: float = 20.0
    close_timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class AssignedPartition:
    """A partition that is now this client's.

    Attributes:
        epoch: names this assignment of the partition; never used twice by a client.
        committed: the group's committed offset, None where there is none (or it is unknown).
        metadata: the text committed with it.
        start: where reading starts in place of `committed` (see `Session.start_from`), None
            if it does not. What was committed before then counts no more.
        topic_id: Kafka's, which a topic that is made anew under this name has not; empty
            where it is not known.
    """

    topic: str
    partition: int
    epoch: int
    committed: int | None = None
    metadata: str | None = None
    start: int | None = None
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages of one partition that arrived together, in offset order, at least one.

    Attributes:
        size: bytes of the values.
        end: the partition's end (high watermark) if it was looked up for this chunk.
    """

    topic: str
    partition: int
    epoch: int
    messages: list[RawMessage]
    size: int
    end: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """The partition was read to its end.

    Attributes:
        offset: the end beyond control records and compacted tails: everything below it
            has been delivered or never will be. Committing it gives lag 0.
    """

    topic: str
    partition: int
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class OffsetCommit:
    """Commit `offset` (the next one to read) for a partition of that epoch."""

    topic: str
    partition: int
    epoch: int
    offset: int
    metadata: str = ""


Answered = Callable[[Sequence[OffsetCommit] | Exception], None]
"""Called with what was committed, or why it was not."""


class ClientEvents(Protocol):
    """What a client reports. Synchronous, in trio's thread, one after another; never raises."""

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        """These partitions are ours from now on. Never called with an empty list.

        Where a start can't be looked up, because Kafka does not answer, this comes once it
        does, and nothing is read of the partition before.
        """

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        """These partitions are being taken away in order.

        The rebalance waits until `KafkaClient.release` is called for them all, for at
        most ``revoke_timeout`` and a second; then their epochs end. ``committed`` and
        ``metadata`` of the arguments are as they were when assigned.
        """

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        """These partitions may already be another member's; their epochs have ended."""

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        """Messages and ends of partitions of live epochs, chunks before ends.

        A call with at least one chunk answers the open fetch; one with ends only does not.
        An end may need an open fetch to be reported: who waits for it keeps fetching.
        """

    def failed(self, error: BaseException) -> None:
        """The client can't go on (a `KafkaFailure`), or one of its callbacks raised."""


class KafkaClient(Protocol):
    """One member of a consumer group. It runs once.

    What is called before `run` is done when it has started. After it has ended `fetch`,
    `pause`, `resume`, `release` and `stop` do nothing, and what answers raises
    ``trio.ClosedResourceError``.
    """

    async def run(
        self,
        events: ClientEvents,
        session: Session,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Join the group and report events, from ``started()`` until `stop`.

        Returns when the client is closed. Cancelling it abandons the client: it is
        closed if that does not take waiting, and left to its own threads otherwise.

        While it runs the client is polled at least every second, whatever is or is not
        asked for, as long as trio's loop turns. Without an open fetch no messages are
        delivered (after a while the partitions are paused inside the client).

        Raises:
            KafkaFailure: before ``started()``: no broker answered within
                ``open_timeout`` (naming the address), or a named topic does not exist
                (naming it). Later failures go to ``events.failed``.
        """

    def fetch(self, count: int) -> None:
        """Open a fetch of up to `count` messages; at most one may be open.

        It stays open over empty polls and rebalances until messages arrive.
        """

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop delivering these, from the next poll on; idempotent.

        What was polled before it took effect is still delivered. A new assignment of a
        partition starts unpaused: this is meant for those that `ClientEvents.assigned` has
        told of, and so is `resume`. Partitions not ours are ignored.
        """

    def resume(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """Deliver these again, from the given offset, or from where delivery ended (None)."""

    async def commit(self, offsets: Sequence[OffsetCommit]) -> Sequence[OffsetCommit]:
        """Commit, and return what was committed once the broker has said so.

        Entries of ended epochs are dropped: what is not ours is never committed. So are those
        of topics that have been deleted, which is logged.
        May be called, and answers, while a revoke waits for `release`. Waits as long as
        the broker takes: the caller sets the deadline.

        Raises:
            KafkaFailure: the broker refused; ``code`` and ``retriable`` tell. Nothing,
                or only a part, was committed.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    def release(
        self,
        partitions: Sequence[AssignedPartition],
        offsets: Sequence[OffsetCommit],
        answered: Answered | None = None,
    ) -> None:
        """Let the revoke of these partitions go on, after committing `offsets`.

        Their epochs end when that is done. Ignored for epochs that have ended already.
        `answered` is called, once there is an answer, with what `commit` would return or
        raise; not if it was ignored.
        """

    async def end_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The ends of these partitions now, asked of the broker, not from a cache.

        The last stable offset under ``isolation.level=read_committed``.

        Raises:
            KafkaFailure: the broker did not answer or refused.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    async def begin_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The offsets of the first records that these still hold, or where the next goes.

        Raises:
            KafkaFailure: the broker did not answer or refused.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    async def offsets_at(
        self, partitions: Sequence[TopicPartition], when: datetime
    ) -> dict[TopicPartition, int | None]:
        """The offset of the first record at or after a time, None where there is none.

        Raises:
            KafkaFailure: the broker did not answer or refused.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    async def committed_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int | None]:
        """What the group has committed, whoever owns these; None where it has not.

        Raises:
            KafkaFailure: the broker did not answer or refused.
            RuntimeError: the client does not run yet.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    async def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """The partitions of these topics (names or patterns) now; of missing ones, none.

        Raises:
            KafkaFailure: the broker did not answer or refused.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    def wall_time(self) -> float:
        """Seconds since the epoch, by a clock that records' timestamps can be compared to."""
        ...

    def since_poll(self) -> float:
        """Seconds since the client was polled last; 0 while it does not run."""
        ...

    @property
    def topics(self) -> Sequence[str]:
        """What is read, or will be soon: those of the session, until `subscribe` is obeyed."""
        ...

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics in place of those before, once this returns, soon.

        Cancelled, it may be obeyed all the same: `topics` tells.

        Partitions of topics that are left are revoked in order; those of topics that are
        kept stay as they are. Topics that are made later are found by a pattern within
        seconds, with this as with the session's topics.

        Raises:
            KafkaFailure: a named topic does not exist (and is not to be created), or the
                broker did not tell within ``open_timeout``. Nothing has changed.
            RuntimeError: the client does not run yet.
            trio.ClosedResourceError: the client is closed.
        """
        ...

    def producer(self, output: Output) -> KafkaProducer:
        """A producer to the same brokers, whose transactions commit offsets of this member.

        Raises:
            ConfigError: ``output.kafka`` is wrong.
        """
        ...

    def stop(self) -> None:
        """Leave the group and close: `run` returns soon. Partitions still ours are
        neither drained nor committed: do both before. Idempotent.
        """
