"""What is finished of a partition beyond its committed offset, and is not here (any more).

An earlier owner has told of it in the metadata of its last commit (see `_offset_map`), or it
was finished in this assignment before the partition was read again. It is passed over when it
arrives, and told on until the committed offset has moved past it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from trio_broadway_kafka._model._offset_map import (
    OffsetMap,
    Run,
    decode,
    encode,
    finished_runs,
)
from trio_broadway_kafka._model._segment import Segment

__all__ = ["Ahead"]


class Ahead:
    """The offsets of one assignment that are finished before they arrive.

    Args:
        topic_id: the topic's, empty where it is not known: then there is no map.

    Attributes:
        runs: what has not arrived yet, in order.
        base: the offset that the map last made goes with.
        end: the offset below which that map tells of all that was finished.
        is_full: whether that was not everything.
        told: the offset below which what was finished has been told of, in any map that was
            committed.
    """

    __slots__ = ("_committed", "_made", "base", "end", "is_full", "runs", "told", "topic_id")

    def __init__(self, topic_id: str = "") -> None:
        self.topic_id = topic_id
        self.runs: list[Run] = []
        self.base = self.end = self.told = -1
        self.is_full = False
        self._made = ""
        self._committed: str | None = None  # the text of the map that was committed last

    def read(self, text: str, committed: int | None) -> int:
        """Take over what was committed with the offset `committed`. Returns how many offsets.

        Raises:
            ValueError: it is to be ignored, and why.
        """
        self.runs = decode(text, committed, self.topic_id)
        self._committed = text
        self.told = self.runs[-1][1] if self.runs else -1
        return sum(behind - first for first, behind in self.runs)

    def text(self, base: int, segments: Iterable[Segment]) -> str:
        """The map to commit with the offset `base`; empty where there is nothing to tell.

        Args:
            base: below it everything is finished.
            segments: what is here, in order.
        """
        made = OffsetMap("", True, base)
        if self.topic_id:
            made = encode(base, self.topic_id, [*segments], self.runs)
        self.base, self.end = base, made.end
        self.is_full = not made.is_complete
        self._made = made.text
        return made.text

    def is_news(self, text: str) -> bool:
        """Whether the map says more than the one that was committed with the same offset."""
        return bool(text) and text != self._committed

    def note_committed(self, offset: int, text: str) -> None:
        """This map was committed with the offset."""
        self._committed = text
        if not text:
            return
        end = self.end
        if text != self._made:  # another was made meanwhile
            end = decode(text, offset, self.topic_id)[-1][1]
        self.told = max(self.told, end)

    @property
    def takes_back(self) -> bool:
        """Whether the map that was made last does not tell of all that was told before: what
        has finished since has parted what was unfinished into too many runs."""
        return self.end < self.told

    def arrived(self, behind: int) -> None:
        """What lies below `behind` has arrived, or never will."""
        runs = self.runs
        while runs and runs[0][1] <= behind:
            del runs[0]
        if runs and runs[0][0] < behind:
            runs[0] = (behind, runs[0][1])

    def take_back(self, base: int, segments: Iterable[Segment]) -> None:
        """These segments are forgotten, and will arrive again from `base` on."""
        self.runs = [*finished_runs(base, segments, self.runs)]

    def split(self, offsets: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
        """Part messages that arrived by whether they are finished already.

        Args:
            offsets: theirs, increasing.

        Yields:
            the first index, the one behind the last, and whether those are finished.
        """
        index = 0
        for first, behind in self.runs:
            start = bisect_left(offsets, first, index)
            stop = bisect_left(offsets, behind, start)
            if start == len(offsets):
                break
            if start == stop:
                continue
            if start > index:
                yield index, start, False
            yield start, stop, True
            index = stop
        if index < len(offsets):
            yield index, len(offsets), False
