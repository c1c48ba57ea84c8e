"""What holds things back: the message that a commit waits for, the keys that messages do."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._message import Message, Retried
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._workings import Workings

__all__ = ["Blocker", "HotKey", "blocker_of", "hot_keys_of", "retry_now"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """The first message of a partition that is not finished.

    Attributes:
        offset: its own.
        stage: where it is: "handle_message", "handle_batch:NAME", or "queue" if it waits to
            be handled for the first time (for its lane, for a free task), or for its outputs.
        doing: "running" (its handler runs), "waiting" or "retrying" (it waits to be tried
            again).
        attempt: which attempt this is, from 1 on.
        age_s: seconds since it arrived.
    """

    offset: int
    stage: str
    doing: str
    attempt: int
    age_s: float


def blocker_of(workings: Workings, state: PartitionOffsets, now: float) -> Blocker | None:
    """That of one assignment; None if all that is here is finished."""
    state.prefix()
    if not state._segments:
        return None
    segment = state._segments[0]
    index = segment.flags.find(0)
    stage, doing, attempt = _find(workings, state, segment, index)
    return Blocker(
        offset=segment.offset_of(index),
        stage=stage,
        doing=doing,
        attempt=attempt,
        age_s=max(0.0, now - segment.received_at),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HotKey:
    """A key that messages wait for, since one of it is being handled or is to be tried again.

    Attributes:
        topic: the topic, empty with a function as ordering.
        partition: the partition's number, None with a function as ordering.
        key: the key; what the function returned with one as ordering.
        waiting: how many messages wait.
    """

    topic: str
    partition: int | None
    key: Hashable
    waiting: int


def hot_keys_of(some: Iterable[Workings], count: int) -> tuple[HotKey, ...]:
    """The keys that most messages wait for, those first that most wait for."""
    found = (
        HotKey(
            topic=address[0] if address else "",
            partition=address[1] if address else None,
            key=lane,
            waiting=waiting,
        )
        for workings in some
        if isinstance(workings.lanes, KeyedLanes)
        for address, lane, waiting in workings.lanes.waited_for()
    )
    return tuple(heapq.nlargest(count, found, key=lambda one: one.waiting))


def retry_now(
    workings: Workings, state: PartitionOffsets, offset: int, *, is_last: bool = False
) -> bool:
    """Let a message that waits to be tried again be tried now; False if it does not wait.

    With `is_last` no more attempts follow, where its policy has something else to follow.
    """
    raw: Any
    for item, (segment, raw, index) in _retried(workings, state):
        if segment.offset_of(index) == offset:
            raw.is_last = raw.is_last or is_last
            workings.lanes.retries.hasten(item, 0.0)
            workings.retrier.note_waiting()
            return True
    for stage in workings.batchers.stages.values():
        for _, _, batch in stage.batches._again:
            for item, (segment, index) in zip(batch._items, batch._places(), strict=True):
                if segment.partition is state and segment.offset_of(index) == offset:
                    raw = item._raw if isinstance(item, Message) else item
                    raw.is_last = raw.is_last or is_last
                    stage.batches.hasten(batch)
                    stage.changed()
                    return True
    return False


def _retried(
    workings: Workings, state: PartitionOffsets
) -> Iterator[tuple[Any, tuple[Segment, Any, int]]]:
    """What waits for another attempt at handle_message: an item of the retries, its message."""
    for item in workings.lanes.retries.of(state):
        # A message, or a lane whose first one it is.
        yield item, item if len(item) == 3 else item[0][item[1]][0]


def _find(
    workings: Workings, state: PartitionOffsets, segment: Segment, index: int
) -> tuple[str, str, int]:
    offset = segment.offset_of(index)
    for processor in workings.processors.all:
        message = processor.message
        if message is not None and processor.segment is segment and message.offset == offset:
            return "handle_message", "running", message.attempt
    for name, stage in workings.batchers.stages.items():
        where = f"handle_batch:{name}"
        batches = stage.batches
        again = [batch for _, _, batch in batches._again]
        groups: list[tuple[str, Iterable[Batch]]] = [
            ("running", batches.running),
            ("retrying", again),
            ("waiting", batches._waiting()),
        ]
        for doing, some in groups:
            for batch in some:
                if (attempt := _attempt_in(batch, segment, index)) is not None:
                    return where, doing, attempt
    for _, (found, raw, at) in _retried(workings, state):
        if found is segment and at == index:
            attempt = raw.attempt if isinstance(raw, Retried) else 1
            return "handle_message", "retrying", attempt
    return "queue", "waiting", 1


def _attempt_in(batch: Batch, segment: Segment, index: int) -> int | None:
    """Which attempt of a message is in a batch, None if it is not there."""
    place = 0
    for where, first, behind in batch._runs:  # not each message: this is asked every second
        if where is segment and first <= index < behind:
            item = batch._items[place + index - first]
            return item.attempt if isinstance(item, Message | Retried) else 1
        place += behind - first
    return None
