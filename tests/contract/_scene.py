"""What every test of the suite begins with: a topic, a group, and members that run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import trio

from tests.contract._recorder import Member
from tests.contract._systems import Store
from trio_broadway_kafka._kafka._client import KafkaClient, Session, TopicPartition
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._model._moments import StartFrom
from trio_broadway_kafka._model._output import Output

__all__ = ["Scene"]


class Scene:
    """A Kafka with a topic and a group that no other test uses.

    Attributes:
        topic: made by `create`.
    """

    def __init__(self, store: Store, nursery: trio.Nursery) -> None:
        self.store = store
        self.patience = store.patience
        self.slack = store.slack
        self.topic = f"topic-{uuid.uuid4().hex[:12]}"
        self.group = f"group-{uuid.uuid4().hex[:12]}"
        self._nursery = nursery
        self._members: list[Member] = []
        self._producers: list[KafkaProducer] = []

    def partition(self, number: int) -> TopicPartition:
        """A partition of the topic."""
        return TopicPartition(self.topic, number)

    async def create(self, partitions: int = 1) -> None:
        """Make the topic."""
        await self.store.create_topic(self.topic, partitions)

    async def produce(self, partition: int, *values: bytes | None) -> None:
        """Append records to a partition of the topic."""
        await self.store.produce(self.topic, partition, *values)

    async def committed(self, partition: int) -> int | None:
        """The group's committed offset of a partition, as an outsider sees it."""
        return await self.store.committed(self.topic, partition, self.group)

    async def has_members(self, count: int) -> None:
        """Wait until the group has this many members."""
        with trio.fail_after(self.patience):
            # The broker tells nobody when it changes: it has to be asked.
            while await self.store.members(self.group) != count:  # noqa: ASYNC110
                await trio.sleep(0.05)

    def new_client(self) -> KafkaClient:
        """A client of the group that does not run yet."""
        return self.store.client(self.group)

    async def start(
        self,
        *,
        topics: Sequence[str] | None = None,
        revoke_timeout: float = 20.0,
        create_topics: bool = False,
        start_from: StartFrom = "committed",
    ) -> Member:
        """Start another member of the group, subscribed to the topic."""
        session = Session(
            topics=tuple(topics or [self.topic]),
            revoke_timeout=revoke_timeout,
            create_topics=create_topics,
            start_from=start_from,
        )
        member = Member(self.new_client(), patience=self.patience)
        with trio.fail_after(self.patience):
            await self._nursery.start(self._run, member, session)
        self._members.append(member)
        return member

    async def start_producer(self, member: Member, **options: Any) -> KafkaProducer:
        """Start a producer of a member; `options` are those of `Output`."""
        producer = member.client.producer(Output(**options))
        with trio.fail_after(self.patience):
            await self._nursery.start(producer.run)
        self._producers.append(producer)
        return producer

    async def start_owner(self, partitions: int) -> Member:
        """Make the topic, and start a member that owns all of it."""
        await self.create(partitions)
        member = await self.start()
        await member.owns(partitions)
        return member

    async def close(self) -> None:
        """Stop the members, so that a real one leaves its group at once."""
        for producer in self._producers:
            producer.stop()
        for member in self._members:
            member.client.stop()
        with trio.fail_after(self.patience):
            for member in self._members:
                await member.closed.wait()

    async def _run(
        self, member: Member, session: Session, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await member.client.run(member.events, session, task_status=task_status)
        member.closed.set()
