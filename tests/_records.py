"""Records, and the segments they arrive in, for tests below the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from trio_broadway_kafka._model._lanes import Intake
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka.testing._fake_message import FakeMessage


class Record(FakeMessage):
    """A record that can be watched as it goes, and that knows its assignment."""

    __slots__ = ("__weakref__", "state")

    state: PartitionOffsets


def record(
    offset: int,
    *,
    topic: str = "t",
    partition: int = 0,
    key: bytes | None = None,
    value: bytes | None = b"v",
) -> Record:
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=(),
        timestamp=0,
    )


def assignment(partition: int = 0, epoch: int = 1, committed: int | None = None):
    return PartitionOffsets("t", partition, epoch, committed)


def receive(
    state: PartitionOffsets,
    offsets: Iterable[int],
    *,
    key: Callable[[int], bytes | None] = lambda offset: None,
    size: int = 0,
    at: float = 0.0,
) -> Segment:
    """A segment that arrived, but that the acknowledger has not taken in yet."""
    messages = []
    for offset in offsets:
        message = record(offset, topic=state.topic, partition=state.partition, key=key(offset))
        message.state = state
        messages.append(message)
    numbers = [message.offset() for message in messages]
    segment = Segment(
        state,
        messages,
        first=numbers[0],
        last=numbers[-1],
        offsets=numbers if numbers[-1] - numbers[0] + 1 != len(numbers) else None,
        size=size,
        received_at=at,
    )
    state.receive(segment)
    return segment


def arrive(
    state: PartitionOffsets,
    offsets: Iterable[int],
    lanes: Intake | None = None,
    *,
    key: Callable[[int], bytes | None] = lambda offset: None,
    size: int = 0,
    at: float = 0.0,
) -> Segment:
    """A segment that arrived, and that the acknowledger and the lanes have taken in."""
    segment = receive(state, offsets, key=key, size=size, at=at)
    state.add(segment)
    if lanes is not None:
        lanes.add(segment)
    return segment
