"""What happened to a pipeline lately: rebalances, failures, commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._policies import FailurePolicy, Stage
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.instruments import Instrument

__all__ = ["Event", "Failures", "Recorder"]

EVENTS: Final = 100
KINDS: Final = 200  # of failures


@dataclass
class Event:
    """Something that happened at one moment.

    Attributes:
        at: seconds since the epoch.
        kind: "assigned", "revoked", "lost" or "commit failed".
        places: how many partitions of each topic.
        unfinished: messages that were cut off.
        seconds: how long draining took.
        detail: more, in words.
    """

    at: float
    kind: str
    places: dict[str, int]
    unfinished: int = 0
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Failures:
    """Failures of one kind: how many, when the last one was, what became of it."""

    count: int
    at: float
    policy: str


class Recorder(Instrument):
    """Remembers the last events, and counts failures by stage and type; never a payload."""

    def __init__(self, wall_time: Callable[[], float]) -> None:
        self._wall_time = wall_time
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.failures: dict[tuple[str, str], Failures] = {}
        self.commit_seconds: float | None = None
        self.since: float = wall_time()

    def _note(self, kind: str, topic: str, unfinished: int = 0, seconds: float = 0.0) -> None:
        now = self._wall_time()
        last = self.events[-1] if self.events else None
        if last is None or last.kind != kind or now - last.at > 0.1:
            last = Event(now, kind, {})
            self.events.append(last)
        last.places[topic] = last.places.get(topic, 0) + 1
        last.unfinished += unfinished
        last.seconds = max(last.seconds, seconds)

    def partition_assigned(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        committed: int | None,
    ) -> None:
        """See `Instrument`."""
        self._note("assigned", topic)

    def partition_revoked(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        unfinished: int,
        lost: bool,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        self._note("lost" if lost else "revoked", topic, unfinished, duration)

    def message_failed(
        self, pipeline: Pipeline, message: Message, policy: FailurePolicy, *, stage: Stage
    ) -> None:
        """See `Instrument`."""
        where = stage if stage != "handle_batch" else f"handle_batch:{message.batcher}"
        key = (where, type(message.failure).__qualname__)
        if key not in self.failures and len(self.failures) >= KINDS:
            key = (where, "others")
        found = self.failures.setdefault(key, Failures(0, 0.0, ""))
        found.count += 1
        found.at = self._wall_time()
        found.policy = type(policy).__name__

    def committed(
        self, pipeline: Pipeline, offsets: Mapping[tuple[str, int], int], *, duration: float
    ) -> None:
        """See `Instrument`."""
        self.commit_seconds = duration

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        topics: dict[str, int] = {}
        for topic, _ in offsets:
            topics[topic] = topics.get(topic, 0) + 1
        self.events.append(
            Event(
                self._wall_time(),
                "commit failed",
                topics,
                seconds=duration,
                detail=failure.code,
            )
        )

    def as_json(self) -> dict[str, Any]:
        """The last events, newest first, and the failures, by their number."""
        failures = sorted(self.failures.items(), key=lambda item: -item[1].count)
        return {
            "since": self.since,
            "commit_seconds": self.commit_seconds,
            "events": [vars(event) for event in reversed(self.events)],
            "failures": [
                {"stage": stage, "type": kind, **vars(found)}
                for (stage, kind), found in failures
            ],
        }
