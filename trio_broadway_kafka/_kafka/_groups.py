"""What Kafka tells of a consumer group: its members, its offsets, and how far they lag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, TimeoutError as NoAnswer
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import trio
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition as Native,
)
from confluent_kafka.admin import (
    AdminClient,
    ConsumerGroupDescription,  # pyright: ignore[reportPrivateImportUsage]
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]
)

from trio_broadway_kafka._kafka._admin import BEGINNING, END
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._translate import error_of, failure
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["GroupLag", "GroupLags", "PartitionLag"]

WITHIN: Final = 15.0
"""Seconds for each answer."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """One partition that the group has committed or owns.

    Attributes:
        topic: its topic.
        partition: its number.
        committed: the group's offset, None if there is none.
        begin: the first offset that the partition still holds.
        end: its end.
        lag: offsets from the committed one (or the first) to the end.
        member: whose it is, as ``client id @ host``; empty if it is nobody's.
    """

    topic: str
    partition: int
    committed: int | None
    begin: int
    end: int
    lag: int
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLag:
    """A group at one moment.

    Attributes:
        group: its id.
        state: Kafka's: "STABLE", "EMPTY", "PREPARING_REBALANCING" and others.
        protocol: "classic" or "consumer".
        members: how many there are.
        partitions: by topic and number.
    """

    group: str
    state: str
    protocol: str
    members: int
    partitions: tuple[PartitionLag, ...]

    @property
    def lag(self) -> int:
        """That of all partitions."""
        return sum(one.lag for one in self.partitions)


class GroupLags:
    """Asks for the lag of a group, as often as one likes.

    Args:
        kafka: librdkafka's settings.
        group: its id.

    Raises:
        ConfigError: a setting is wrong.
        KafkaFailure: no client can be made of the settings.
    """

    def __init__(self, kafka: Mapping[str, object], group: str) -> None:
        config = ClientConfig({**kafka, "group.id": group})
        self._address = config.address
        self._group = group
        try:
            self._client = AdminClient(config.admin())
        except KafkaException as error:
            raise failure(error_of(error), f"connecting to {self._address}") from None

    async def ask(self, topics: Iterable[str] = ()) -> GroupLag:
        """The lag now, of all topics or these.

        Raises:
            KafkaFailure: Kafka refused or did not answer, or there is no such group.
        """
        return await trio.to_thread.run_sync(
            partial(self._ask, frozenset(topics)), abandon_on_cancel=True
        )

    def _ask(self, topics: frozenset[str]) -> GroupLag:
        found = self._client.describe_consumer_groups([self._group], request_timeout=WITHIN)
        described: ConsumerGroupDescription = self._answer(found[self._group], "its members")
        offsets = self._client.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self._group)], request_timeout=WITHIN
        )
        answer = self._answer(offsets[self._group], "its offsets")
        committed = {
            (one.topic, one.partition): one.offset if one.offset >= 0 else None
            for one in answer.topic_partitions or ()
        }
        owners = {
            (one.topic, one.partition): f"{member.client_id} @ {member.host.strip('/')}"
            for member in described.members
            for one in member.assignment.topic_partitions
        }
        state = _name(described.state)
        if state == "DEAD" or (not committed and not described.members):
            raise KafkaFailure(
                f"there is no group {self._group!r} at {self._address}: it has neither members "
                "nor offsets",
                code="GROUP_ID_NOT_FOUND",
            )
        places = sorted(
            place for place in {*committed, *owners} if not topics or place[0] in topics
        )
        begins, ends = self._offsets(places, BEGINNING), self._offsets(places, END)
        partitions = []
        for topic, number in places:
            place = (topic, number)
            begin, end, offset = begins[place], ends[place], committed.get(place)
            lag = max(0, end - (begin if offset is None else max(offset, begin)))
            partitions.append(
                PartitionLag(
                    topic=topic,
                    partition=number,
                    committed=offset,
                    begin=begin,
                    end=end,
                    lag=lag,
                    member=owners.get(place, ""),
                )
            )
        return GroupLag(
            group=self._group,
            state=state,
            protocol=_name(described.type).lower(),
            members=len(described.members),
            partitions=tuple(partitions),
        )

    def _offsets(
        self, places: list[tuple[str, int]], at: OffsetSpec
    ) -> dict[tuple[str, int], int]:
        if not places:
            return {}
        found = self._client.list_offsets(
            {Native(*place): at for place in places}, request_timeout=WITHIN
        )
        return {
            (one.topic, one.partition): self._answer(future, f"{one.topic}'s ends").offset
            for one, future in found.items()
        }

    def _answer(self, future: Future[Any], what: str) -> Any:
        doing = f"asking {self._address} for group {self._group!r}: {what}"
        try:
            return future.result(WITHIN + 5)
        except KafkaException as error:
            raise failure(error_of(error), doing) from None
        except NoAnswer:
            text = f"{doing}: no answer within {WITHIN:g} s"
            raise KafkaFailure(text, code="_TIMED_OUT", retriable=True) from None


def _name(value: object) -> str:
    return str(getattr(value, "name", value))
