"""`FakeBroker`: a Kafka in memory, on trio's clock, that fails when a test says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import trio

from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output_record import OutputRecord
from trio_broadway_kafka.testing._chaos import Chaos
from trio_broadway_kafka.testing._fake_client import FakeClient
from trio_broadway_kafka.testing._fake_cluster import AcceptedCommit, Cluster
from trio_broadway_kafka.testing._fake_failures import Operation, checked
from trio_broadway_kafka.testing._fake_group import StoredOffset
from trio_broadway_kafka.testing._fake_message import FakeMessage

__all__ = ["FakeBroker"]


class FakeBroker:
    """A Kafka in memory: exact, deterministic, and fast under trio's autojump clock.

    It holds topics, groups and committed offsets. Its clients are members of its groups,
    so pipelines that share a broker share its partitions as two processes would::

        broker = FakeBroker(topics={"orders": 3})
        broker.produce("orders", b"first", b"second", partition=0)
        async with open_pipeline(client=broker.client(), topics=["orders"], stages=stages):
            await broker.wait_committed("orders", 0, 2)

    What it does is checked against a real Kafka by the suite that both pass. There are
    no threads. What should go wrong is told to it: `rebalance`, `lose`, `freeze`,
    `stop`, `delay`, `fail_next`, `gap`, `control_record`, `delete_topic`; or goes wrong by
    itself, as `chaos` has it: under `simulate` the same seed is the same run.

    Args:
        topics: names, with the number of partitions of each.
        poll_interval: seconds that a client's poll lasts when nothing arrives. A commit,
            pause or stop that comes while a fetch is open waits for the poll to end.
            ``math.inf`` is for tests where that is in the way: then nothing waits.
        session_timeout: seconds after which a frozen client's partitions move on.
        default_partitions: of the topics that a client creates.
        chaos: what goes wrong by itself; a seed stands for ``Chaos.from_seed(seed)``. A
            pipeline is to survive all of it.

    Raises:
        ValueError: a topic has less than one partition.
    """

    def __init__(
        self,
        topics: Mapping[str, int] | None = None,
        *,
        poll_interval: float = 0.1,
        session_timeout: float = 45.0,
        default_partitions: int = 1,
        chaos: int | Chaos | None = None,
    ) -> None:
        self._cluster = Cluster(
            bootstrap="fake:9092",
            poll_interval=poll_interval,
            session_timeout=session_timeout,
            default_partitions=default_partitions,
            chaos=Chaos.from_seed(chaos) if isinstance(chaos, int) else chaos,
        )
        self._clients = 0
        for topic, partitions in (topics or {}).items():
            self._cluster.create_topic(topic, partitions)

    @property
    def bootstrap(self) -> str:
        """The address that the clients' errors name."""
        return self._cluster.bootstrap

    def client(self, group: str = "group") -> FakeClient:
        """A client, for ``open_pipeline(client=...)``: it joins `group` when it is run.

        It can be run once. A RuntimeError comes out of a pipeline that gets one anew.
        """
        self._clients += 1
        name = f"{group}-{self._clients}"
        return FakeClient(self._cluster, group=group, name=name)

    # Records

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Add a topic. Clients get its partitions at once, by its name or by a pattern.

        Raises:
            ValueError: it exists already, or has less than one partition.
        """
        self._cluster.create_topic(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        """Remove a topic, its records and the offsets committed for it.

        Its partitions are revoked in order, as under KIP-848. What a client then commits of
        them is dropped.
        """
        self._cluster.delete_topic(topic)

    def produce(
        self,
        topic: str,
        *values: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int | None = None,
    ) -> list[FakeMessage]:
        """Append a record for each value, and return them, read as confluent_kafka's are.

        Args:
            topic: must exist.
            values: of the records; None makes a tombstone.
            key: of each of them.
            partition: where to; None is by the key's hash, or in turn without a key.
            headers: of each of them.
            timestamp: milliseconds; None is the time of trio's clock, or 0 before it runs.

        Raises:
            TypeError: a value or the key is not bytes.
            ValueError: there is no such topic.
            KafkaFailure: it has no such partition.
        """
        self._cluster.logs(topic)
        for part in (key, *values):
            if not isinstance(part, bytes | None):
                raise TypeError(
                    f"a record's key and value are bytes, not {type(part).__name__}"
                )
        return [
            self._cluster.append(
                OutputRecord(topic, value, key, tuple(headers), partition), timestamp
            )
            for value in values
        ]

    def records(self, topic: str, partition: int | None = None) -> list[FakeMessage]:
        """What a partition holds, in order; or all partitions, one after another.

        Raises:
            ValueError: there is no such topic.
            KafkaFailure: there is no such partition.
        """
        if partition is not None:
            return list(self._cluster.log(TopicPartition(topic, partition)).records)
        return [message for log in self._cluster.logs(topic) for message in log.records]

    def control_record(self, topic: str, partition: int) -> None:
        """Let a transaction end here: one offset that is never delivered.

        Raises:
            KafkaFailure: there is no such partition.
        """
        self.gap(topic, partition, 1)

    def gap(self, topic: str, partition: int, count: int) -> None:
        """Leave out `count` offsets, as compaction or an aborted transaction does.

        Raises:
            ValueError: `count` is below 1.
            KafkaFailure: there is no such partition.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        self._cluster.log(TopicPartition(topic, partition)).skip(count)
        self._cluster.changed()

    # Offsets

    @property
    def commits(self) -> list[AcceptedCommit]:
        """Every offset committed so far, by any group, in the broker's order.

        Each has ``time`` (seconds of trio's clock), ``group``, ``client``, ``topic``,
        ``partition``, ``epoch``, ``offset`` and ``metadata``.
        """
        return list(self._cluster.commits)

    def committed(self, topic: str, partition: int, group: str = "group") -> int | None:
        """The group's committed offset, None if there is none."""
        stored = self._stored(topic, partition, group)
        return stored.offset if stored else None

    def committed_metadata(
        self, topic: str, partition: int, group: str = "group"
    ) -> str | None:
        """The text committed with the offset, None if there is no offset."""
        stored = self._stored(topic, partition, group)
        return stored.metadata if stored else None

    async def wait_committed(
        self, topic: str, partition: int, offset: int, group: str = "group"
    ) -> None:
        """Return once the group's committed offset is `offset` or beyond.

        It may never be: set a deadline if you can't wait.
        """
        await trio.lowlevel.checkpoint()
        while (self.committed(topic, partition, group) or 0) < offset:
            await self._cluster.wait_changed()

    # Rebalances

    def rebalance(
        self,
        client: FakeClient,
        partitions: Iterable[tuple[str, int]] | None = None,
        *,
        to: FakeClient | None = None,
    ) -> None:
        """Have partitions revoked from a client, and assigned once it has released them.

        Clients that join and leave cause rebalances by themselves: partitions are shared
        out evenly, and no more of them move than must.

        Args:
            client: the owner.
            partitions: of the client; None is all it owns.
            to: the next owner, of the same group; None gives them back to `client`,
                within the poll that revokes them.

        Raises:
            ValueError: a client is no member of the group now, or does not own these.
        """
        group = client.group
        member, chosen = group.owned_by(client, partitions)
        group.move(chosen, member, group.member_of(to or client))
        self._cluster.changed()

    def lose(
        self,
        client: FakeClient,
        partitions: Iterable[tuple[str, int]] | None = None,
        *,
        to: FakeClient | None = None,
    ) -> None:
        """Take partitions away from a client that learns of it afterwards.

        Commits of them that are under way are refused (UNKNOWN_MEMBER_ID).

        Args:
            client: the owner.
            partitions: of the client; None is all it owns.
            to: the next owner, of the same group; None gives them to `client` anew.

        Raises:
            ValueError: a client is no member of the group now, or does not own these.
        """
        group = client.group
        member, chosen = group.owned_by(client, partitions)
        group.move(chosen, member, group.member_of(to or client))
        group.take_away(member, chosen)
        self._cluster.changed()

    def freeze(self, client: FakeClient) -> None:
        """Stop a client as SIGSTOP does: it neither polls nor sends until `thaw`.

        After ``session_timeout`` its partitions move to the others. Thawed later than
        that, its commits are refused, it reports the loss, and then joins again. To kill a
        process as SIGKILL does, freeze its client and cancel the pipeline.

        Raises:
            ValueError: the client is no member of its group now.
        """
        self._cluster.freeze(client.group.member_of(client), trio.current_time())

    def thaw(self, client: FakeClient) -> None:
        """Let a frozen client go on; one that is not frozen does anyway."""
        self._cluster.frozen.discard(client)
        self._cluster.changed()

    # Failures

    @property
    def faults(self) -> dict[str, int]:
        """How many faults of its `chaos` have come so far, by kind."""
        return dict(self._cluster.chaos.happened)

    def stop(self) -> None:
        """Begin an outage: nothing is delivered or answered, and no group changes."""
        self._cluster.running = False
        self._cluster.changed()

    def start(self) -> None:
        """End the outage: what was sent meanwhile is answered."""
        self._cluster.running = True
        self._cluster.changed()

    def delay(self, operation: Operation, seconds: float) -> None:
        """Let an operation take this long, those under way included.

        Args:
            operation: "open", "fetch" (a message arrives that much after it could),
                "commit", "committed", "end_offsets", "offsets", "partitions",
                "subscribe" (what a pipeline asks), "produce", "transaction" (all of it but its
                end), "end_transaction" (from when on it may be committed, whoever is cancelled
                meanwhile) or "close".
            seconds: ``math.inf`` for never; a later call may end that.

        Raises:
            ValueError: there is no such operation, or `seconds` is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must not be negative, not {seconds!r}")
        self._cluster.delays[checked(operation)] = seconds
        self._cluster.changed()

    @property
    def commit_delay(self) -> float:
        """Seconds that a commit takes; to set it is to ``delay("commit", seconds)``."""
        return self._cluster.delays.get("commit", 0.0)

    @commit_delay.setter
    def commit_delay(self, seconds: float) -> None:
        self.delay("commit", seconds)

    def fail_next(
        self, operation: Operation, error: KafkaFailure | str, times: int = 1
    ) -> None:
        """Answer the next requests of an operation, of any client, with an error.

        Args:
            operation: "open", "fetch" (a retriable error is tried again inside the
                client, any other ends in `ClientEvents.failed`), "commit" (that of a
                release too), "committed", "end_offsets", "partitions", "subscribe" or
                "offsets" (by a time or a ``start_from``; at an assignment as with "fetch"),
                "produce" (a retriable error is tried again inside the producer),
                "transaction" or "end_transaction" (which is aborted then).
            error: what is raised, or Kafka's code for it.
            times: how many requests.

        Raises:
            ValueError: there is no such operation, it is "close", or `times` is below 1.
        """
        if checked(operation) == "close":
            raise ValueError("close does not fail; delay it instead")
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times!r}")
        self._cluster.failures.add(operation, error, times)

    def _stored(self, topic: str, partition: int, group: str) -> StoredOffset | None:
        return self._cluster.group(group).committed.get(TopicPartition(topic, partition))
