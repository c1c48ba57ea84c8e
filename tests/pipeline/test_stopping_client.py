"""What a client over a client delivers and asks for, call by call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    ClientEvents,
    KafkaClient,
    PartitionEnd,
    TopicPartition,
)
from trio_broadway_kafka._model._stops import Stops
from trio_broadway_kafka._stopping_client import StoppingClient
from trio_broadway_kafka.testing._fake_message import FakeMessage

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class Inner:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def fetch(self, count: int) -> None:
        self.calls.append(("fetch", count))

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.calls.append(("pause", list(partitions)))


class Events:
    """Notes what is reported, and asks for more as the source does."""

    def __init__(self) -> None:
        self.reports: list[tuple[list[tuple[TopicPartition, list[int]]], list[Any]]] = []

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None: ...

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        self.reports.append(
            (
                [
                    (TopicPartition(c.topic, c.partition), [m.offset() for m in c.messages])
                    for c in chunks
                ],
                [(TopicPartition(e.topic, e.partition), e.offset) for e in ends],
            )
        )


class Scene:
    def __init__(self, **stops: int) -> None:
        self.inner = Inner()
        self.events = Events()
        ends = {P0: stops.get("p0", 5), P1: stops.get("p1", 5)}
        self.stops = Stops()
        self.stops.fix(ends, ends, {})
        self.client = StoppingClient(cast(KafkaClient, self.inner), self.stops)
        self.client._events = cast(ClientEvents, self.events)
        self.client.begin()
        self.client.fetch(7)
        self.inner.calls.clear()

    def arrive(self, *chunks: tuple[TopicPartition, Iterable[int]], ends: Any = ()) -> None:
        self.client.fetched(
            [chunk(place, offsets) for place, offsets in chunks],
            [PartitionEnd(*place, 1, offset) for place, offset in ends],
        )


def chunk(place: TopicPartition, offsets: Iterable[int]) -> Chunk:
    messages = [
        FakeMessage(
            topic=place.topic,
            partition=place.partition,
            offset=offset,
            key=None,
            value=b"12",
            headers=(),
            timestamp=0,
        )
        for offset in offsets
    ]
    return Chunk(*place, 1, list(messages), size=2 * len(messages), end=100)


def test_what_lies_before_the_stop_passes_as_it_is() -> None:
    scene = Scene()
    scene.arrive((P0, [2, 3, 4]), ends=[(P1, 3)])
    assert scene.events.reports == [([(P0, [2, 3, 4])], [(P1, 3)])]
    assert scene.inner.calls == []


def test_at_the_stop_the_rest_is_left_the_end_reported_and_the_partition_paused() -> None:
    # No end will come by itself where more is produced all the time.
    scene = Scene()
    scene.arrive((P0, [3, 4, 5, 6]), (P1, [0]))
    assert scene.events.reports == [([(P0, [3, 4]), (P1, [0])], [(P0, 5)])]
    assert scene.inner.calls == [("pause", [P0])]


def test_a_message_beyond_the_stop_says_that_a_gap_before_it_is_all_there_was() -> None:
    scene = Scene()
    scene.arrive((P0, [9]), (P1, [0]))
    assert scene.events.reports == [([(P1, [0])], [(P0, 5)])]


def test_a_fetch_of_which_nothing_is_left_is_opened_anew() -> None:
    scene = Scene()
    scene.arrive((P0, [5, 6]))
    assert scene.events.reports == [([], [(P0, 5)])]
    assert scene.inner.calls == [("pause", [P0]), ("fetch", 7)]


@pytest.mark.parametrize(("end", "reported"), [(4, 4), (5, 5), (9, 5)])
def test_no_end_beyond_the_stop_is_reported(end: int, reported: int) -> None:
    scene = Scene()
    scene.arrive(ends=[(P0, end)])
    assert scene.events.reports == [([], [(P0, reported)])]
    assert scene.inner.calls == ([] if end < 5 else [("pause", [P0])])


@pytest.mark.parametrize(
    ("committed", "start", "paused"),
    [(None, None, False), (4, None, False), (5, None, True), (9, 2, False), (2, 9, True)],
)
def test_a_partition_that_starts_at_its_stop_is_not_read(
    committed: int | None, start: int | None, paused: bool
) -> None:
    scene = Scene()
    scene.client.assigned([AssignedPartition(*P0, 1, committed, None, start)])
    assert scene.inner.calls == ([("pause", [P0])] if paused else [])


def test_fetches_wait_until_it_is_known_where_to_stop() -> None:
    inner = Inner()
    client = StoppingClient(cast(KafkaClient, inner), Stops())
    client.fetch(7)
    assert inner.calls == []
    client.begin()
    client.fetch(8)
    assert inner.calls == [("fetch", 7), ("fetch", 8)]
