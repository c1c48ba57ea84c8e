"""What is finished of a partition, and so what may be committed. Pure: no trio, no Kafka.

The rule, in a sentence: the committed offset is the offset after the longest contiguous
prefix of finished messages, over the offsets that were really delivered.

What arrived of one partition in one fetch is a `Segment`. Finishing a message is one
store into its segment's ``flags``; nothing else happens per message. The finished prefix
is asked for only when something is to be committed: ``flags.find(0)``, exact to the
message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter, length_hint
from typing import Any

__all__ = ["SKIPPED", "SUCCEEDED", "PartitionOffsets", "Segment"]

# Values of a segment's flags. Zero is unfinished; every other value is finished.
SUCCEEDED = 1
SKIPPED = 2


class Segment:
    """The messages of one partition that arrived together, and which are finished.

    Attributes:
        partition: the assignment they belong to.
        items: the one iterator of ``(raw message, index)`` from which all takers take.
        flags: one byte a message; zero is unfinished.
        first: offset of the first message.
        last: offset of the last one.
        size: bytes of the messages' values.
        received_at: when it arrived, in seconds of the pipeline's clock.
    """

    __slots__ = (
        "_offsets",
        "_untaken",
        "busy",
        "first",
        "flags",
        "items",
        "last",
        "partition",
        "received_at",
        "size",
    )

    def __init__(
        self,
        partition: PartitionOffsets,
        messages: Sequence[Any],
        *,
        first: int,
        last: int,
        offsets: Sequence[int] | None = None,
        size: int = 0,
        received_at: float = 0.0,
    ) -> None:
        count = len(messages)
        # The real offsets are kept only where they have gaps; offsets increase, so
        # having as many as the span holds means that there are none.
        contiguous = last - first + 1 == count
        self.partition = partition
        self.flags = bytearray(count)
        self.first = first
        self.last = last
        self.size = size
        self.received_at = received_at
        self._offsets = None if contiguous else offsets
        if not contiguous and (offsets is None or len(offsets) != count):
            raise ValueError("a segment with gaps needs its messages' real offsets")
        # zip() asks the list first, and a list iterator lets go of its list at the end.
        indices = iter(range(count))
        self._untaken: Iterator[Any] = indices
        self.items: Iterator[tuple[Any, int]] = zip(messages, indices, strict=False)
        self.busy: Any = None

    def __len__(self) -> int:
        return len(self.flags)

    @property
    def untaken(self) -> int:
        """How many messages nobody has taken yet."""
        return length_hint(self._untaken)

    @property
    def unfinished(self) -> int:
        """How many messages are not finished."""
        return self.flags.count(0)

    def offset_of(self, index: int) -> int:
        """The offset of the message at `index`."""
        return self.first + index if self._offsets is None else self._offsets[index]

    def put_back(self, taken: Iterable[tuple[Any, int]]) -> None:
        """Put what was taken back before the rest.

        Whoever still holds the old ``items`` finds it exhausted, so that nobody takes a
        later message before these.
        """
        rest = [*taken, *self.items]
        self.items = fresh = iter(rest)
        self._untaken = fresh

    def exhaust(self) -> int:
        """Take everything that nobody has taken, and do nothing with it. Returns how many.

        From then on nothing here keeps a message alive: until it is asked once more, the
        iterator holds the whole list, and even then zip() its last tuple.
        """
        count = sum(1 for _ in self.items)
        self.items = self._untaken = iter(())
        return count

    def truncate(self, at_most: int) -> int:
        """Drop untaken messages at the segment's end, as if they had never arrived.

        Returns how many. What was taken, or put back before a taken one, stays.
        """
        rest = sorted(self.items, key=itemgetter(1))
        kept = len(self.flags)
        least = kept - at_most
        while kept > least and rest and rest[-1][1] == kept - 1:
            kept -= 1
            rest.pop()
        dropped = len(self.flags) - kept
        if dropped:
            self.size = self.size * kept // len(self.flags)
            if kept:
                self.last = self.offset_of(kept - 1)
            del self.flags[kept:]
        self.put_back(rest)
        return dropped


class PartitionOffsets:
    """What is finished of one assignment (topic, partition, epoch) of a partition.

    Attributes:
        epoch: names the assignment; an acknowledgement belongs to an epoch.
        draining: nothing of it may start any more: it is being revoked, or all ends.
        live: False once the epoch has ended: nothing of it is committed any more.
        received: messages that arrived (less those forgotten).
        position: the offset after the last message that arrived, None before the first.
        committed: the committed offset as far as it is known.
        end: the partition's end as far as it is known, for showing the lag.
    """

    __slots__ = (
        "_dropped",
        "_highest_retired",
        "_prefix",
        "_read_to",
        "_refetching",
        "_retired",
        "_segments",
        "_skipped",
        "aside",
        "committed",
        "draining",
        "end",
        "epoch",
        "held",
        "live",
        "parked",
        "partition",
        "position",
        "received",
        "topic",
    )

    def __init__(
        self, topic: str, partition: int, epoch: int, committed: int | None = None
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.epoch = epoch
        self.live = True
        self.draining = False
        self.received = 0
        self.position: int | None = None
        self.committed = committed
        self.end: int | None = None
        self._segments: deque[Segment] = deque()
        self._prefix: int | None = None
        self._read_to = -1
        self._refetching = False
        self._highest_retired: int | None = None
        self._dropped = 0
        self._retired = 0
        self._skipped = 0
        # The lanes' own (see _lanes): how many messages are parked behind busy lanes, and
        # the segments nobody takes from for now.
        self.parked = 0
        self.held = False
        self.aside: deque[Segment] = deque()

    def __repr__(self) -> str:
        return f"<{self.topic}/{self.partition} epoch {self.epoch}>"

    def receive(self, segment: Segment) -> None:
        """Count a segment that arrived; segments arrive in the order of their offsets."""
        self.received += len(segment)
        self.position = segment.last + 1
        self._refetching = False

    def add(self, segment: Segment) -> None:
        """Take in a segment that was received; in the order in which they were."""
        self._segments.append(segment)

    def reached_end(self, offset: int) -> None:
        """The client has read to `offset`: what is below it was delivered or never will be."""
        if not self._refetching:
            self._read_to = offset
        self.end = max(self.end or 0, offset)

    def prefix(self) -> int | None:
        """The offset to commit: after the longest finished prefix, None before the first.

        Never falls. Segments that are finished as a whole are let go of on the way.
        """
        segments = self._segments
        while segments:
            segment = segments[0]
            index = segment.flags.find(0)
            if index < 0:
                segments.popleft()
                if segment.flags:  # one that was forgotten whole has nothing to say
                    self._retire(segment)
                    self._prefix = segment.last + 1
                continue
            if index:
                self._prefix = segment.offset_of(index - 1) + 1
            return self._prefix
        # Nothing unfinished, and nothing received that has not been added yet: then the
        # end counts, which lies beyond control records and compacted tails.
        if self._retired == self.received and self._read_to > (self._prefix or 0):
            self._prefix = self._read_to
        return self._prefix

    def _retire(self, segment: Segment) -> None:
        self._highest_retired = segment.last
        self._retired += len(segment)
        self._skipped += segment.flags.count(SKIPPED)

    @property
    def to_commit(self) -> int | None:
        """The offset to commit if it would move the committed one forward, else None."""
        prefix = self.prefix()
        if prefix is None or (self.committed is not None and prefix <= self.committed):
            return None
        return prefix

    @property
    def finished(self) -> int:
        """How many messages are finished, those behind a gap too."""
        return self._retired + sum(len(s) - s.unfinished for s in self._segments)

    @property
    def skipped(self) -> int:
        """How many of the finished were acknowledged as failed."""
        return self._skipped + sum(s.flags.count(SKIPPED) for s in self._segments)

    @property
    def unfinished(self) -> int:
        """How many messages are here and not finished."""
        return self.received - self._dropped - self.finished

    @property
    def finished_behind_gap(self) -> int:
        """How many messages are finished beyond the prefix."""
        self.prefix()
        if not self._segments:
            return 0
        head = self._segments[0].flags
        return self.finished - self._retired - max(head.find(0), 0)

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of values held: whole segments until all are taken, then by share."""
        total = 0
        for segment in self._segments:
            if unfinished := segment.unfinished:
                total += (
                    segment.size
                    if segment.untaken
                    else segment.size * unfinished // len(segment)
                )
        return total

    @property
    def highest_finished(self) -> int | None:
        """The offset of the last finished message, None if there is none."""
        for segment in reversed(self._segments):
            index = max(segment.flags.rfind(value) for value in (SUCCEEDED, SKIPPED))
            if index >= 0:
                return segment.offset_of(index)
        return self._highest_retired

    @property
    def oldest_unfinished_since(self) -> float | None:
        """When the first unfinished message arrived, None if all are finished."""
        self.prefix()
        return self._segments[0].received_at if self._segments else None

    def truncate(self, segment: Segment, at_most: int) -> int:
        """Drop the untaken end of `segment`; the next fetch is to start there.

        Nothing behind it may be left: segments are dropped last first. Returns how many
        messages were dropped.
        """
        if dropped := segment.truncate(at_most):
            self.received -= dropped
            self.refetch_from(segment.first if not segment.flags else segment.last + 1)
        return dropped

    def refetch_from(self, offset: int) -> None:
        """What was read from `offset` on is to be read again."""
        self.position = offset
        # The end was reached by reading just that; what is still to be told of it, too.
        self._read_to = -1
        self._refetching = True

    def drop(self, segment: Segment) -> None:
        """Drop what nobody has taken of `segment` for good: it will not be handled here."""
        self.note_dropped(segment.exhaust())

    def note_dropped(self, count: int) -> None:
        """Messages that will not be handled here: they stay unfinished, and Kafka's."""
        self._dropped += count
