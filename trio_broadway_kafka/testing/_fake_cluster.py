"""What the clients of one fake broker share: its topics, its groups, and its moods."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit, Session, TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output_record import OutputRecord
from trio_broadway_kafka._model._topics import is_pattern, matching
from trio_broadway_kafka.testing._chaos import Chaos, ChaosRun
from trio_broadway_kafka.testing._fake_failures import Failures, Operation
from trio_broadway_kafka.testing._fake_group import Group, Member
from trio_broadway_kafka.testing._fake_log import PartitionLog
from trio_broadway_kafka.testing._fake_message import FakeMessage

__all__ = ["AcceptedCommit", "Cluster"]


@dataclass(frozen=True, slots=True)
class AcceptedCommit:
    """One committed offset, as the broker stored it.

    Attributes:
        time: on trio's clock, in seconds.
        client: who committed it.
        epoch: the client's epoch of the partition.
    """

    time: float
    group: str
    client: object
    topic: str
    partition: int
    epoch: int
    offset: int
    metadata: str


class Cluster:
    """The broker's state. All waiting is for `changed`, which wakes every waiter.

    A waiter looks again at what it waits for; so there are no wake-ups to lose, and a
    simulation has one order of events.

    Attributes:
        bootstrap: the address that errors name.
        poll_interval: seconds that a client's poll lasts when nothing arrives.
        session_timeout: seconds after which the group goes on without a silent member.
        default_partitions: of topics that a client creates.
        makes_topics: whether producing to a missing topic makes it.
        running: False in an outage.
        failures: what the next requests end in.
        delays: how long a request of an operation takes, in seconds.
        frozen: the clients that don't do anything now.
        transactional: the producer that has a ``transactional_id`` now.
        chaos: what goes wrong by itself.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        poll_interval: float,
        session_timeout: float,
        default_partitions: int,
        chaos: Chaos | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.poll_interval = poll_interval
        self.session_timeout = session_timeout
        self.default_partitions = default_partitions
        self.makes_topics = False
        self.running = True
        self.topics: dict[str, list[PartitionLog]] = {}
        self.topic_ids: dict[str, str] = {}
        self._made = 0  # topics, ever
        self.failures: Failures = Failures(bootstrap)
        self.delays: dict[Operation, float] = {}
        self.frozen: set[object] = set()
        self.commits: list[AcceptedCommit] = []
        self._groups: dict[str, Group] = {}
        self._waiters = trio.lowlevel.ParkingLot()
        self._turns: dict[str, int] = {}  # by topic, of records without a key
        self.transactional: dict[str, object] = {}  # who has which transactional_id
        self.chaos: ChaosRun = ChaosRun(chaos or Chaos(), self)

    # Waiting

    def changed(self) -> None:
        """Something is not as it was: wake all who wait for that."""
        self._waiters.unpark_all()

    async def wait_changed(self, deadline: float = math.inf) -> None:
        """Return after the next change, or at the deadline."""
        with trio.move_on_at(min(deadline, self.chaos.next_at)):
            await self._waiters.park()
        self.chaos.carry_out(trio.current_time())

    def arrival(self, operation: Operation, sent_at: float) -> float:
        """When a request is answered as things are now; inf while nobody answers."""
        if not self.running:
            return math.inf
        return (
            sent_at + self.delays.get(operation, 0.0) + self.chaos.latency(operation, sent_at)
        )

    async def request(self, operation: Operation, *, within: float) -> None:
        """Send a request, and return when it is answered.

        Raises:
            KafkaFailure: no answer `within` these seconds, or an error (`failures`).
        """
        sent_at = trio.current_time()
        while (arrival := self.arrival(operation, sent_at)) > (now := trio.current_time()):
            if now >= sent_at + within:
                raise KafkaFailure(
                    f"no broker answered at {self.bootstrap} within {within:g} s:"
                    " is the address right, and does it run?",
                    code="_TRANSPORT",
                    retriable=True,
                )
            await self.wait_changed(min(sent_at + within, arrival))
        if failure := self.failures.next(operation):
            raise failure

    # Commits

    def commit(
        self, group: str, member: Member, offsets: Sequence[OffsetCommit]
    ) -> list[OffsetCommit]:
        """Answer a commit that has arrived: what was committed, nothing of deleted topics.

        Raises:
            KafkaFailure: nothing was committed.
        """
        self.expire(self.group(group))
        if failure := self.failures.next("commit"):
            raise failure
        offsets = [commit for commit in offsets if commit.topic in self.topics]
        self.group(group).commit(member, offsets)
        self.commits.extend(
            AcceptedCommit(
                time=trio.current_time(),
                group=group,
                client=member.client,
                topic=commit.topic,
                partition=commit.partition,
                epoch=commit.epoch,
                offset=commit.offset,
                metadata=commit.metadata,
            )
            for commit in offsets
        )
        self.changed()
        return offsets

    # Topics and groups

    async def open(self, session: Session) -> None:
        """Answer a client that wants to read the session's topics.

        Raises:
            KafkaFailure: no answer in time, or a named topic is missing.
        """
        await self.request("open", within=session.open_timeout)
        self.require(session)
        self.chaos.begin(trio.current_time())

    def require(self, session: Session) -> None:
        """See that the session's named topics exist.

        Raises:
            KafkaFailure: one is missing, and is not to be created.
        """
        for topic in session.topics:
            if is_pattern(topic) or topic in self.topics:
                continue
            if not session.create_topics:
                raise KafkaFailure(
                    f"{self.bootstrap} has no topic {topic!r}: create it, or let the"
                    " pipeline do so with create_topics=True",
                    code="UNKNOWN_TOPIC_OR_PART",
                )
            self.create_topic(topic, self.default_partitions)

    def expire(self, group: Group) -> None:
        """Let the group go on without members whose sessions have ended."""
        if self.running and group.expire(trio.current_time()):
            self.changed()

    def freeze(self, member: Member, now: float) -> None:
        """Its client does nothing any more; its session will end."""
        member.expire_by(now + self.session_timeout)
        self.frozen.add(member.client)
        self.changed()

    @property
    def groups(self) -> list[Group]:
        """All groups, in the order of their making."""
        return list(self._groups.values())

    def logs(self, topic: str) -> list[PartitionLog]:
        """The logs of a topic.

        Raises:
            ValueError: there is no such topic.
        """
        if topic not in self.topics:
            raise ValueError(f"there is no topic {topic!r}: create_topic() makes one")
        return self.topics[topic]

    def log(self, partition: TopicPartition) -> PartitionLog:
        """The log of a partition.

        Raises:
            KafkaFailure: there is no such topic or partition.
        """
        logs = self.topics.get(partition.topic, [])
        if not 0 <= partition.partition < len(logs):
            raise KafkaFailure(
                f"{self.bootstrap} has no partition {partition.topic}/{partition.partition}",
                code="UNKNOWN_TOPIC_OR_PART",
            )
        return logs[partition.partition]

    def append(self, record: OutputRecord, timestamp: int | None = None) -> FakeMessage:
        """Add a record to its topic, and wake who waits for it.

        Args:
            record: without a partition, where to is by the key's hash, or in turn.
            timestamp: milliseconds; None is the time of trio's clock, or 0 before it runs.

        Raises:
            KafkaFailure: there is no such topic or partition.
        """
        number = record.partition
        if self.makes_topics and record.topic not in self.topics:
            self.create_topic(record.topic, max(self.default_partitions, (number or 0) + 1))
        if number is None:
            partitions = len(self.topics.get(record.topic, ())) or 1
            if record.key is not None:
                number = zlib.crc32(record.key) % partitions
            else:
                turn = self._turns.get(record.topic, 0)
                self._turns[record.topic] = turn + 1
                number = turn % partitions
        log = self.log(TopicPartition(record.topic, number))
        if timestamp is None:
            timestamp = round(_now() * 1000)
        message = log.append(
            key=record.key, value=record.value, headers=record.headers, timestamp=timestamp
        )
        self.changed()
        return message

    def create_topic(self, topic: str, partitions: int) -> None:
        """Add a topic, and share its partitions out to those who are subscribed to it."""
        if topic in self.topics:
            raise ValueError(f"topic {topic!r} exists already")
        if partitions < 1:
            raise ValueError(f"partitions must be at least 1, not {partitions!r}")
        self.topics[topic] = [
            PartitionLog(TopicPartition(topic, number)) for number in range(partitions)
        ]
        self._made += 1
        self.topic_ids[topic] = f"topic-{self._made}"
        for group in self._groups.values():
            group.rebalance()
        self.changed()

    def group(self, name: str) -> Group:
        """The group of this name, made when it is first asked for."""
        if name not in self._groups:
            self._groups[name] = Group(self.matching)
        return self._groups[name]

    def delete_topic(self, topic: str) -> None:
        """Remove a topic with its offsets; its partitions are revoked from their owners."""
        if topic not in self.topics:
            raise ValueError(f"there is no topic {topic!r}")
        del self.topics[topic]
        for group in self._groups.values():
            group.forget(topic)
            group.rebalance()
        self.changed()

    def matching(self, subscription: tuple[str, ...]) -> list[TopicPartition]:
        """The partitions that a subscription covers now."""
        return [
            log.address
            for topic in matching(subscription, self.topics)
            for log in self.topics.get(topic, ())
        ]


def _now() -> float:
    try:
        return trio.current_time()
    except RuntimeError:
        return 0.0
