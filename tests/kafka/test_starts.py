"""Looking up where partitions start, on a consumer whose brokers answer as the test says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition as Native,
)

from trio_broadway_kafka import KafkaFailure
from trio_broadway_kafka._kafka import _waiting
from trio_broadway_kafka._kafka._client import OffsetCommit, TopicPartition
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._partitions import Partitions
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._starts import Starts
from trio_broadway_kafka._model._moments import StartFrom

CONFIG = ClientConfig({"bootstrap.servers": "127.0.0.1:1", "group.id": "group"})
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_MS = round(NOON.timestamp() * 1000)


def natives(*places: TopicPartition) -> list[Native]:
    return [Native(*place) for place in places]


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class StubConsumer:
    """Answers from `offsets`, by partition and what is asked, or with an error."""

    offsets: dict[tuple[TopicPartition, int], int] = field(default_factory=dict)
    errors: dict[TopicPartition, int] = field(default_factory=dict)
    down: int | None = None
    eager: bool = False
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def offsets_for_times(self, asked: list[Native], timeout: float) -> list[Any]:
        self.calls.append(("look up", [p.partition for p in asked], timeout))
        if self.down is not None:
            raise KafkaException(KafkaError(self.down))
        return [
            Answer(
                place,
                self.offsets.get((place, p.offset), -1),
                KafkaError(self.errors[place]) if place in self.errors else None,
            )
            for p in asked
            for place in [TopicPartition(p.topic, p.partition)]
        ]

    def incremental_assign(self, partitions: list[Native]) -> None:
        if self.eager:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self._note("incremental", partitions)

    def assign(self, partitions: list[Native]) -> None:
        self._note("assign", partitions)

    def pause(self, partitions: list[Native]) -> None:
        self._note("pause", partitions)

    def resume(self, partitions: list[Native]) -> None:
        self._note("resume", partitions)

    def seek(self, partition: Native) -> None:
        self._note("seek", [partition])

    def _note(self, name: str, partitions: Iterable[Native]) -> None:
        self.calls.append((name, {p.partition: p.offset for p in partitions}))


class Answer:
    def __init__(self, place: TopicPartition, offset: int, error: KafkaError | None) -> None:
        self.topic, self.partition = place
        self.offset = offset
        self.error = error


class Scene:
    def __init__(self, start_from: StartFrom) -> None:
        self.consumer = StubConsumer()
        self.failures: list[BaseException] = []
        reports = Reports(CONFIG, self.failures.append)
        self.starts = Starts(cast(Consumer, self.consumer), start_from, reports)

    def look_up(self, *places: TopicPartition) -> Mapping[TopicPartition, int]:
        return self.starts.look_up(self.starts.first(natives(*places)))

    @property
    def waiting(self) -> list[int]:
        return [p.partition for p in self.starts.waiting]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_waiting, "time", clock)
    return clock


def test_from_committed_nothing_is_looked_up() -> None:
    assert Scene("committed").starts.first(natives(T0)) == []


@pytest.mark.parametrize(
    ("start_from", "asked"), [("earliest", OFFSET_BEGINNING), ("latest", OFFSET_END)]
)
def test_a_name_is_looked_up_at_once_for_all_partitions(
    clock: Clock, start_from: StartFrom, asked: int
) -> None:
    scene = Scene(start_from)
    scene.consumer.offsets = {(T0, asked): 5, (T1, asked): 7}
    assert scene.look_up(T0, T1) == {T0: 5, T1: 7}
    assert scene.consumer.calls == [("look up", [0, 1], 1.0)]
    assert scene.waiting == []


def test_a_time_beyond_the_last_record_is_the_end(clock: Clock) -> None:
    scene = Scene(NOON)
    scene.consumer.offsets = {(T0, NOON_MS): 5, (T1, OFFSET_END): 7}
    assert scene.look_up(T0, T1) == {T0: 5, T1: 7}
    assert [call[1] for call in scene.consumer.calls] == [[0, 1], [1]]


def test_only_the_first_assignment_is_looked_up(clock: Clock) -> None:
    scene = Scene("latest")
    scene.consumer.offsets = {(T0, OFFSET_END): 5, (T1, OFFSET_END): 7}
    assert scene.look_up(T0) == {T0: 5}
    assert scene.look_up(T0, T1) == {T1: 7}
    assert scene.starts.first(natives(T0, T1)) == []


def test_what_has_no_answer_waits_and_is_looked_up_every_half_second(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene("latest")
    scene.consumer.down = KafkaError._TIMED_OUT
    assert scene.look_up(T0, T1) == {}
    for _ in range(3):
        assert (scene.waiting, scene.starts.is_due()) == ([0, 1], False)
        clock.now += 0.5
        assert scene.starts.is_due()
        scene.starts.look_up(scene.starts.waiting)
    assert caplog.text.count("nothing is read there until then") == 1
    scene.consumer.down = None
    scene.consumer.offsets = {(T0, OFFSET_END): 5, (T1, OFFSET_END): 7}
    assert scene.starts.look_up(scene.starts.waiting) == {T0: 5, T1: 7}
    assert (scene.waiting, scene.starts.is_due(), scene.failures) == ([], False, [])


def test_one_partition_without_an_answer_does_not_hold_up_the_others(clock: Clock) -> None:
    scene = Scene("latest")
    scene.consumer.offsets = {(T0, OFFSET_END): 5}
    scene.consumer.errors = {T1: KafkaError.LEADER_NOT_AVAILABLE}
    assert scene.look_up(T0, T1) == {T0: 5}
    assert scene.waiting == [1]


def test_the_end_after_a_time_that_has_no_answer_waits(clock: Clock) -> None:
    scene = Scene(NOON)
    scene.consumer.offsets = {(T0, NOON_MS): 5}
    answers = scene.consumer.offsets_for_times

    def then_go_down(asked: list[Native], timeout: float) -> list[Any]:
        if asked[0].offset == OFFSET_END:
            scene.consumer.down = KafkaError._TRANSPORT
        return answers(asked, timeout)

    scene.consumer.offsets_for_times = then_go_down  # type: ignore[method-assign]
    assert scene.look_up(T0, T1) == {T0: 5}
    assert scene.waiting == [1]


def test_a_topic_that_is_gone_waits_for_its_rebalance(clock: Clock) -> None:
    scene = Scene("latest")
    scene.consumer.errors = {T0: KafkaError.UNKNOWN_TOPIC_OR_PART}
    assert scene.look_up(T0) == {}
    scene.starts.forget(natives(T0))
    clock.now += 1
    assert (scene.waiting, scene.starts.is_due(), scene.failures) == ([], False, [])


def test_a_partition_taken_away_while_it_waits_has_not_been_started(clock: Clock) -> None:
    scene = Scene("latest")
    scene.consumer.down = KafkaError._TIMED_OUT
    scene.look_up(T0)
    scene.starts.forget(natives(T0))
    assert [p.partition for p in scene.starts.first(natives(T0))] == [0]


def test_a_refusal_fails_the_client_and_names_the_partition(clock: Clock) -> None:
    scene = Scene("latest")
    scene.consumer.errors = {T0: KafkaError.TOPIC_AUTHORIZATION_FAILED}
    assert scene.look_up(T0) == {}
    [failure] = scene.failures
    assert isinstance(failure, KafkaFailure)
    assert "where t [0] starts" in str(failure)
    assert scene.waiting == [0]


def test_without_a_commit_since_the_same_start_counts_again(clock: Clock) -> None:
    scene = Scene("latest")
    scene.consumer.offsets = {(T0, OFFSET_END): 5, (T1, OFFSET_END): 7}
    committed = [Native(*T0, 2), Native(*T1)]
    scene.starts.look_up(scene.starts.first(committed))
    scene.consumer.calls.clear()
    assert scene.starts.again(committed) == {T0: 5, T1: 7}
    assert scene.starts.again([Native(*T0, 3), Native(*T1, 0)]) == {}, "another has committed"
    scene.starts.committed([OffsetCommit(*T0, 1, 2)])
    assert scene.starts.again(committed) == {T1: 7}
    assert scene.starts.first(committed) == []
    assert scene.consumer.calls == []


@pytest.mark.parametrize("eager", [False, True])
def test_partitions_are_assigned_where_they_start_and_what_waits_at_the_end(
    clock: Clock, eager: bool
) -> None:
    scene = Scene("earliest")
    scene.consumer.eager = eager
    scene.consumer.offsets = {(T0, OFFSET_BEGINNING): 5}
    scene.consumer.errors = {T1: KafkaError.LEADER_NOT_AVAILABLE}
    begun = TopicPartition("t", 2)
    found = scene.look_up(T0, T1)
    scene.starts.assign(natives(T0, T1, begun), found, scene.starts.waiting)
    name = "assign" if eager else "incremental"
    assert scene.consumer.calls[-1] == (name, {0: 5, 1: OFFSET_END, 2: OFFSET_STORED})


def test_what_waited_is_sought_before_anything_is_read_of_it() -> None:
    consumer = StubConsumer()
    partitions = Partitions(cast(Consumer, consumer))
    partitions.pause_unowned(natives(T0))
    [assigned] = partitions.assign(natives(T0), ids={}, first_offset=None, starts={T0: 5})
    partitions.seek({T0: 5})
    partitions.settle()
    assert (assigned.committed, assigned.start) == (None, 5)
    assert [call[0] for call in consumer.calls] == ["pause", "resume", "resume", "seek"]
    assert consumer.calls[-1] == ("seek", {0: 5})
