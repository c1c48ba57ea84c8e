"""Where each partition is left by a pipeline that ends: up to which offset it is handled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_broadway_kafka._kafka._client import RawMessage, TopicPartition

__all__ = ["Stops"]


class Stops:
    """The stop of every partition: nothing at or beyond it is handled here.

    Two members that open at once see slightly different ends. So that neither waits for more
    than the other one handles, what is waited for of others' partitions (`awaited`) is taken
    from ends that were all looked up before any of those that are handled up to: were each to
    wait for more than the other one's stop, each would have looked first.

    Args:
        timestamp: of a time still to come, in ms: until all are fixed, a partition whose stop
            is not known ends before its first message that is not older.

    Attributes:
        fixed: whether all stops are known. A partition without one has none of its messages
            handled: it came later.
    """

    def __init__(self, timestamp: int | None = None) -> None:
        self.fixed = False
        self._timestamp = timestamp
        self._stops: dict[TopicPartition, int] = {}
        self._awaited: dict[TopicPartition, int] = {}
        self._seen: dict[TopicPartition, int] = {}

    @property
    def partitions(self) -> Collection[TopicPartition]:
        """Those that have a stop."""
        return self._stops.keys()

    def stop(self, partition: TopicPartition) -> int | None:
        """Its stop, None as long as it is not known."""
        return self._stops.get(partition, 0 if self.fixed else None)

    def awaited(self, partition: TopicPartition) -> int:
        """What the group must have committed of it while another member owns it."""
        return self._awaited.get(partition, self._stops[partition])

    def learn(self, found: Mapping[TopicPartition, int]) -> None:
        """These stops are known; the others are still to come."""
        for partition, offset in found.items():
            self._stops.setdefault(partition, offset)

    def fix(
        self,
        earlier_ends: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        found: Mapping[TopicPartition, int],
    ) -> None:
        """Fix the stops of all partitions.

        Args:
            earlier_ends: of all partitions.
            ends: of all partitions, looked up after `earlier_ends`.
            found: stops that lie elsewhere, looked up last.
        """
        self.learn(found)
        for partition, end in ends.items():
            # What has arrived meanwhile may have been handled already.
            stop = max(end, self._seen.get(partition, 0))
            stop = self._stops.setdefault(partition, stop)
            self._awaited[partition] = min(stop, earlier_ends.get(partition, stop))
        self.fixed = True

    def below(
        self, partition: TopicPartition, messages: Sequence[RawMessage]
    ) -> Sequence[RawMessage]:
        """Those of some messages that may be handled: all of them, or the first ones."""
        stop = self.stop(partition)
        if stop is not None:
            if messages[-1].offset() < stop:
                return messages
            return [message for message in messages if message.offset() < stop]
        if self._timestamp is not None:
            for index, message in enumerate(messages):
                if message.timestamp()[1] >= self._timestamp:
                    self._stops[partition] = message.offset()
                    messages = messages[:index]
                    break
        if messages:
            self.saw(partition, messages[-1].offset() + 1)
        return messages

    def saw(self, partition: TopicPartition, offset: int) -> None:
        """It was read to this offset before its stop was known."""
        self._seen[partition] = max(offset, self._seen.get(partition, 0))
