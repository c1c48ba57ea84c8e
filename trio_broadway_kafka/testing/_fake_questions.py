"""What a client of the fake broker asks of it beside reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import trio

from trio_broadway_kafka._kafka._client import Session, TopicPartition
from trio_broadway_kafka._model._moments import milliseconds
from trio_broadway_kafka.testing._fake_cluster import Cluster
from trio_broadway_kafka.testing._fake_failures import Operation
from trio_broadway_kafka.testing._fake_group import Group, Member

__all__ = ["Questions"]


class Questions:
    """The part of a fake client that asks, and neither reads nor commits."""

    group: Group
    _cluster: Cluster
    _session: Session
    _member: Member
    _has_joined: bool
    _halted_at: float | None = None

    def _check_open(self) -> None:
        raise NotImplementedError

    async def _ask(self, operation: Operation) -> None:
        """Send a question, and return when it may be answered.

        Raises:
            KafkaFailure: no answer within the session's ``open_timeout``, or a refusal.
            trio.ClosedResourceError: the client is closed.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        await self._cluster.request(operation, within=self._session.open_timeout)
        self._check_open()

    async def end_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The ends of these partitions now.

        Raises:
            KafkaFailure: no answer within the session's ``open_timeout``, or a refusal.
            trio.ClosedResourceError: the client is closed.
        """
        await self._ask("end_offsets")
        return {
            TopicPartition(*partition): self._cluster.log(TopicPartition(*partition)).end
            for partition in partitions
        }

    async def begin_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The first offsets of these partitions: 0, for nothing is ever cut off here.

        Raises:
            KafkaFailure: no answer within the session's ``open_timeout``, or a refusal.
            trio.ClosedResourceError: the client is closed.
        """
        await self._ask("offsets")
        return {self._cluster.log(place).address: 0 for place in partitions}

    async def offsets_at(
        self, partitions: Sequence[TopicPartition], when: datetime
    ) -> dict[TopicPartition, int | None]:
        """The offsets of the first records at or after a time, None where there is none.

        Raises:
            KafkaFailure: no answer within the session's ``open_timeout``, or a refusal.
            trio.ClosedResourceError: the client is closed.
        """
        await self._ask("offsets")
        timestamp = milliseconds(when)
        return {place: self._cluster.log(place).since(timestamp) for place in partitions}

    async def committed_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int | None]:
        """What the group has committed, None where it has not.

        Raises:
            KafkaFailure: no answer within the session's ``open_timeout``, or a refusal.
            RuntimeError: the client does not run yet.
            trio.ClosedResourceError: the client is closed.
        """
        self._check_open()
        if not self._has_joined:
            raise RuntimeError("the client does not run yet")
        await self._ask("committed")
        stored = self.group.committed
        return {p: stored[p].offset if p in stored else None for p in partitions}

    async def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """The partitions of these topics now.

        Raises:
            KafkaFailure: no answer within the session's ``open_timeout``, or a refusal.
            trio.ClosedResourceError: the client is closed.
        """
        await self._ask("partitions")
        return self._cluster.matching(tuple(topics))

    def wall_time(self) -> float:
        """See `KafkaClient`: the clock that `FakeBroker.produce` takes its timestamps from."""
        return trio.current_time()

    def since_poll(self) -> float:
        """See `KafkaClient`: a fake one polls unless it is frozen."""
        return 0.0 if self._halted_at is None else trio.current_time() - self._halted_at

    @property
    def topics(self) -> Sequence[str]:
        """See `KafkaClient.topics`."""
        return self._session.topics

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics in place of those before.

        Raises:
            KafkaFailure: no answer within ``open_timeout``, a refusal, or a named topic does
                not exist.
            RuntimeError: the client does not run yet.
            trio.ClosedResourceError: the client is closed.
        """
        self._check_open()
        if not self._has_joined:
            raise RuntimeError("the client does not run yet")
        await self._ask("subscribe")
        session = replace(self._session, topics=tuple(topics))
        self._cluster.require(session)
        self._session = session
        if not self._member.fenced:
            self.group.subscribe(self._member, session.topics)
        self._cluster.changed()
