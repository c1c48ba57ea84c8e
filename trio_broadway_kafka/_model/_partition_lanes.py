"""Lanes by partition: a processor owns a partition's segment to its end. See `_lanes`."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from trio_broadway_kafka._model._lanes import Address, Item, forget_last, without
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._retries import Retries
from trio_broadway_kafka._model._segment import Segment

__all__ = ["PartitionLanes"]

_WAITS: Final = object()
"""In place of a segment's ``busy``: a message of it waits for another attempt."""


class PartitionLanes:
    """A partition is a lane: whoever acquired its segment owns it until the release.

    Attributes:
        waiting: messages to be tried again now; who takes one owns its segment.
    """

    def __init__(self) -> None:
        self.waiting: deque[Item] = deque()
        self.retries: Retries = Retries()
        # A partition's first segment is in `_ready` exactly when nobody owns the
        # partition. Ownership outlives epochs: a handler that resists its cancellation
        # keeps the lane shut.
        self._queues: dict[Address, deque[Segment]] = {}
        self._owned: dict[Address, Segment] = {}
        self._ready: deque[Segment] = deque()

    def takes_whole(self, partition: PartitionOffsets) -> bool:
        return False

    def by_key(self, partition: PartitionOffsets) -> bool:
        return False

    def hold(self, partition: PartitionOffsets) -> None:
        pass  # in order, nothing is finished behind an unfinished message

    def let_go(self, partition: PartitionOffsets) -> None:
        pass

    def add(self, segment: Segment) -> None:
        address = (segment.partition.topic, segment.partition.partition)
        queue = self._queues.get(address)
        if queue is None:
            queue = self._queues[address] = deque()
        queue.append(segment)
        if len(queue) == 1 and address not in self._owned:
            self._ready.append(segment)

    def acquire(self) -> Segment | None:
        if not self._ready:
            return None
        segment = self._ready.popleft()
        address = (segment.partition.topic, segment.partition.partition)
        self._queues[address].popleft()
        self._owned[address] = segment
        return segment

    def wait(self, item: Item, due: float) -> None:
        segment = item[0]
        segment.put_back(())  # its owner finds it exhausted
        segment.busy = _WAITS
        self.retries.add(due, segment.partition, item)

    def try_again(self, now: float) -> bool:
        for item in self.retries.due(now):
            item[0].busy = None
            self.waiting.append(item)
        return bool(self.waiting)

    def release(self, segment: Segment) -> None:
        if segment.busy is _WAITS:
            return  # its lane stays held
        address = (segment.partition.topic, segment.partition.partition)
        del self._owned[address]
        queue = self._queues[address]
        if segment.untaken:
            queue.appendleft(segment)
        else:
            segment.exhaust()  # lets its messages go
        if queue:
            self._ready.append(queue[0])

    def put_back(self, segment: Segment, raw: Any, index: int) -> None:
        segment.put_back([(raw, index)])

    def is_empty(self) -> bool:
        return not self.has_more_than(0)

    def has_more_than(self, count: int) -> bool:
        for segment in self._ready:
            count -= segment.untaken
            if count < 0:
                return True
        return False

    def blocked(self, partition: PartitionOffsets) -> int:
        address = (partition.topic, partition.partition)
        owned = self._owned.get(address)
        if owned is None:
            return 0
        return owned.untaken + sum(s.untaken for s in self._queues[address])

    def truncate(self, partition: PartitionOffsets, keep: int) -> None:
        address = (partition.topic, partition.partition)
        owned = self._owned.get(address)
        if owned is None:
            return
        excess = self.blocked(partition) - keep
        excess = forget_last(self._queues[address], partition, excess)
        if excess > 0 and owned.partition is partition:
            partition.truncate(owned, excess)

    def drop(self, partition: PartitionOffsets) -> None:
        partition.draining = True
        address = (partition.topic, partition.partition)
        owned = self._owned.get(address)
        if owned is not None and owned.partition is partition:
            partition.drop(owned)
        queue = self._queues.get(address)
        if queue:
            if owned is None:
                self._ready.remove(queue[0])
            self._queues[address] = queue = without(queue, partition)
            if queue and owned is None:
                self._ready.append(queue[0])
        self._drop_retries(partition)

    def _drop_retries(self, partition: PartitionOffsets) -> None:
        again = self.retries.drop(partition)
        again += [item for item in self.waiting if item[0].partition is partition]
        for item in again:  # one at the most
            if item in self.waiting:
                self.waiting.remove(item)
            item[0].busy = None
            self.release(item[0])
        partition.note_dropped(len(again))
