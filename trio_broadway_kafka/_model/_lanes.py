"""Which message may be taken next: order within a lane, no order between lanes.

Messages of one lane are handled one at a time in offset order. Processors pull: they
`acquire` a segment and take messages from its iterator, one at a time, so that nothing
waits behind a busy processor while another is idle.

| ordering | a lane is | how it is kept |
|---|---|---|
| unordered | each message | all take from the same segment |
| partition | (topic, partition) | see `_partition_lanes` |
| key, function | (topic, partition, key), or what the function returns | see `_keyed_lanes` |

A partition that is blocked (its messages wait for a lane) keeps at most its share here, so
that the others go on: see `blocked` and `truncate`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._retries import Retries
from trio_broadway_kafka._model._segment import Segment

__all__ = [
    "FULL",
    "Address",
    "Intake",
    "Item",
    "Lanes",
    "UnorderedLanes",
    "forget_last",
    "without",
]

Address = tuple[str, int]

Item = tuple[Segment, Any, int]
"""A message: its segment, its record, and its index there."""

# Why a partition is held: somebody asked for it, or too many of its messages are parked.
_ASKED = 1
FULL = 2


class Intake(Protocol):
    """Where the source puts what arrives."""

    def add(self, segment: Segment) -> None:
        """Take in a segment that arrived."""

    def takes_whole(self, partition: PartitionOffsets) -> bool:
        """Whether segments of `partition` are taken whole, by `Segment.take_all`."""

    def by_key(self, partition: PartitionOffsets) -> bool:
        """Whether messages of `partition` without a key wait for one another."""

    def is_empty(self) -> bool:
        """Whether no message can be taken now."""

    def blocked(self, partition: PartitionOffsets) -> int:
        """How many messages of `partition` wait, so that no processor which is idle can
        take them."""

    def truncate(self, partition: PartitionOffsets, keep: int) -> None:
        """Forget the last blocked messages of `partition`, down to `keep` of them if
        possible; they are to be fetched again."""

    def hold(self, partition: PartitionOffsets) -> None:
        """Set the partition's segments aside: nobody takes from them until `let_go`."""

    def let_go(self, partition: PartitionOffsets) -> None:
        """Take the partition's segments back in."""


class Lanes(Intake, Protocol):
    """What the orderings have in common."""

    waiting: deque[Any]
    """What a processor is to go on with before it takes anything new."""

    retries: Retries
    """What waits for another attempt."""

    def acquire(self) -> Segment | None:
        """A segment to take messages from, None if nothing can be taken now."""

    def wait(self, item: Item, due: float) -> None:
        """A message was taken and failed: it is tried again at `due`, its lane held."""

    def try_again(self, now: float) -> bool:
        """Let those be taken whose time has come. Returns whether there are any."""

    def release(self, segment: Segment) -> None:
        """Give back what `acquire` gave, whether or not it is exhausted."""

    def put_back(self, segment: Segment, raw: Any, index: int) -> None:
        """A message was taken and cut off before it finished: it is the next of its lane.

        Call it before `release`.
        """

    def has_more_than(self, count: int) -> bool:
        """Whether more than `count` messages can be taken now."""

    def drop(self, partition: PartitionOffsets) -> None:
        """Drop what has not started of `partition`; it will not be handled in this epoch.

        What is being handled keeps its lane until it ends, in later epochs too.
        """


def without(segments: Iterable[Segment], partition: PartitionOffsets) -> deque[Segment]:
    """The segments of other partitions; those of `partition` are dropped."""
    others: deque[Segment] = deque()
    for segment in segments:
        if segment.partition is partition:
            partition.drop(segment)
        else:
            others.append(segment)
    return others


def forget_last(segments: deque[Segment], partition: PartitionOffsets, excess: int) -> int:
    """Forget the last `excess` messages, or as many as lie behind all that were taken.

    Returns how many are left to forget; 0 too if no more may be forgotten.
    """
    while excess > 0 and segments:
        segment = segments[-1]
        excess -= partition.truncate(segment, excess)
        if segment.untaken:
            return 0
        segments.pop()
    return excess


class UnorderedLanes:
    """Every message is a lane: all processors take from the first segment.

    Args:
        whole: segments are taken whole.
        alone: they are of one assignment only, and so are the processors: what they have
            not taken yet waits for them, however many of others are idle.

    Attributes:
        ready: the segments that messages can be taken from; those of one partition in order.
        waiting: messages to be tried again now.
    """

    def __init__(self, *, whole: bool = False, alone: bool = False) -> None:
        self.ready: deque[Segment] = deque()
        self.waiting: deque[Any] = deque()
        self.retries: Retries = Retries()
        self._whole = whole
        self._alone = alone

    def takes_whole(self, partition: PartitionOffsets) -> bool:
        return self._whole

    def by_key(self, partition: PartitionOffsets) -> bool:
        return False

    def add(self, segment: Segment) -> None:
        partition = segment.partition
        (partition.aside if partition.held else self.ready).append(segment)

    def acquire(self) -> Segment | None:
        ready = self.ready
        while ready:
            if ready[0].untaken:
                return ready[0]
            ready.popleft().exhaust()  # lets its messages go
        return None

    def wait(self, item: Item, due: float) -> None:
        item[0].partition.parked += 1  # blocked, while it waits
        self.retries.add(due, item[0].partition, item)

    def try_again(self, now: float) -> bool:
        for item in self.retries.due(now):
            item[0].partition.parked -= 1
            self.waiting.append(item)
        return bool(self.waiting)

    def release(self, segment: Segment) -> None:
        pass  # nobody owns a shared segment

    def put_back(self, segment: Segment, raw: Any, index: int) -> None:
        segment.put_back([(raw, index)])
        queue = segment.partition.aside if segment.partition.held else self.ready
        if segment not in queue:
            queue.appendleft(segment)

    def is_empty(self) -> bool:
        return not self.has_more_than(0)

    def has_more_than(self, count: int) -> bool:
        for segment in self.ready:
            count -= segment.untaken
            if count < 0:
                return True
        return False

    def blocked(self, partition: PartitionOffsets) -> int:
        waiting = partition.parked + sum(s.untaken for s in partition.aside)
        if self._alone:
            waiting += sum(s.untaken for s in self.ready)
        return waiting

    def truncate(self, partition: PartitionOffsets, keep: int) -> None:
        excess = self.blocked(partition) - keep
        if partition.held:
            forget_last(partition.aside, partition, excess)
        elif self._alone:
            forget_last(self.ready, partition, excess)

    def drop(self, partition: PartitionOffsets) -> None:
        partition.draining = True
        self.ready = without(self.ready, partition)
        partition.aside = without(partition.aside, partition)
        self._drop_retries(partition)

    def _drop_retries(self, partition: PartitionOffsets) -> None:
        again = self.retries.drop(partition)
        partition.parked -= len(again)
        kept = [item for item in self.waiting if item[0].partition is not partition]
        partition.note_dropped(len(again) + len(self.waiting) - len(kept))
        self.waiting.clear()
        self.waiting.extend(kept)

    def hold(self, partition: PartitionOffsets) -> None:
        self._hold(partition, _ASKED)

    def _hold(self, partition: PartitionOffsets, reason: int) -> None:
        held = partition.held
        partition.held |= reason
        if held:
            return
        kept: deque[Segment] = deque()
        for segment in self.ready:
            if segment.partition is partition:
                segment.put_back(())  # whoever holds its iterator finds it exhausted
                partition.aside.append(segment)
            else:
                kept.append(segment)
        self.ready = kept

    def let_go(self, partition: PartitionOffsets) -> None:
        self._let_go(partition, _ASKED | FULL)

    def _let_go(self, partition: PartitionOffsets, reasons: int) -> None:
        partition.held &= ~reasons
        if not partition.held:
            self.ready.extend(partition.aside)
            partition.aside.clear()
