"""What the tasks of each stage spend their time on, and how long its handlers take.

A stage's tasks are busy (a handler runs), idle (there is nothing to do) or back-pressured
(there may be something to do, and they must not: no more fits in). The three sum up to the
time of all of its tasks. It is counted where a task begins or ends to wait, never for a
message that it takes in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_broadway_kafka._model._latencies import Latencies, LatencyStatistics

if TYPE_CHECKING:
    from trio_broadway_kafka._kafka._client import RawMessage

__all__ = ["SAMPLE", "SAMPLE_EVERY", "StageStatistics", "StageTimes", "Times"]

SAMPLE_EVERY = 0.5
SAMPLE = 500
"""Of handlers at most so many are begun to be timed in that many seconds, and those that one
task handles on from there: to time each would cost half of what a message costs, where its
handler does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatistics:
    """One stage. Its three times sum up to the time that its tasks have been there.

    Attributes:
        name: "handle_message", or "handle_batch:NAME" for a batcher's handler.
        concurrency: how many tasks it has: of all partitions, where each has its own.
        busy: how many of them run a handler now.
        busy_s: seconds that its tasks ran handlers, together. Handlers that never wait are
            all run by one task: then that one is busy, the others idle.
        idle_s: seconds that they had nothing to do.
        backpressured_s: seconds that they had nothing to do because no more may be taken:
            ``max_in_flight`` is reached, or the rate limit.
        handling: how long its handlers take.
    """

    name: str
    concurrency: int
    busy: int
    busy_s: float
    idle_s: float
    backpressured_s: float
    handling: LatencyStatistics


class StageTimes:
    """What the tasks of one stage do.

    Args:
        name: the stage's.
        clock: seconds.
        listeners: told of each duration that is measured, with the stage's name.
    """

    __slots__ = (
        "_blocked",
        "_blocked_s",
        "_busy",
        "_busy_s",
        "_clock",
        "_idle_s",
        "_listeners",
        "_sample_left",
        "_sample_until",
        "_since",
        "_tasks",
        "handling",
        "name",
    )

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        listeners: Sequence[Callable[[str, float], None]] = (),
    ) -> None:
        self.name = name
        self._listeners = listeners
        self._clock = clock
        self._since = 0.0  # without tasks it does not matter
        self._tasks = self._busy = self._blocked = 0
        self._busy_s = self._idle_s = self._blocked_s = 0.0
        self.handling = Latencies()
        self._sample_until = 0.0
        self._sample_left = 0

    def change(self, *, tasks: int = 0, busy: int = 0, blocked: int = 0) -> float:
        """So many tasks more are there, are busy, or are back-pressured, as of now: then."""
        now = self._count()
        self._tasks += tasks
        self._busy += busy
        self._blocked += blocked
        return now

    def _count(self) -> float:
        now = self._clock()
        passed = now - self._since
        self._since = now
        self._busy_s += self._busy * passed
        self._blocked_s += self._blocked * passed
        self._idle_s += (self._tasks - self._busy - self._blocked) * passed
        return now

    def is_sample(self) -> bool:
        """Whether to time the handlers that come next. Each of them is to call `begin`."""
        now = self._clock()
        if now >= self._sample_until:
            self._sample_until = now + SAMPLE_EVERY
            self._sample_left = SAMPLE
        return self._sample_left > 0

    def begin(self) -> float:
        """A handler that is timed begins: now."""
        self._sample_left -= 1
        return self._clock()

    def end(self, began: float) -> float:
        """It has ended: now."""
        now = self._clock()
        self.note(now - began, now)
        return now

    def note(self, duration: float, now: float) -> None:
        """A handler took that long, and has ended now."""
        self.handling.add(duration, now)
        for tell in self._listeners:
            tell(self.name, duration)

    def statistics(self) -> StageStatistics:
        """Where it stands."""
        now = self._count()
        return StageStatistics(
            name=self.name,
            concurrency=self._tasks,
            busy=self._busy,
            busy_s=self._busy_s,
            idle_s=self._idle_s,
            backpressured_s=self._blocked_s,
            handling=self.handling.statistics(now),
        )


class Times:
    """Those of all stages of a pipeline: where each partition has stages of its own, those of
    one name count together, and go on counting when others take their place.

    Args:
        clock: seconds.
        wall_clock: seconds since the epoch, comparable to records' timestamps.

    Attributes:
        end_to_end: from a record's timestamp until its last handler has ended.
        topics: the same for the records of each topic.
        listeners: told of each duration of a handler that is measured, with its stage's name.
    """

    def __init__(
        self, clock: Callable[[], float], wall_clock: Callable[[], float] | None = None
    ) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self.end_to_end = Latencies()
        self.topics: defaultdict[str, Latencies] = defaultdict(Latencies)
        self.listeners: list[Callable[[str, float], None]] = []
        self._stages: dict[str, StageTimes] = {}

    def of(self, name: str) -> StageTimes:
        """Those of a stage."""
        found = self._stages.get(name)
        if found is None:
            found = self._stages[name] = StageTimes(name, self.clock, self.listeners)
        return found

    def note_end(self, record: RawMessage, now: float) -> None:
        """The last handler of this record has ended now."""
        age = self.age(record.timestamp())
        if age is not None:
            self.end_to_end.add(age, now)
            self.topics[record.topic()].add(age, now)

    def age(self, timestamp: tuple[int, int]) -> float | None:
        """Seconds since a record's timestamp, None if it has none."""
        kind, milliseconds = timestamp
        if not kind or self.wall_clock is None:
            return None
        return max(0.0, self.wall_clock() - milliseconds / 1000)

    def statistics(self) -> tuple[StageStatistics, ...]:
        """Where each stage stands."""
        return tuple(stage.statistics() for stage in self._stages.values())
