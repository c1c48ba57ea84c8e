"""The messages of one partition that arrived together, and which of them are finished.

Finishing a message is one store into its segment's ``flags``; nothing else happens per
message.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter, length_hint
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = ["DEAD_LETTERED", "PASSED", "SKIPPED", "SUCCEEDED", "Segment"]

# Values of a segment's flags. Zero is unfinished; every other value is finished.
SUCCEEDED = 1
SKIPPED = 2
DEAD_LETTERED = 3
PASSED = 4  # it was finished before it arrived: nobody handles it again


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
        timestamp: the first record's, as confluent_kafka gives it; its type is 0 if there
            is none.
    """

    __slots__ = (
        "_behind",
        "_offsets",
        "_untaken",
        "_whole",
        "busy",
        "first",
        "flags",
        "items",
        "last",
        "partition",
        "received_at",
        "size",
        "timestamp",
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
        timestamp: tuple[int, int] = (0, 0),
        whole: bool = False,
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
        self.timestamp = timestamp
        self._offsets = None if contiguous else offsets
        if not contiguous and (offsets is None or len(offsets) != count):
            raise ValueError("a segment with gaps needs its messages' real offsets")
        # zip() asks the list first, and a list iterator lets go of its list at the end.
        indices = iter(range(count))
        self._untaken: Iterator[Any] = indices
        self.items: Iterator[tuple[Any, int]] = zip(messages, indices, strict=False)
        # Where all are taken at once, the list is at hand.
        self._whole = messages if whole else None
        self.busy: Any = None
        self._behind: int | None = None  # the offset behind what arrived before it

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

    def index_of(self, offset: int) -> int:
        """The index of the first message at or beyond `offset`; its length if there is none."""
        if self._offsets is not None:
            return bisect_left(self._offsets, offset, hi=len(self.flags))
        return min(max(offset - self.first, 0), len(self.flags))

    @property
    def has_gaps(self) -> bool:
        """Whether offsets between its first and last one were not delivered."""
        return self._offsets is not None

    def pass_over(self) -> None:
        """All of it was finished before: there is nothing to take."""
        self.flags[:] = bytes((PASSED,)) * len(self.flags)
        self.size = 0
        self.exhaust()

    def put_back(self, taken: Iterable[tuple[Any, int]]) -> None:
        """Put what was taken back before the rest.

        Whoever still holds the old ``items`` finds it exhausted, so that nobody takes a
        later message before these.
        """
        rest = [*taken, *self.items]
        self.items = fresh = iter(rest)
        self._untaken = fresh

    @property
    def records(self) -> Sequence[Any]:
        """All of its records, where none has been taken and they are taken whole."""
        assert self._whole is not None
        return self._whole

    def replace(self, records: Sequence[Any]) -> None:
        """Let these stand for its `records`; none of which has been taken."""
        indices = iter(range(len(self.flags)))
        self._untaken = indices
        self.items = zip(records, indices, strict=False)
        self._whole = None

    def exhaust(self) -> int:
        """Take everything that nobody has taken, and do nothing with it. Returns how many.

        From then on nothing here keeps a message alive: until it is asked once more, the
        iterator holds the whole list, and even then zip() its last tuple.
        """
        count = sum(1 for _ in self.items)
        self._whole = None
        self.items = self._untaken = iter(())
        return count

    def take_all(self) -> tuple[Sequence[Any], int]:
        """Take all untaken messages at once, and the index of the first.

        Only where nothing is ever put back out of order: the indices follow one another.
        """
        if self._whole is not None and len(self._whole) == self.untaken:
            raws = self._whole
        else:
            raws = [raw for raw, _ in self.items]
        self._whole = None
        self.items = self._untaken = iter(())
        return raws, len(self.flags) - len(raws)

    def take(self, at_most: int) -> tuple[Sequence[Any], int]:
        """Take up to `at_most` untaken messages, and the index of the first. As `take_all`."""
        if at_most >= self.untaken:
            return self.take_all()
        self._whole = None
        first = len(self.flags) - self.untaken
        return [raw for raw, _ in islice(self.items, at_most)], first

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
            if self._whole is not None:
                self._whole = self._whole[:kept]
        self.put_back(rest)
        return dropped
