"""What is finished of a partition, and so what may be committed.

The rule, in a sentence: the committed offset is the offset after the longest contiguous
prefix of finished messages, over the offsets that were really delivered.

What arrived of one partition in one fetch is a `Segment`. Finishing a message is one
store into its segment's ``flags``; nothing else happens per message. The finished prefix
is asked for only when something is to be committed: ``flags.find(0)``, exact to the
message.
"""

from __future__ import annotations

from collections import deque

from trio_broadway_kafka._model._ahead import Ahead
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._model._tally import Tally

__all__ = ["PartitionOffsets"]


class PartitionOffsets(Tally):
    """What is finished of one assignment (topic, partition, epoch) of a partition.

    Attributes:
        epoch: names the assignment; an acknowledgement belongs to an epoch.
        draining: nothing of it may start any more: it is being revoked, or all ends.
        cut_off: its handlers were cancelled at a deadline: what resists and ends later does
            not count, and goes nowhere.
        sealed: nothing of it may be committed: what holds its output is being left, and could
            still lose it.
        live: False once the epoch has ended: nothing of it is committed any more.
        received: messages that arrived (less those forgotten), passed over or not.
        position: the offset after the last message that arrived, None before the first.
        committed: the committed offset as far as it is known.
        uncommitted_start: where reading started in place of `committed`, until a commit has
            replaced that; None if it did not.
        end: the partition's end as far as it is known, for showing the lag.
        leaving: messages that are settled, and whose outputs are on their way.
        output_bytes: bytes of those outputs.
        ahead: what was finished before it arrived.
    """

    __slots__ = (
        "_dropped",
        "_prefix",
        "_read_to",
        "_refetching",
        "_start",
        "_tail",
        "ahead",
        "aside",
        "committed",
        "cut_off",
        "draining",
        "end",
        "epoch",
        "held",
        "leaving",
        "live",
        "output_bytes",
        "parked",
        "partition",
        "position",
        "received",
        "sealed",
        "topic",
        "uncommitted_start",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        epoch: int,
        committed: int | None = None,
        start: int | None = None,
        topic_id: str = "",
    ) -> None:
        super().__init__()
        self.topic = topic
        self.partition = partition
        self.epoch = epoch
        self.live = True
        self.draining = False
        self.cut_off = False
        self.sealed = False
        self.received = 0
        self.position: int | None = None
        self.committed = committed
        self.uncommitted_start = None if start == committed else start
        self.end: int | None = None
        self.leaving = 0
        self.output_bytes = 0
        self.ahead = Ahead(topic_id)
        self._prefix: int | None = None
        self._read_to = -1
        self._refetching = False
        self._dropped = 0
        self._start = start
        self._tail: int | None = None  # the offset behind what has arrived and is left
        # The lanes' own (see _lanes): how many messages are parked behind busy lanes, and
        # the segments nobody takes from for now, and why.
        self.parked = 0
        self.held = 0
        self.aside: deque[Segment] = deque()

    def __repr__(self) -> str:
        return f"<{self.topic}/{self.partition} epoch {self.epoch}>"

    def receive(self, segment: Segment) -> None:
        """Count a segment that arrived; segments arrive in the order of their offsets."""
        if self._start is None:
            self._start = segment.first
        self.received += len(segment)
        segment._behind = self._tail
        self._tail = self.position = segment.last + 1
        self._refetching = False
        self._arriving.append(segment)
        if self.ahead.runs:
            self.ahead.arrived(segment.last + 1)

    def add(self, segment: Segment) -> None:
        """Take in a segment that was received; in the order in which they were."""
        if self._arriving:
            self._arriving.popleft()
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

    @property
    def read_to(self) -> int:
        """The offset up to which everything has arrived, or never will."""
        return max(self.position or 0, self._read_to)

    @property
    def to_commit(self) -> int | None:
        """The offset to commit if it would move the committed one forward, else None.

        The first one after a start in place of the committed offset may move it back.
        """
        prefix = self.prefix()
        if self.sealed:
            return None
        if self.uncommitted_start is not None:
            return max(prefix or 0, self.uncommitted_start)
        if prefix is None or (self.committed is not None and prefix <= self.committed):
            return None
        return prefix

    def next_commit(self) -> tuple[int, str] | None:
        """The offset to commit and the map for its metadata, None if neither is news.

        Where the first message is unfinished that a group without a committed offset gets,
        its offset is committed for the sake of what is finished behind it.
        """
        moved = self.to_commit
        if self.sealed or (base := self._base(moved)) is None:
            return None
        text = self.ahead.text(base, self._segments)
        return None if moved is None and not self.ahead.is_news(text) else (base, text)

    def is_map_full(self) -> bool:
        """Whether more is finished beyond what may be committed than its metadata hold.

        Where nothing is unfinished here, what is in the way has yet to arrive (again).
        """
        base = self._base(self.to_commit)
        if base is not None and not (self.ahead.is_full and base == self.ahead.base):
            self.ahead.text(base, self._segments)  # else it can't have become less
        return self.ahead.is_full and self.unfinished > 0

    def _base(self, moved: int | None) -> int | None:
        """The offset to commit, or else the one that is committed, or could be."""
        if moved is not None:
            return moved
        known = [offset for offset in (self._prefix, self.committed) if offset is not None]
        return max(known, default=self._start)

    def note_committed(self, offset: int, text: str = "") -> None:
        """The group's offset is this now, with this map."""
        self.ahead.note_committed(offset, text)
        if self.uncommitted_start is not None:
            self.uncommitted_start = None
            self.committed = offset
        else:
            self.committed = max(offset, self.committed or 0)

    @property
    def reached(self) -> int:
        """The offset below which nothing is left to be handled, by this member or before."""
        base = self.committed if self.uncommitted_start is None else self.uncommitted_start
        return max(self.prefix() or 0, base or 0)

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
        """Bytes of values held, whole segments until all are taken, then by share; and of
        outputs on their way."""
        total = self.output_bytes
        for segment in self._segments:
            if unfinished := segment.unfinished:
                total += (
                    segment.size
                    if segment.untaken
                    else segment.size * unfinished // len(segment)
                )
        return total

    @property
    def lag(self) -> int | None:
        """Offsets from the committed one to the end, None while either is unknown.

        Without a committed offset, or until another start has replaced it, it counts from
        where reading started.
        """
        if self.end is None:
            return None
        base = self.committed
        if base is None or self.uncommitted_start is not None:
            base = self._start
        if base is None:  # nothing has arrived; has nothing been there?
            return 0 if self._read_to >= self.end else None
        return max(0, self.end - base)

    @property
    def oldest_unfinished_since(self) -> float | None:
        """When the first unfinished message arrived, None if all are finished."""
        self.prefix()
        return self._segments[0].received_at if self._segments else None

    @property
    def oldest_timestamp(self) -> tuple[int, int]:
        """The timestamp (type, milliseconds) of the oldest record that is not finished, or one
        that lay shortly before; its type is 0 if none is known."""
        self.prefix()
        return self._segments[0].timestamp if self._segments else self._timestamp

    def truncate(self, segment: Segment, at_most: int) -> int:
        """Drop the untaken end of `segment`; the next fetch is to start there.

        Returns how many messages were dropped: none if any is left behind the segment, for
        that would be committed over what was dropped.
        """
        if self._tail != segment.last + 1:
            return 0
        if dropped := segment.truncate(at_most):
            self._tail = segment.last + 1 if segment.flags else segment._behind
            self.received -= dropped
            self.refetch_from(segment.first if not segment.flags else segment.last + 1)
        return dropped

    def refetch_from(self, offset: int) -> None:
        """What was read from `offset` on is to be read again."""
        # Asked for twice without a message in between, the earlier one is still to be read.
        if not self._refetching or self.position is None or offset < self.position:
            self.position = offset
        # The end was reached by reading just that; what is still to be told of it, too.
        self._read_to = -1
        self._refetching = True

    def rewind(self) -> int:
        """Forget what is here, for it is to be read again; what is finished stays so.

        Nothing of it may be being handled, or on its way. Returns the offset from which to
        read: of the first unfinished message, if any is here.
        """
        self.prefix()
        first = self._segments[0].first if self._segments else None
        base = max(self.reached, self.position or 0)
        if first is not None:
            base = first if self._prefix is None else max(first, self._prefix)
            self.ahead.take_back(base, self._segments)
        while self._segments:
            self._retire(self._segments.popleft())
        # What was passed over arrives and is counted again; all else is counted already.
        self.received, self._dropped = self._retired, 0
        self._tail = None
        self.refetch_from(base)
        return base

    def drop(self, segment: Segment) -> None:
        """Drop what nobody has taken of `segment` for good: it will not be handled here."""
        self.note_dropped(segment.exhaust())

    def note_dropped(self, count: int) -> None:
        """Messages that will not be handled here: they stay unfinished, and Kafka's."""
        self._dropped += count
