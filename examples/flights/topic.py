"""What the demo asks of Kafka besides its pipeline: a topic with the flights in it, once.

All of it blocks: call it in a thread.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Final, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from examples.flights.data import Record

__all__ = ["PARTITIONS", "Producing", "ProducingFailed", "Topic", "WrongTopic"]

PARTITIONS: Final = 10
_TIMEOUT: Final = 30.0  # seconds
_ANSWER_TIMEOUT: Final = 10.0  # for the first answer
_LAST_TIMEOUT: Final = 5.0  # for what is on its way when it is told to stop
_NOT_YET: Final = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._NOENT,  # "no leaders found"
}

T = TypeVar("T")


class WrongTopic(Exception):
    """The topic is there, but not as the demo would have made it."""


class ProducingFailed(Exception):
    """A record could not be delivered."""


class Topic:
    """The topic at its Kafka.

    Args:
        bootstrap: Kafka's address.
        name: the topic's.
    """

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap = bootstrap
        self.name = name
        # Only what ends the demo is worth a line, and that comes as an exception.
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def cluster(self) -> str:
        """The id of the cluster.

        Raises:
            confluent_kafka.KafkaException: nobody answers.
        """
        return str(self._admin.list_topics(timeout=_ANSWER_TIMEOUT).cluster_id)

    def make(self) -> None:
        """Make the topic if it is not there.

        Raises:
            confluent_kafka.KafkaException: nobody answers, or it was refused.
            WrongTopic: it has another number of partitions.
        """
        known = self._admin.list_topics(timeout=_TIMEOUT).topics.get(self.name)
        if known is None:
            # Kept for good: else there would be less to read at the next start.
            new = NewTopic(self.name, PARTITIONS, config={"retention.ms": "-1"})
            self._admin.create_topics([new], operation_timeout=_TIMEOUT)[self.name].result()
        elif len(known.partitions) != PARTITIONS:
            raise WrongTopic(
                f"topic {self.name!r} has {len(known.partitions)} partitions, not "
                f"{PARTITIONS}: give the demo one of its own with --topic NAME"
            )

    def ends(self) -> list[int]:
        """How many records each partition holds."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = dict.fromkeys(self._places(), latest)

        def ask() -> list[int]:
            found = self._admin.list_offsets(asked, request_timeout=_TIMEOUT)
            return [found[place].result().offset for place in asked]

        return _when_ready(ask)

    def committed(self, group: str) -> int:
        """How many records the group has committed, over all partitions."""
        # Not by AdminClient.list_consumer_group_offsets: while a broker that has just
        # started still loads the group, it crashes the process (confluent-kafka 2.16.1).
        asking = {"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0}
        with closing(Consumer(asking)) as consumer:
            ask = partial(consumer.committed, self._places(), timeout=_TIMEOUT)
            return sum(max(0, place.offset) for place in _when_ready(ask))

    def _places(self) -> list[TopicPartition]:
        return [TopicPartition(self.name, partition) for partition in range(PARTITIONS)]


def _when_ready(ask: Callable[[], T]) -> T:
    """Ask again while a new topic or a new group's coordinator is not quite there yet."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


class Producing:
    """Puts the flights into the topic, from where an earlier start stopped.

    Each partition is filled by one idempotent producer in one order, so what it holds is
    always the beginning of what belongs there, and its length says where to go on.

    Attributes:
        total: records that belong into the topic.
        there: of them, what is there: before this start, and delivered since.
    """

    def __init__(self, topic: Topic, records: Sequence[Record]) -> None:
        self.total = len(records)
        self._topic = topic
        self._records = records
        self._error: KafkaError | None = None
        counts = [0] * PARTITIONS
        for number, record in enumerate(records):
            counts[partition_of(record, number)] += 1
        self._skip = topic.ends()
        self.there = sum(self._skip)
        if any(end > count for end, count in zip(self._skip, counts, strict=True)):
            raise WrongTopic(
                f"topic {topic.name!r} holds more than the {len(records):,} flights it "
                "should: give the demo another one with --topic NAME"
            )

    def run(self, check: Callable[[], None]) -> None:
        """Produce what is missing.

        Args:
            check: called every now and then; may raise to give up.

        Raises:
            ProducingFailed: a record could not be delivered.
        """
        if self.there == self.total:
            return
        producer = Producer(
            {
                "bootstrap.servers": self._topic.bootstrap,
                "log_level": 0,
                "enable.idempotence": True,
                # A record given up would move all that come after it.
                "enable.gapless.guarantee": True,
                "compression.type": "lz4",
                "linger.ms": 50,
            }
        )
        skip = list(self._skip)
        try:
            for number, record in enumerate(self._records):
                if number % 1000 == 0:
                    check()
                    self._raise()
                partition = partition_of(record, number)
                if skip[partition]:
                    skip[partition] -= 1
                    continue
                self._produce(producer, record, partition, check)
            while producer.flush(0.1):
                check()
                self._raise()
        finally:
            producer.flush(_LAST_TIMEOUT)  # whoever is told to give up does so when this ends
        self._raise()

    def _produce(
        self, producer: Producer, record: Record, partition: int, check: Callable[[], None]
    ) -> None:
        while True:
            try:
                producer.produce(
                    self._topic.name,
                    record.value,
                    record.key,
                    partition,
                    on_delivery=self._delivered,
                )
            except BufferError:  # faster than the broker takes them
                producer.poll(0.1)
                check()
            else:
                producer.poll(0)
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.there += 1
        else:
            self._error = self._error or error

    def _raise(self) -> None:
        if self._error is not None:
            raise ProducingFailed(f"topic {self._topic.name!r}: {self._error.str()}")


def partition_of(record: Record, number: int) -> int:
    """Where a record goes: by its key as librdkafka does; in turn if it has none."""
    if record.key is None:
        return number % PARTITIONS
    return zlib.crc32(record.key.encode()) % PARTITIONS
