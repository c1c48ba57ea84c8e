"""How many messages of a partition are finished, and how."""

from __future__ import annotations

from collections import deque
from itertools import chain

from trio_broadway_kafka._model._segment import (
    DEAD_LETTERED,
    PASSED,
    SKIPPED,
    SUCCEEDED,
    Segment,
)

__all__ = ["Tally"]


class Tally:
    """Counts over the segments that are here, and those that were let go of.

    Counting is left to who asks: finishing a message stays one store.
    """

    __slots__ = (
        "_arriving",
        "_dead_lettered",
        "_highest_retired",
        "_passed",
        "_retired",
        "_segments",
        "_skipped",
        "_timestamp",
    )

    def __init__(self) -> None:
        self._arriving: deque[Segment] = deque()  # received, and not added yet
        self._segments: deque[Segment] = deque()
        self._highest_retired: int | None = None
        self._retired = 0
        self._skipped = 0
        self._dead_lettered = 0
        self._passed = 0
        self._timestamp = (0, 0)  # of the segment that was let go of last

    def _retire(self, segment: Segment) -> None:
        """Let go of a segment; what is unfinished of it counts no more."""
        flags = segment.flags
        self._timestamp = segment.timestamp
        if finished := len(flags.rstrip(b"\0")):
            self._highest_retired = segment.offset_of(finished - 1)
        self._retired += len(flags) - flags.count(0)
        self._skipped += flags.count(SKIPPED)
        self._dead_lettered += flags.count(DEAD_LETTERED)
        self._passed += flags.count(PASSED)

    @property
    def finished(self) -> int:
        """How many messages are finished, those behind a gap and those passed over too."""
        return self._retired + sum(len(s) - s.unfinished for s in self._segments)

    @property
    def skipped(self) -> int:
        """How many of the finished were acknowledged as failed."""
        return self._skipped + sum(s.flags.count(SKIPPED) for s in self._segments)

    @property
    def dead_lettered(self) -> int:
        """How many of the finished went to a dead-letter topic."""
        live = sum(s.flags.count(DEAD_LETTERED) for s in self._segments)
        return self._dead_lettered + live

    @property
    def passed(self) -> int:
        """How many of the finished had been before they arrived."""
        return self._passed + sum(s.flags.count(PASSED) for s in self._segments)

    @property
    def succeeded(self) -> int:
        """How many messages were handled well, to the last one."""
        here = chain(self._segments, self._arriving)
        retired = self._retired - self._skipped - self._dead_lettered - self._passed
        return retired + sum(s.flags.count(SUCCEEDED) for s in here)

    @property
    def highest_finished(self) -> int | None:
        """The offset of the last finished message, None if there is none."""
        for segment in reversed(self._segments):
            if count := len(segment.flags.rstrip(b"\0")):
                return segment.offset_of(count - 1)
        return self._highest_retired
