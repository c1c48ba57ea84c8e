"""What a client of the fake broker asks of it beside reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from trio_broadway_kafka._kafka._client import Session, TopicPartition
from trio_broadway_kafka.testing._fake_cluster import Cluster, Operation
from trio_broadway_kafka.testing._fake_group import Group, Member

__all__ = ["Questions"]


class Questions:
    """The part of a fake client that asks, and neither reads nor commits."""

    group: Group
    _cluster: Cluster
    _session: Session
    _member: Member
    _has_joined: bool

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

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics in place of those before.

        Raises:
            KafkaFailure: no answer within ``open_timeout``, a refusal, or a named topic does
                not exist.
            RuntimeError: the client does not run yet.
            trio.ClosedResourceError: the client is closed.
        """
        if not self._has_joined:
            raise RuntimeError("the client does not run yet")
        await self._ask("subscribe")
        session = replace(self._session, topics=tuple(topics))
        self._cluster.require(session)
        self._session = session
        if not self._member.fenced:
            self.group.subscribe(self._member, session.topics)
        self._cluster.changed()
