"""What a batcher collects: batches by key, closed by size, time or flush, in order.

A batch is *open* while it is being filled, *ready* when a worker may take it, *running*
in its handler. Batches of the same key run one after another, in the order in which they
were closed, unless order is not asked for; later ones wait behind the first, so that what
is ready can always be started. A key is remembered only while it has a batch.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any

from trio_broadway_kafka._model._batch import Batch, Trigger
from trio_broadway_kafka._model._batch_sizes import BatchSizes
from trio_broadway_kafka._model._message import DEFAULT_ROUTE, Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment

__all__ = ["Batches"]


class Batches:
    """What one batcher holds.

    Args:
        name: the batcher's.
        size: the weight at which a batch leaves.
        weigh: the weight of a message, None for 1 each.
        timeout: seconds from a batch's first message after which it leaves.
        ordered: batches of the same key do not overlap.
        clock: seconds; asked when a batch is opened.

    Attributes:
        ready: what may start, oldest first.
        delivered: messages of batches that have ended.
        sizes: what the batches that have ended held.
    """

    def __init__(
        self,
        name: str,
        *,
        size: float,
        weigh: Callable[[Message], float] | None = None,
        timeout: float = 1.0,
        ordered: bool = True,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.ready: deque[Batch] = deque()
        self.running: set[Batch] = set()
        self.delivered = 0
        self.sizes = BatchSizes()
        self._size = size
        self._weigh = weigh
        self._timeout = timeout
        self._ordered = ordered
        self._clock = clock
        self._open: dict[Hashable, Batch] = {}  # in the order of their deadlines
        # By key, from when a batch is ready until it has ended: those that come after it.
        self._later: dict[Hashable, deque[Batch]] = {}
        # Those to be tried again, by when; they keep their keys.
        self._again: list[tuple[float, int, Batch]] = []
        self._retries = itertools.count()

    @property
    def weighs(self) -> bool:
        """Whether it must see each message."""
        return self._weigh is not None

    @property
    def open_batches(self) -> int:
        """How many batches are being filled."""
        return len(self._open)

    @property
    def pending(self) -> int:
        """How many messages wait for their handler to start."""
        again = sum(len(batch) for _, _, batch in self._again)
        return again + sum(map(len, self._waiting()))

    @property
    def backlogged(self) -> bool:
        """Whether a batch that was closed waits."""
        return bool(self.ready) or any(self._later.values())

    @property
    def next_deadline(self) -> float | None:
        """When the next batch leaves by itself, or is to be tried again, None if none is."""
        since = self.oldest_since
        times = [] if since is None else [since + self._timeout]
        times += [due for due, _, _ in self._again[:1]]
        return min(times, default=None)

    @property
    def oldest_since(self) -> float | None:
        """When the oldest open batch was opened, None if there is none."""
        for batch in self._open.values():
            return batch._opened_at
        return None

    def _waiting(self) -> Iterator[Batch]:
        yield from self._open.values()
        yield from self.ready
        for later in self._later.values():
            yield from later

    # Filling

    def add(self, message: Message, segment: Segment, index: int) -> None:
        """Add a message; a batch that it fills or flushes leaves.

        Raises:
            Exception: what ``weigh`` raised, or that what the message asks for makes no
                sense; it is not in a batch then.
        """
        _, key, mode = message._route or DEFAULT_ROUTE
        weight = 1.0 if self._weigh is None else self._weigh(message)
        if not weight >= 0:
            raise ValueError(f"weigh must return a number of 0 or more, not {weight!r}")
        batch = self._open.get(key)
        if batch is not None and batch.weight + weight > self._size:
            self._close(batch, "size")  # rather than exceed it
            batch = None
        if batch is None:
            batch = self._begin(key)
        batch._add(message, weight, segment, index)
        if batch.weight >= self._size:
            self._close(batch, "size")
        elif mode == "flush":
            self._close(batch, "flush")

    def _begin(self, key: Hashable) -> Batch:
        batch = self._open[key] = Batch(self.name, key, self._clock())
        return batch

    def add_records(self, records: Sequence[Any], segment: Segment, first: int) -> None:
        """Add records that follow one another in a segment, under no key; nothing weighs."""
        size = int(self._size)
        start, count = 0, len(records)
        while start < count:
            batch = self._open.get(None)
            if batch is None:
                batch = self._begin(None)
            part = records[start : start + size - len(batch)]
            batch._add_records(part, segment, first + start)
            start += len(part)
            if len(batch) >= size:
                self._close(batch, "size")

    def add_failed(self, message: Message, segment: Segment, index: int) -> None:
        """Add a message that failed before it was in a batch: it is settled in one alone."""
        batch = self._begin(object())
        batch._add(message, 0, segment, index)
        batch._failed = True
        self._close(batch, "flush")

    # Closing

    def _close(self, batch: Batch, trigger: Trigger) -> None:
        del self._open[batch.key]
        batch.trigger = trigger
        if self._ordered:
            later = self._later.get(batch.key)
            if later is not None:
                later.append(batch)
                return
            self._later[batch.key] = deque()
        self.ready.append(batch)

    def close_due(self) -> None:
        """Close the batches whose time has come, and let those be tried again whose has."""
        now = self._clock()
        while (since := self.oldest_since) is not None and since + self._timeout <= now:
            self.close_oldest("timeout")
        while self._again and self._again[0][0] <= now:
            self.ready.append(heapq.heappop(self._again)[2])

    def close_oldest(self, trigger: Trigger) -> None:
        """Close the batch that was opened first, if there is one."""
        for batch in self._open.values():
            self._close(batch, trigger)
            return

    def close_all(
        self, trigger: Trigger, partitions: Collection[PartitionOffsets] | None = None
    ) -> None:
        """Close the open batches that hold messages of these assignments (None: all)."""
        for batch in [*self._open.values()]:
            if partitions is None or not batch._partitions().isdisjoint(partitions):
                self._close(batch, trigger)

    # Running

    def take(self) -> Batch | None:
        """The next batch to handle, None if none is ready."""
        if not self.ready:
            return None
        batch = self.ready.popleft()
        self.running.add(batch)
        return batch

    def done(self, batch: Batch) -> None:
        """A batch that was taken has been settled."""
        self._ended(batch)
        self._free(batch.key)

    def try_again(self, batch: Batch, again: Batch, due: float) -> None:
        """A batch that was taken has been settled, but for `again`, which is to be handled
        at `due`, before all others of its key."""
        self._ended(batch)
        heapq.heappush(self._again, (due, next(self._retries), again))

    def _ended(self, batch: Batch) -> None:
        self.running.discard(batch)
        self.delivered += len(batch)
        self.sizes.add(batch.trigger, len(batch))

    def hasten(self, batch: Batch) -> None:
        """Let a batch that waits to be tried again be due now."""
        now = self._clock()
        self._again = [
            (min(due, now) if found is batch else due, order, found)
            for due, order, found in self._again
        ]
        heapq.heapify(self._again)

    def put_back(self, batch: Batch, partitions: Collection[PartitionOffsets]) -> None:
        """A batch was cut off as these assignments ended: the rest of it comes first again."""
        self.running.discard(batch)
        batch._without(partitions)
        if len(batch):
            self.ready.appendleft(batch)  # it still has its key
        else:
            self._free(batch.key)

    def _free(self, key: Hashable) -> None:
        if self._ordered:
            later = self._later[key]
            if later:
                self.ready.append(later.popleft())
            else:
                del self._later[key]

    # Ending

    def drop_retries(self, partitions: Collection[PartitionOffsets]) -> int:
        """Drop what waits to be tried again of these assignments. Returns how many messages."""
        dropped = 0
        waiting, self._again = self._again, []
        for due, order, batch in waiting:
            dropped += batch._without(partitions)
            if len(batch):
                heapq.heappush(self._again, (due, order, batch))
            else:
                self._free(batch.key)
        return dropped

    def drop(self, partitions: Collection[PartitionOffsets]) -> int:
        """Drop what waits of these assignments. Returns how many messages."""
        dropped = self.drop_retries(partitions)
        for batch in [*self._open.values()]:
            dropped += batch._without(partitions)
            if not len(batch):
                del self._open[batch.key]
        for later in self._later.values():
            dropped += _without(later, partitions)
        ready = [*self.ready]
        self.ready.clear()
        for batch in ready:
            dropped += batch._without(partitions)
            if len(batch):
                self.ready.append(batch)
            else:
                self._free(batch.key)
        return dropped

    def holds(self, partitions: Collection[PartitionOffsets]) -> bool:
        """Whether a message of these assignments is here and not settled."""
        batches: Iterable[Batch] = (*self._waiting(), *self.running)
        return any(not batch._partitions().isdisjoint(partitions) for batch in batches)


def _without(batches: deque[Batch], partitions: Collection[PartitionOffsets]) -> int:
    dropped = sum(batch._without(partitions) for batch in batches)
    kept = [batch for batch in batches if len(batch)]
    batches.clear()
    batches.extend(kept)
    return dropped
