"""Lanes by key: exact, and registered only when a handler suspends. See `_lanes`."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Protocol

from trio_broadway_kafka._model._lanes import FULL, Address, Item, UnorderedLanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment

__all__ = ["KeyedLanes"]


class _Holder(Protocol):
    """Whoever is handling a message whose lane is not entered yet."""

    busy: dict[Hashable, Any]
    lane: Hashable


class KeyedLanes(UnorderedLanes):
    """A key is a lane: it is entered in ``busy`` only when its handler suspends.

    All processors take from the same segment. The lane that is being handled is `hot`: it
    belongs to the processor that runs. Whoever takes the next message while `hot` is set
    knows that its handler is suspended, and only then enters that lane among the busy
    ones. A handler that never suspends never touches a dict. A message of a busy lane is
    parked on the lane; whoever finishes the lane goes on with what is parked there.

    The rules the loop in ``_stages/_keyed_processor.py`` keeps:

    - no await between taking a message and entering its lane;
    - `hot` is cleared by its owner, or by who enters it among the busy, by nobody else;
    - a lane is left by `leave`, and only when its message is settled.

    Attributes:
        hot: who handles a message whose lane is not among the busy, None if nobody does.
        waiting: busy lanes with parked messages that no processor is going on with.
        share: how many messages of one partition may be parked before the whole partition
            is held.
    """

    def __init__(self, *, share: int, per_partition: bool = True, alone: bool = False) -> None:
        super().__init__(alone=alone)
        self.share = share
        self.hot: _Holder | None = None
        # Busy lanes: None, or the deque of what is parked there. The dicts outlive
        # epochs, so that a handler which resists its cancellation keeps its lane shut.
        self._per_partition = per_partition
        self._busy: dict[Address | None, dict[Hashable, Any]] = {}

    def by_key(self, partition: PartitionOffsets) -> bool:
        return self._per_partition

    def add(self, segment: Segment) -> None:
        segment.busy = self._busy_of(segment.partition)
        super().add(segment)

    def _busy_of(self, partition: PartitionOffsets) -> dict[Hashable, Any]:
        address = (partition.topic, partition.partition) if self._per_partition else None
        busy = self._busy.get(address)
        if busy is None:
            busy = self._busy[address] = {}
        return busy

    def park(self, segment: Segment, raw: Any, index: int, lane: Hashable) -> bool:
        """Park a message whose lane is busy.

        Returns False if too many of its partition are parked: then the message is put
        back and the whole partition is held until half of them are gone.
        """
        partition = segment.partition
        if partition.parked >= self.share:
            segment.put_back([(raw, index)])
            if segment not in self.ready:
                self.ready.appendleft(segment)
            self._hold(partition, FULL)
            return False
        busy = segment.busy
        parked = busy[lane]
        if parked is None:
            parked = busy[lane] = deque()
        parked.append((segment, raw, index))
        partition.parked += 1
        return True

    def waited_for(self) -> Iterator[tuple[Address | None, Hashable, int]]:
        """The lanes that messages wait for: whose (None: nobody's own), which, how many."""
        for address, busy in self._busy.items():
            for lane, parked in busy.items():
                if parked:
                    yield address, lane, len(parked)

    def next_parked(
        self, busy: dict[Hashable, Any], lane: Hashable
    ) -> tuple[Segment, Any, int] | None:
        """The next message of a busy lane; None frees the lane."""
        parked = busy[lane]
        if not parked:
            del busy[lane]
            return None
        item: tuple[Segment, Any, int] = parked.popleft()
        partition = item[0].partition
        partition.parked -= 1
        if partition.held and partition.parked <= self.share // 2:
            self._let_go(partition, FULL)
        return item

    def wait_on(
        self, busy: dict[Hashable, Any], lane: Hashable, item: Item, due: float
    ) -> None:
        """As `wait`, for a message whose lane is busy: it is the next of that lane."""
        self.put_back_parked(busy, lane, *item)
        self.retries.add(due, item[0].partition, (busy, lane))

    def wait(self, item: Item, due: float) -> None:
        """As `Lanes.wait`, for a message whose lane could not be found."""
        item[0].partition.parked += 1
        self.retries.add(due, item[0].partition, item)

    def try_again(self, now: float) -> bool:
        for again in self.retries.due(now):
            match again:
                case (segment, raw, index):  # to look for its lane anew
                    segment.partition.parked -= 1
                    self.put_back(segment, raw, index)
                case _:
                    self.waiting.append(again)
        return bool(self.waiting) or self.has_more_than(0)

    def put_back_parked(
        self, busy: dict[Hashable, Any], lane: Hashable, segment: Segment, raw: Any, index: int
    ) -> None:
        """A message was cut off: it is the next of its busy lane."""
        parked = busy.get(lane)
        if parked is None:
            parked = busy[lane] = deque()
        parked.appendleft((segment, raw, index))
        segment.partition.parked += 1

    def _drop_retries(self, partition: PartitionOffsets) -> None:
        for again in self.retries.drop(partition):
            match again:
                case (_, _, _):
                    partition.note_dropped(1)
                case (busy, lane):
                    if busy[lane]:
                        self.waiting.append(again)
                    else:
                        del busy[lane]

    def drop(self, partition: PartitionOffsets) -> None:
        for parked in self._busy_of(partition).values():
            if parked:
                kept = [item for item in parked if item[0].partition is not partition]
                partition.note_dropped(len(parked) - len(kept))
                parked.clear()
                parked.extend(kept)
        super().drop(partition)
        partition.parked = 0
