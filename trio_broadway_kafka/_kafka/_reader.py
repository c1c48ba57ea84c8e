"""Polling: messages and ends, sorted by the assignments they belong to."""

from __future__ import annotations

from typing import Final, cast

from confluent_kafka import Consumer, Message

from trio_broadway_kafka._kafka._client import Chunk, PartitionEnd
from trio_broadway_kafka._kafka._partitions import Owned, Partitions
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._translate import DAMAGED

__all__ = ["POLL", "Reader"]

POLL: Final = 0.1
"""Seconds that a poll may take, and so that commands may wait."""


class Reader:
    """Reads for the feeder. Every call may serve callbacks, and so a rebalance."""

    def __init__(self, consumer: Consumer, partitions: Partitions, reports: Reports) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._reports = reports
        # Polled and not handed out yet, with the assignment as of the poll.
        self._kept: list[tuple[Owned, Message]] = []
        self._kept_ends: list[tuple[Owned, PartitionEnd]] = []
        # Where records can't be read: what comes behind them must not pass over them.
        self._damaged: set[tuple[str, int]] = set()

    def read(self, count: int) -> tuple[list[Chunk], list[PartitionEnd]]:
        """Return up to `count` messages: what is there, or what comes within `POLL`."""
        consumer, partitions = self._consumer, self._partitions
        version = partitions.version
        missing = count - len(self._kept)
        # consume(n, t) waits for all of t unless n messages are there. So: what is there,
        # or the first one that comes and then what came with it.
        messages = consumer.consume(missing, 0) if missing > 0 else []
        if not messages and not self._kept:
            first = consumer.poll(POLL)
            if first is None:
                return [], []
            # Keeps its assignment: the next call may serve a rebalance that ends it.
            end = self._keep(first)
            if not self._kept:
                return [], [] if end is None else [end]
            if count > 1:
                messages = consumer.consume(count - 1, 0)
        ends: list[PartitionEnd] = []
        if self._damaged or any(map(Message.error, messages)):
            messages = self._without_errors(messages, ends)
        runs: dict[Owned, list[Message]] = {}
        if self._kept:
            for owned, message in self._kept[:count]:
                if partitions.is_live(owned):
                    runs.setdefault(owned, []).append(message)
            del self._kept[:count]
        if self._kept_ends and not self._kept:
            ends += [end for owned, end in self._kept_ends if partitions.is_live(owned)]
            self._kept_ends.clear()
        if messages:
            partitions.runs(messages, runs, changed=version != partitions.version)
        return list(partitions.chunks(runs)), ends

    def poll(self) -> PartitionEnd | None:
        """Serve callbacks while no fetch is open; a message that comes is kept for one."""
        message = self._consumer.poll(0)
        return None if message is None else self._keep(message)

    def forget(self, moved: list[Owned]) -> None:
        """Drop what was polled of these: the caller wants another position."""
        self._kept = [kept for kept in self._kept if kept[0] not in moved]
        self._kept_ends = [kept for kept in self._kept_ends if kept[0] not in moved]

    def _keep(self, message: Message) -> PartitionEnd | None:
        if message.error() is None:
            owned = self._partitions.get(message.topic(), message.partition())
            if owned is not None and not (self._damaged and self._is_damaged(message)):
                owned.next = cast(int, message.offset()) + 1
                self._kept.append((owned, message))
            return None
        found = self._end(message)
        if found is None:
            return None
        owned, end = found
        if any(owned is other for other, _ in self._kept):
            # An end says that all below it was handed out.
            self._kept_ends.append(found)
            return None
        return end

    def _without_errors(
        self, messages: list[Message], ends: list[PartitionEnd]
    ) -> list[Message]:
        good: list[Message] = []
        for message in messages:
            if self._damaged and self._is_damaged(message):
                continue
            if message.error() is None:
                good.append(message)
            elif (found := self._end(message)) is not None:
                ends.append(found[1])
        return good

    def _is_damaged(self, message: Message) -> bool:
        return (message.topic(), message.partition()) in self._damaged

    def _end(self, message: Message) -> tuple[Owned, PartitionEnd] | None:
        """What an error tells: the end of a partition, or trouble, which is reported."""
        error = message.error()
        topic, partition = message.topic(), message.partition()
        assert error is not None
        if error.name() != "_PARTITION_EOF":
            if error.name() in DAMAGED and topic is not None and partition is not None:
                self._damaged.add((topic, partition))
            self._reports.message_error(error, topic, partition)
            return None
        owned = self._partitions.get(topic, partition)
        if owned is None or self._is_damaged(message):
            return None
        # The EOF's own offset is behind control records and what was compacted away.
        offset = cast(int, message.offset())
        if owned.next is None or owned.next < offset:
            owned.next = offset
        place = owned.assigned
        return owned, PartitionEnd(place.topic, place.partition, place.epoch, offset)
