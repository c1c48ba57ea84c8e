"""What is asked of librdkafka for the partitions that a client has."""

from __future__ import annotations

from typing import Any

from confluent_kafka import TopicPartition as Native

from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._kafka._partitions import Partitions


class Consumer:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def resume(self, partitions: list[Native]) -> None:
        self.calls.append(("resume", [one.partition for one in partitions]))

    def pause(self, partitions: list[Native]) -> None:
        self.calls.append(("pause", [one.partition for one in partitions]))

    def seek(self, partition: Native) -> None:
        self.calls.append(("seek", (partition.partition, partition.offset)))


def assigned(*offsets: int) -> tuple[Consumer, Partitions]:
    """Partitions of topic "t" from 0 on, with these committed offsets; settled."""
    consumer = Consumer()
    partitions = Partitions(consumer)  # type: ignore[arg-type]
    committed = [Native("t", number, offset) for number, offset in enumerate(offsets)]
    partitions.assign(committed, ids={}, first_offset=None, starts={})
    partitions.settle()
    consumer.calls.clear()
    return consumer, partitions


def test_what_is_kept_in_a_rebalance_is_sought_where_delivery_goes_on() -> None:
    """Resumed by librdkafka alone its next message would come up to a second later."""
    consumer, partitions = assigned(5, 7, 9)
    first = partitions.get("t", 0)
    assert first is not None
    partitions.end([first])
    partitions.note_rebalance()
    partitions.settle()
    assert consumer.calls == [("resume", [1, 2]), ("seek", (1, 7)), ("seek", (2, 9))]
    consumer.calls.clear()
    partitions.settle()
    assert consumer.calls == []  # once


def test_what_begins_in_a_rebalance_is_not_sought() -> None:
    consumer, partitions = assigned(5)
    partitions.note_rebalance()
    partitions.assign([Native("t", 3, 8)], ids={}, first_offset=None, starts={})
    partitions.settle()
    assert consumer.calls == [("resume", [0]), ("seek", (0, 5))]


def test_what_is_paused_stays_paused_through_a_rebalance() -> None:
    consumer, partitions = assigned(5, 7)
    partitions.pause([TopicPartition("t", 0)])
    partitions.settle()
    partitions.note_rebalance()
    partitions.settle()
    assert consumer.calls == [("pause", [0]), ("resume", [1]), ("seek", (1, 7))]
