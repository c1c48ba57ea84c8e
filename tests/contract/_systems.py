"""The two kinds of Kafka that the suite runs on, and what a test needs of either."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import trio
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupState,
    KafkaError,
    Producer,
    TopicPartition as ConfluentPartition,
)
from confluent_kafka.admin import AdminClient

from trio_broadway_kafka._kafka._client import KafkaClient, RawMessage
from trio_broadway_kafka.testing._fake_broker import FakeBroker

__all__ = ["FakeKafka", "RealKafka", "Store"]


class Store(Protocol):
    """A Kafka as seen from outside of the clients.

    Attributes:
        patience: seconds within which anything that has to happen must.
        slack: seconds that a timed thing may take longer than it has to.
    """

    patience: float
    slack: float

    def client(self, group: str) -> KafkaClient: ...

    def client_without_broker(self, group: str) -> tuple[KafkaClient, str]:
        """A client whose broker is not there, and the address it looks for it at."""
        ...

    async def create_topic(self, topic: str, partitions: int) -> None: ...

    async def delete_topic(self, topic: str) -> None: ...

    async def produce(
        self,
        topic: str,
        partition: int,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int | None = None,
    ) -> None: ...

    async def abort_transaction(self, topic: str, partition: int) -> None:
        """Leave an aborted record and a control record: two offsets, nothing to read."""
        ...

    async def read(self, topic: str, partition: int) -> list[RawMessage]:
        """The records that a reader gets who waits for transactions to be committed."""
        ...

    async def committed(self, topic: str, partition: int, group: str) -> int | None: ...

    async def members(self, group: str) -> int:
        """How many members the group has agreed on; 0 while it rebalances."""
        ...


class FakeKafka:
    """`FakeBroker`, where nothing takes longer than it has to."""

    patience = 100.0
    slack = 0.0

    def __init__(self) -> None:
        self.broker = FakeBroker()

    def client(self, group: str) -> KafkaClient:
        return self.broker.client(group)

    def client_without_broker(self, group: str) -> tuple[KafkaClient, str]:
        elsewhere = FakeBroker()
        elsewhere.stop()
        return elsewhere.client(group), elsewhere.bootstrap

    async def create_topic(self, topic: str, partitions: int) -> None:
        self.broker.create_topic(topic, partitions)

    async def delete_topic(self, topic: str) -> None:
        self.broker.delete_topic(topic)

    async def produce(
        self,
        topic: str,
        partition: int,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int | None = None,
    ) -> None:
        self.broker.produce(
            topic,
            *values,
            partition=partition,
            key=key,
            headers=headers,
            timestamp=timestamp,
        )

    async def abort_transaction(self, topic: str, partition: int) -> None:
        self.broker.gap(topic, partition, 1)
        self.broker.control_record(topic, partition)

    async def read(self, topic: str, partition: int) -> list[RawMessage]:
        return list(self.broker.records(topic, partition))

    async def committed(self, topic: str, partition: int, group: str) -> int | None:
        return self.broker.committed(topic, partition, group)

    async def members(self, group: str) -> int:
        await trio.lowlevel.checkpoint()
        return len(self.broker.client(group).group.members)


class RealKafka:
    """An Apache Kafka, under one of the two group protocols."""

    # A takeover under KIP-848 takes a heartbeat or two of 5 s.
    patience = 40.0
    slack = 20.0

    def __init__(self, bootstrap: str, *, protocol: str) -> None:
        self._bootstrap = bootstrap
        self._protocol = protocol

    def client(self, group: str) -> KafkaClient:
        return self._client(group, self._bootstrap)

    def client_without_broker(self, group: str) -> tuple[KafkaClient, str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        bootstrap = f"127.0.0.1:{port}"
        return self._client(group, bootstrap), bootstrap

    def _client(self, group: str, bootstrap: str) -> KafkaClient:
        # Not at the top: the suite runs on the fake wherever this can't be imported.
        from trio_broadway_kafka._kafka._confluent import ConfluentClient

        kafka: dict[str, object] = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": self._protocol,
            "auto.offset.reset": "earliest",
        }
        if self._protocol == "classic":
            # A member hears of a rebalance in the answer to a heartbeat: every 3 s.
            # Under KIP-848 the broker says how often; the client refuses the key.
            kafka["heartbeat.interval.ms"] = 300
        return ConfluentClient(kafka)

    async def create_topic(self, topic: str, partitions: int) -> None:
        from trio_broadway_kafka.testing._topics import create_topic

        await trio.to_thread.run_sync(
            lambda: create_topic(
                self._bootstrap, topic, partitions=partitions, config={}, timeout=30.0
            )
        )

    async def delete_topic(self, topic: str) -> None:
        from trio_broadway_kafka.testing._topics import delete_topic

        await trio.to_thread.run_sync(
            lambda: delete_topic(self._bootstrap, topic, timeout=30.0)
        )

    async def produce(
        self,
        topic: str,
        partition: int,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int | None = None,
    ) -> None:
        options: dict[str, Any] = {} if timestamp is None else {"timestamp": timestamp}

        def produce() -> None:
            producer = Producer({"bootstrap.servers": self._bootstrap})
            for value in values:
                producer.produce(
                    topic,
                    value=value,
                    key=key,
                    partition=partition,
                    headers=list(headers),
                    **options,
                )
            assert producer.flush(30.0) == 0

        await trio.to_thread.run_sync(produce)

    async def abort_transaction(self, topic: str, partition: int) -> None:
        def abort() -> None:
            producer = Producer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "transactional.id": uuid.uuid4().hex,
                }
            )
            producer.init_transactions(30.0)
            producer.begin_transaction()
            producer.produce(topic, value=b"aborted", partition=partition)
            # Else it might never leave this producer, and nothing would be aborted.
            assert producer.flush(30.0) == 0
            reader = Consumer({"bootstrap.servers": self._bootstrap, "group.id": "reader"})
            place = ConfluentPartition(topic, partition)
            _, before = reader.get_watermark_offsets(place, timeout=30.0)
            producer.abort_transaction(30.0)
            # The broker writes the control record after it has answered: what is produced
            # meanwhile would come before it.
            deadline = time.monotonic() + 30
            while reader.get_watermark_offsets(place, timeout=30.0)[1] == before:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            reader.close()

        await trio.to_thread.run_sync(abort)

    async def read(self, topic: str, partition: int) -> list[RawMessage]:
        def read() -> list[RawMessage]:
            consumer = Consumer({
                "bootstrap.servers": self._bootstrap,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            })  # fmt: skip
            found: list[RawMessage] = []
            try:
                consumer.assign([ConfluentPartition(topic, partition, OFFSET_BEGINNING)])
                while True:
                    message = consumer.poll(30.0)
                    assert message is not None
                    if message.error() is None:
                        found.append(message)
                    else:
                        assert message.error().code() == KafkaError._PARTITION_EOF
                        return found
            finally:
                consumer.close()

        return await trio.to_thread.run_sync(read)

    async def committed(self, topic: str, partition: int, group: str) -> int | None:
        def committed() -> int | None:
            consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": group})
            try:
                [found] = consumer.committed([ConfluentPartition(topic, partition)], 30.0)
            finally:
                consumer.close()
            assert found.error is None
            return int(found.offset) if found.offset >= 0 else None

        return await trio.to_thread.run_sync(committed)

    async def members(self, group: str) -> int:
        def members() -> int:
            admin = AdminClient({"bootstrap.servers": self._bootstrap})
            found = admin.describe_consumer_groups([group])[group].result(30)
            return len(found.members) if found.state is ConsumerGroupState.STABLE else 0

        return await trio.to_thread.run_sync(members)
