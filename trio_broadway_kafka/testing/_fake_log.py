"""What one partition of the fake broker holds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._moments import StartFrom, milliseconds
from trio_broadway_kafka.testing._fake_message import FakeMessage

__all__ = ["PartitionLog"]


class PartitionLog:
    """Records at increasing offsets, and an end that may lie beyond the last of them.

    Offsets without a record are what control records, aborted transactions and
    compaction leave behind: a reader passes over them.

    Attributes:
        address: the partition's topic and number.
        records: in the order of their offsets.
        end: the offset that the next record will get.
    """

    __slots__ = ("address", "end", "records")

    def __init__(self, address: TopicPartition) -> None:
        self.address: TopicPartition = address
        self.records: list[FakeMessage] = []
        self.end: int = 0

    def append(
        self,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp: int,
    ) -> FakeMessage:
        """Add a record at the end."""
        message = FakeMessage(
            topic=self.address.topic,
            partition=self.address.partition,
            offset=self.end,
            key=key,
            value=value,
            headers=headers,
            timestamp=timestamp,
        )
        self.records.append(message)
        self.end += 1
        return message

    def skip(self, count: int) -> None:
        """Move the end by `count` offsets that hold nothing."""
        self.end += count

    def start(self, start_from: StartFrom) -> int | None:
        """Where that is here; None for the committed offset."""
        match start_from:
            case "committed":
                return None
            case "earliest":
                return 0
            case "latest":
                return self.end
            case when:
                since = self.since(milliseconds(when))
                return self.end if since is None else since

    def since(self, timestamp: int) -> int | None:
        """The offset of the first record at or after a time in ms, None if there is none."""
        for record in self.records:
            if record.timestamp()[1] >= timestamp:
                return record.offset()
        return None

    def available(self, position: int) -> int:
        """How many records lie at or after `position`."""
        return len(self.records) - self._index(position)

    def read(self, position: int, count: int) -> list[FakeMessage]:
        """Up to `count` records from `position` on."""
        index = self._index(position)
        return self.records[index : index + count]

    def _index(self, position: int) -> int:
        return bisect_left(self.records, position, key=FakeMessage.offset)
