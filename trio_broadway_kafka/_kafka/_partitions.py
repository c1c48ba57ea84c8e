"""The partitions that are ours: their epochs, where delivery stands, who has them paused."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, cast

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition as Native

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    OffsetCommit,
    RawMessage,
    TopicPartition,
)

__all__ = ["Owned", "Partitions", "TopicIds"]

TopicIds = Callable[[Collection[str]], Mapping[str, str]]

LOOK_UP_END_EVERY: Final = 0.25
"""Seconds. A look-up is 0.7 µs, which counts with 1,000 partitions of one message each."""


class Owned:
    """One assignment of one partition.

    Attributes:
        next: where delivery goes on: behind the last offset handed out or kept.
        seek: where the caller wants it to go on instead, until that is done.
        paused: whether the caller has it paused.
        stopped: whether it is paused inside librdkafka.
        halted: whether a rebalance has halted it inside librdkafka, which was not undone yet.
    """

    __slots__ = ("assigned", "end_due", "halted", "native", "next", "paused", "seek", "stopped")

    def __init__(self, assigned: AssignedPartition, first: int | None) -> None:
        self.assigned = assigned
        self.native = Native(assigned.topic, assigned.partition)
        self.next = first
        self.seek: int | None = None
        self.paused = False
        self.stopped = False
        self.halted = False
        self.end_due = 0.0


class Partitions:
    """What is assigned to this client, by topic and partition.

    Attributes:
        resting: nothing is asked for, so everything is to be paused inside librdkafka.
        version: counts assignments and their ends.
    """

    def __init__(self, consumer: Consumer) -> None:
        self.resting = False
        self.version = 0
        self._consumer = consumer
        self._owned: dict[TopicPartition, Owned] = {}
        self._by_topic: dict[str, dict[int, Owned]] = {}
        self._single: dict[int, Owned] | None = None
        self._epochs = 0
        self._unsettled = False
        self._left_stopped: set[TopicPartition] = set()

    def get(self, topic: str | None, partition: int | None) -> Owned | None:
        """The assignment of a partition now."""
        return self._owned.get(cast(TopicPartition, (topic, partition)))

    def any(self) -> bool:
        """Whether any partition is assigned."""
        return bool(self._owned)

    def is_live(self, owned: Owned) -> bool:
        """Whether the epoch of `owned` has not ended."""
        return self.get(owned.assigned.topic, owned.assigned.partition) is owned

    def live(self, offsets: Sequence[OffsetCommit]) -> list[OffsetCommit]:
        """Those of `offsets` whose epoch has not ended."""
        return [
            o
            for o in offsets
            if (owned := self.get(o.topic, o.partition)) is not None
            and owned.assigned.epoch == o.epoch
        ]

    def still(self, epochs: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """Those of these partitions whose epoch has not ended."""
        return [
            place
            for place, epoch in epochs.items()
            if (owned := self._owned.get(place)) is not None and owned.assigned.epoch == epoch
        ]

    def pick(self, partitions: Iterable[Native]) -> list[Owned]:
        """The assignments of those that are ours."""
        found = (self.get(p.topic, p.partition) for p in partitions)
        return [owned for owned in found if owned is not None]

    # -- assignments

    def assign(
        self,
        committed: Iterable[Native],
        *,
        ids: Mapping[str, str],
        first_offset: int | None,
        starts: Mapping[TopicPartition, int],
    ) -> list[AssignedPartition]:
        """Begin a new epoch for each.

        Args:
            committed: the partitions, with committed offset and metadata.
            ids: of the topics, as far as they are known.
            first_offset: where reading starts without a committed offset.
            starts: where it starts in place of the committed offset.
        """
        assigned: list[AssignedPartition] = []
        left: list[Native] = []
        for native in committed:
            self._epochs += 1
            has = native.offset >= 0
            place = TopicPartition(native.topic, native.partition)
            start = starts.get(place)
            partition = AssignedPartition(
                native.topic,
                native.partition,
                self._epochs,
                native.offset if has else None,
                (native.metadata or None) if has else None,
                start,
                ids.get(native.topic, ""),
            )
            first = native.offset if has else first_offset
            self._owned[place] = Owned(partition, first if start is None else start)
            assigned.append(partition)
            if place in self._left_stopped:
                self._left_stopped.remove(place)
                left.append(Native(*place))
        if left:
            # An application's pause survives unassign and assign.
            self._consumer.resume(left)
        self._changed()
        return assigned

    def pause_unowned(self, partitions: Iterable[Native]) -> None:
        """Let librdkafka fetch nothing of these until their epochs begin."""
        places = [TopicPartition(p.topic, p.partition) for p in partitions]
        if places:
            self._consumer.pause([Native(*place) for place in places])
            self._left_stopped.update(places)

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these from here on, whatever was fetched of them."""
        for place, offset in offsets.items():
            self._owned[place].seek = offset
        self._unsettled = True

    def note_rebalance(self) -> None:
        """What is assigned now was kept in a rebalance.

        librdkafka pauses it meanwhile if there is a callback, and resumes it without a seek:
        the next message would come up to a second later.
        """
        for owned in self._owned.values():
            owned.halted = True
        self._unsettled = True

    def end(self, ending: Iterable[Owned]) -> None:
        """End these epochs."""
        for owned in ending:
            if self.is_live(owned):
                place = TopicPartition(owned.assigned.topic, owned.assigned.partition)
                del self._owned[place]
                if owned.stopped:
                    self._left_stopped.add(place)
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._unsettled = True
        self._by_topic = {}
        for place, owned in self._owned.items():
            self._by_topic.setdefault(place.topic, {})[place.partition] = owned
        topics = list(self._by_topic.values())
        self._single = topics[0] if len(topics) == 1 else None

    # -- pausing

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """The caller wants no more of these."""
        for place in partitions:
            if (owned := self._owned.get(place)) is not None:
                owned.paused = True
        self._unsettled = True

    def resume(self, positions: Mapping[TopicPartition, int | None]) -> list[Owned]:
        """The caller wants these again; returns those whose position is given."""
        moved: list[Owned] = []
        for place, offset in positions.items():
            if (owned := self._owned.get(place)) is not None:
                owned.paused = False
                if offset is not None:
                    owned.seek = offset
                    moved.append(owned)
        self._unsettled = True
        return moved

    def rest(self, resting: bool) -> None:
        """Pause everything inside librdkafka, or end that."""
        self.resting = resting
        self._unsettled = True

    def settle(self) -> None:
        """Make librdkafka pause, resume and seek as is wanted now; before each poll."""
        if not self._unsettled:
            return
        self._unsettled = False
        stop: list[Owned] = []
        go: list[Owned] = []
        for owned in self._owned.values():
            if owned.paused or self.resting:
                if not owned.stopped:
                    stop.append(owned)
            elif owned.stopped or owned.seek is not None or owned.halted:
                go.append(owned)
            owned.halted = False
        if go:
            self._consumer.resume([owned.native for owned in go])
            for owned in go:
                owned.stopped = False
            # To seek after resuming takes 4-15 ms to the first message; resuming alone, or
            # after the seek, up to a second.
            stop += [owned for owned in go if not self._sought(owned)]
        if stop:
            # Throws the prefetch of these away.
            self._consumer.pause([owned.native for owned in stop])
            for owned in stop:
                owned.stopped = True

    def _sought(self, owned: Owned) -> bool:
        offset = owned.next if owned.seek is None else owned.seek
        if offset is None:
            return True
        place = owned.assigned
        try:
            self._consumer.seek(Native(place.topic, place.partition, offset))
        except KafkaException:
            if owned.seek is None:
                return True
            # Its fetching has not started yet. Try again at the next poll; until then
            # nothing may be delivered from elsewhere.
            self._unsettled = True
            return False
        owned.next, owned.seek = offset, None
        return True

    # -- messages

    def runs(
        self, messages: list[Message], runs: dict[Owned, list[Message]], *, changed: bool
    ) -> None:
        """Add `messages` to `runs`, by assignment, each in its order.

        `changed` is whether assignments began or ended while the messages were polled.
        """
        if self._single is not None and not changed:
            _add(messages, self._single, runs)
            return
        for topic, of_topic in groupby(messages, Message.topic):
            _add(of_topic, self._by_topic.get(cast(str, topic), {}), runs)

    def chunks(self, runs: dict[Owned, list[Message]]) -> Iterator[Chunk]:
        """Make a chunk of each run, and move on where delivery stands."""
        now = time.monotonic()
        for owned, run in runs.items():
            owned.next = cast(int, run[-1].offset()) + 1
            end = None
            if now >= owned.end_due:
                owned.end_due = now + LOOK_UP_END_EVERY
                high = self._consumer.get_watermark_offsets(owned.native, cached=True)[1]
                end = high if high >= 0 else None
            place = owned.assigned
            yield Chunk(
                place.topic,
                place.partition,
                place.epoch,
                cast("list[RawMessage]", run),
                sum(map(len, run)),
                end,
            )


def _add(
    messages: Iterable[Message],
    by_number: dict[int, Owned],
    runs: dict[Owned, list[Message]],
) -> None:
    for number, run in groupby(messages, Message.partition):
        owned = by_number.get(cast(int, number))
        if owned is None:
            continue
        known = runs.get(owned)
        if known is None:
            runs[owned] = list(run)
        else:
            known += run
