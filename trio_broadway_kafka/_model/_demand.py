"""How many messages to ask for next, and which partitions to hold back. Pure.

Demand keeps two bounds: messages here and not finished ≤ ``max_in_flight``, and their
bytes ≤ ``max_in_flight_bytes`` (as far as sizes can be foreseen, and but for the last
message). What is unfinished is counted exactly only when an upper bound comes near half of
the limit: counting looks at every live segment, which would be too much for each fetch.

What can't be committed is a third: nothing new comes while Kafka owes an answer for long.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Collection

from trio_broadway_kafka._model._lanes import Intake
from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = ["CHUNK", "Demand"]

# Messages of one fetch: seven eighths of what the garbage collector lets live before it
# looks (2,000 objects on 3.13, 700 before), so that handling a chunk starts no collection.
# What a fetch costs besides, about 0.1 ms, wants many; latency and memory want few.
CHUNK = min(max(gc.get_threshold()[0] * 7 // 8, 500), 1750)

# The first fetches are small and double: a thousand records of 1 MB at once would
# overshoot any bound before the first size is known.
_FIRST_CHUNK = 64

# Seconds without an open fetch after which the client has paused its partitions. From
# then on demand waits until half of the bound is free: resuming fetches anew what the
# pause has thrown away.
_PAUSED_AFTER = 0.4

# Seconds without an answer to a commit after which nothing new is taken. What is finished
# meanwhile is handled again if the partitions are lost, and librdkafka may hold 100,000 of
# each: without this a network that was away had 48,450 of 60,000 records handled twice.
_UNANSWERED_AFTER = 5.0


class Demand:
    """The bounds of one pipeline and what is known of the flow.

    Args:
        max_messages: messages here and not finished.
        max_bytes: bytes of their values.
        chunk: messages of one fetch at the most.
    """

    def __init__(self, *, max_messages: int, max_bytes: int, chunk: int = CHUNK) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self._bound = 0  # at least as many messages as are unfinished
        self._bytes_bound = 0
        self._largest_chunk = chunk
        self._chunk = min(_FIRST_CHUNK, chunk)
        self._message_bytes = 1.0  # the largest recent mean size of a message
        self._answered_at: float | None = None
        self._filling = False
        self._unanswered_since = math.inf

    def share(self, partitions: int) -> int:
        """How many blocked messages one of `partitions` assigned ones may hold."""
        return max(1, self.max_messages // max(1, partitions))

    def received(self, count: int, size: int, now: float) -> None:
        """A fetch brought `count` messages of `size` bytes in all."""
        self._bound += count
        self._bytes_bound += size
        self._chunk = min(2 * self._chunk, self._largest_chunk)
        self._message_bytes = max(size / count, 0.9 * self._message_bytes, 1.0)
        self._answered_at = now

    def unanswered(self, since: float) -> None:
        """A commit has had no answer since then; inf: it has one, or nobody waits for it."""
        # A try that is made again counts from the first one.
        earlier = math.inf if math.isinf(since) else self._unanswered_since
        self._unanswered_since = min(since, earlier)

    def awaits_commit(self, now: float) -> bool:
        """Whether nothing new is to be taken until a commit is answered."""
        return now - self._unanswered_since >= _UNANSWERED_AFTER

    def hold(self, size: int) -> None:
        """So many bytes more are held, of a message's outputs: as others will have them."""
        self._bytes_bound += size
        self._message_bytes = max(size, self._message_bytes)

    def count(
        self, partitions: Collection[PartitionOffsets], intake: Intake, now: float
    ) -> int:
        """How many messages to fetch now; 0 if there is no room, or none worth it yet."""
        if 2 * self._bound >= self.max_messages or 2 * self._bytes_bound >= self.max_bytes:
            self._bound = sum(p.unfinished for p in partitions)
            self._bytes_bound = sum(p.unfinished_bytes for p in partitions)
        free = self.max_messages - self._bound
        free_bytes = self.max_bytes - self._bytes_bound
        paused = self._answered_at is not None and now - self._answered_at > _PAUSED_AFTER
        if paused and not self._filling:
            self._filling = 2 * free >= self.max_messages and 2 * free_bytes >= self.max_bytes
            # With nothing left to take there is no point in waiting for more room: what
            # fills it may be stuck.
            if not self._filling and not intake.is_empty():
                return 0
        count = min(
            self._chunk,
            free,
            max(1, self.max_messages // 4),
            int(free_bytes / self._message_bytes),
        )
        if count <= 0 and free > 0 and free_bytes > 0:
            # One message may exceed the bound: it may be larger than all of it, and what is
            # expected of its size is learnt anew only from messages that come.
            count = 1
        if count <= 0:
            self._filling = False
        return max(count, 0)

    @property
    def filling(self) -> bool:
        """Whether to go on fetching up to the bound, for handlers are slow: the fewer
        pauses, the less is fetched twice."""
        return self._filling

    @property
    def pressed(self) -> bool:
        """Whether the bounds may be near: then blocked partitions are to be held back."""
        return 2 * self._bound >= self.max_messages or 2 * self._bytes_bound >= self.max_bytes
