"""The feeder's thread, turn by turn, on a consumer that does what the test says.

What librdkafka really does is tests/contract's; here it is what can't be made to happen
there: what comes in one call, in which order, at what time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, cast

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition as Native,
)

from trio_broadway_kafka._kafka import _feeder, _partitions, _waiting
from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    Chunk,
    OffsetCommit,
    PartitionEnd,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._kafka._commits import Commit
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._confluent import ConfluentClient
from trio_broadway_kafka._kafka._feeder import Command, Feeder
from trio_broadway_kafka._kafka._membership import Membership
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._starts import Starts
from trio_broadway_kafka._kafka._told import Told
from trio_broadway_kafka._model._errors import KafkaFailure

CONFIG = ClientConfig({"bootstrap.servers": "127.0.0.1:1", "group.id": "group"})
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


def message(place: TopicPartition, offset: int, value: bytes = b"v") -> Message:
    return Message(topic=place.topic, partition=place.partition, offset=offset, value=value)


def eof(place: TopicPartition, offset: int) -> Message:
    error = KafkaError(KafkaError._PARTITION_EOF)
    return Message(topic=place.topic, partition=place.partition, offset=offset, error=error)


def damage(place: TopicPartition, offset: int) -> Message:
    error = KafkaError(KafkaError._BAD_MSG)
    return Message(topic=place.topic, partition=place.partition, offset=offset, error=error)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class StubConsumer:
    """Returns what is in `ready`, or what a function there returns; notes all calls."""

    clock: Clock
    ready: list[Message | Callable[[], object]] = field(default_factory=list)
    committed_offsets: dict[TopicPartition, int] = field(default_factory=dict)
    metadata: dict[TopicPartition, str] = field(default_factory=dict)
    committed_error: int | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    refused_seeks: int = 0
    ends: int | None = None
    commit_error: KafkaException | None = None
    callbacks: dict[str, Callable[..., None]] = field(default_factory=dict)
    commit_answer: Callable[[list[Native]], None] | None = None

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.callbacks = callbacks

    def _next(self, count: int) -> list[Message]:
        taken: list[Message] = []
        while self.ready and len(taken) < count:
            item = self.ready.pop(0)
            if isinstance(item, Message):
                taken.append(item)
            else:
                item()
        return taken

    def poll(self, timeout: float) -> Message | None:
        self.calls.append(("poll", timeout))
        found = self._next(1)
        if not found:
            self.clock.now += timeout
        return found[0] if found else None

    def consume(self, count: int, timeout: float) -> list[Message]:
        assert timeout == 0
        self.calls.append(("consume", count))
        if self.ready and self.ready[0] is nothing:
            self.ready.pop(0)
            return []
        return self._next(count)

    def committed(self, partitions: list[Native], timeout: float) -> list[Native]:
        self.calls.append(("committed", [p.partition for p in partitions]))
        if self.committed_error is not None:
            raise KafkaException(KafkaError(self.committed_error))
        return [
            Native(
                p.topic,
                p.partition,
                self.committed_offsets.get(TopicPartition(p.topic, p.partition), -1001),
                self.metadata.get(TopicPartition(p.topic, p.partition), ""),
            )
            for p in partitions
        ]

    def offsets_for_times(self, asked: list[Native], timeout: float) -> list[Native]:
        if self.ends is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [Native(p.topic, p.partition, self.ends) for p in asked]

    def incremental_assign(self, partitions: list[Native]) -> None:
        self.calls.append(("assign", [(p.partition, p.offset) for p in partitions]))

    def pause(self, partitions: list[Native]) -> None:
        self.calls.append(("pause", [p.partition for p in partitions]))

    def resume(self, partitions: list[Native]) -> None:
        self.calls.append(("resume", [p.partition for p in partitions]))

    def seek(self, to: Native) -> None:
        if self.refused_seeks:
            self.refused_seeks -= 1
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.calls.append(("seek", to.partition, to.offset))

    def get_watermark_offsets(self, partition: Native, cached: bool) -> tuple[int, int]:
        return (-1001, -1001)

    def commit(self, offsets: list[Native], asynchronous: bool) -> list[Native] | None:
        places = [(o.partition, o.offset) for o in offsets]
        self.calls.append(("commit", places, "async" if asynchronous else "sync"))
        if self.commit_error is not None:
            raise self.commit_error
        return None if asynchronous else offsets

    def close(self) -> None:
        self.calls.append(("close",))

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]


def nothing() -> None:
    """In `ready`: the next consume() returns an empty list."""


class Scene:
    """A feeder whose posts are carried out at once, unless trio is `blocked`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.consumer = StubConsumer(clock)
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.failures: list[BaseException] = []
        self.reports: list[tuple[str, Any]] = []
        self.chunks: list[Chunk] = []
        self.ends: list[PartitionEnd] = []
        self.owned: dict[TopicPartition, AssignedPartition] = {}
        self.blocked: list[Callable[[], object]] | None = None
        self.gone = False
        self.tells_ids = True
        self.log: list[tuple[Any, ...]] = []
        self.on_revoking: Callable[[Sequence[AssignedPartition]], None] = lambda _: None
        self.reported = Reports(CONFIG, self.failures.append)
        self.feeder = Feeder(
            cast(Consumer, self.consumer),
            self.commands,
            Session(topics=("t",), revoke_timeout=0.2),
            ["t"],
            self,
            self.reported,
            self._post,
            lambda topics: {t: f"id of {t}" for t in topics if self.tells_ids},
            first_offset=OFFSET_BEGINNING,
        )

    def _post(self, function: Callable[..., None], *args: object) -> bool:
        if self.gone:
            return False
        if self.blocked is not None:
            self.blocked.append(lambda: function(*args))
        else:
            function(*args)
        return True

    # ClientEvents

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        self.reports.append(("assigned", [p.partition for p in partitions]))
        self.owned.update((TopicPartition(p.topic, p.partition), p) for p in partitions)

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        self.reports.append(("revoking", [p.partition for p in partitions]))
        self.on_revoking(partitions)

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        self.reports.append(("lost", [p.partition for p in partitions]))

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        self.reports.append(("fetched", [c.partition for c in chunks]))
        self.chunks += chunks
        self.ends += ends

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)

    # What a test does

    def rebalance(self, kind: str, *places: TopicPartition) -> None:
        natives = [Native(*place) for place in places]
        callback = getattr(self.feeder, f"_on_{kind}")
        self.reported.guard(callback, None)(self.consumer, natives)

    def own(self, *places: TopicPartition) -> None:
        """Assign, and open a fetch that finds nothing."""
        self.rebalance("assign", *places)
        self.feeder.fetch(100)
        self.turn()
        self.log = [*self.consumer.calls]
        self.consumer.calls.clear()

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.feeder._turn()

    def commit(self, place: TopicPartition, offset: int) -> tuple[Commit, list[object]]:
        answers: list[object] = []
        owned = self.owned[place]
        offsets = [OffsetCommit(*place, owned.epoch, offset)]
        commit = Commit(offsets, answers.append)
        self.commands.put(lambda feeder: feeder.commit(commit))
        return commit, answers

    def answer_commit(self) -> None:
        self.feeder.on_commit(None, [])

    def offsets(self) -> list[tuple[int, int]]:
        return [(c.partition, cast(int, m.offset())) for c in self.chunks for m in c.messages]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    clock = Clock()
    for module in (_feeder, _partitions, _waiting):
        monkeypatch.setattr(module, "time", clock)

    scene = Scene(clock)

    def wait(timeout: float) -> None:
        if scene.commands.empty():
            clock.now += timeout
        while not scene.commands.empty():
            scene.commands.get()(scene.feeder)

    # Commands come at once or not at all: there is nobody to wait for.
    monkeypatch.setattr(scene.feeder, "_serve", wait)
    return scene


# -- messages


def test_what_is_there_is_taken_in_one_call(scene: Scene) -> None:
    scene.own(T0)
    scene.consumer.ready = [message(T0, 0), message(T0, 1)]
    scene.turn()
    assert scene.offsets() == [(0, 0), (0, 1)]
    assert scene.consumer.calls == [("consume", 100)]


def test_the_first_message_is_waited_for_and_what_came_with_it_taken(scene: Scene) -> None:
    scene.own(T0)
    scene.consumer.ready = [nothing, message(T0, 0), message(T0, 1)]
    scene.turn()
    assert scene.offsets() == [(0, 0), (0, 1)]
    assert scene.consumer.calls == [("consume", 100), ("poll", 0.1), ("consume", 99)]


def test_runs_of_one_partition_become_one_chunk_in_order(scene: Scene) -> None:
    scene.own(T0, T1)
    scene.consumer.ready = [
        message(T0, 0, b"a"), message(T1, 0), message(T0, 1, b"bc"), message(T0, 2)
    ]  # fmt: skip
    scene.turn()
    assert scene.offsets() == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert [c.size for c in scene.chunks] == [4, 1]


def test_partitions_of_one_number_in_two_topics_are_kept_apart(scene: Scene) -> None:
    other = TopicPartition("u", 0)
    scene.own(T0, other)
    scene.consumer.ready = [message(T0, 0), message(other, 7), message(T0, 1)]
    scene.turn()
    assert [(c.topic, len(c.messages)) for c in scene.chunks] == [("t", 2), ("u", 1)]


def test_an_end_comes_after_the_messages_before_it_in_one_report(scene: Scene) -> None:
    scene.own(T0)
    scene.consumer.ready = [message(T0, 0), eof(T0, 3)]
    scene.turn()
    assert scene.offsets() == [(0, 0)]
    assert scene.ends == [PartitionEnd("t", 0, scene.owned[T0].epoch, 3)]
    assert scene.reports[-1] == ("fetched", [0])


def test_an_end_alone_leaves_the_fetch_open(scene: Scene) -> None:
    scene.own(T0)
    scene.consumer.ready = [eof(T0, 0)]
    scene.turn()
    scene.consumer.ready = [message(T0, 0)]
    scene.turn()
    assert scene.offsets() == [(0, 0)]


@pytest.mark.parametrize("together", [True, False])
def test_what_comes_behind_damaged_records_is_dropped(scene: Scene, together: bool) -> None:
    scene.own(T0, T1)
    ready = [message(T0, 0), damage(T0, 1), message(T0, 2), message(T1, 0), eof(T0, 3)]
    if together:
        scene.consumer.ready = [*ready]
        scene.turn()
    else:
        for one in ready:
            scene.consumer.ready = [one]
            scene.feeder.fetch(100)
            scene.turn()
    assert scene.offsets() == [(0, 0), (1, 0)]
    assert scene.ends == [], "for it would say that all below it was handed out"
    [failure] = scene.failures
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "_BAD_MSG"
    assert "t [0], records are damaged" in str(failure)
    assert "to go on behind these, commit an offset" in str(failure)


def test_a_message_whose_epoch_ends_before_the_next_call_returns_is_dropped(
    scene: Scene,
) -> None:
    """The trap: one poll gives a message, the next revokes and assigns its partition."""
    scene.own(T0)
    first = scene.owned[T0].epoch
    scene.on_revoking = lambda partitions: scene.feeder.release(partitions, [])

    def rebalance() -> None:
        scene.rebalance("revoke", T0)
        scene.rebalance("assign", T0)

    scene.consumer.ready = [nothing, message(T0, 5), rebalance, message(T0, 0)]
    scene.turn()
    assert scene.offsets() == [(0, 0)]
    assert scene.chunks[0].epoch == scene.owned[T0].epoch != first


def test_a_message_of_a_partition_that_is_not_ours_is_dropped(scene: Scene) -> None:
    scene.own(T0)
    scene.consumer.ready = [message(T1, 0), message(T0, 0)]
    scene.turn()
    assert scene.offsets() == [(0, 0)]


def test_a_message_polled_for_a_commit_is_kept_for_the_next_fetch(scene: Scene) -> None:
    scene.own(T0)
    scene.feeder.fetch(0)
    scene.commit(T0, 1)
    scene.consumer.ready = [message(T0, 0)]
    scene.turn()
    scene.consumer.ready = [eof(T0, 1)]
    scene.turn()
    assert scene.chunks == scene.ends == []

    scene.feeder.fetch(1)
    scene.turn()
    assert scene.offsets() == [(0, 0)]
    assert [end.offset for end in scene.ends] == [1]


def test_no_more_than_asked_for_is_delivered_of_what_was_kept(scene: Scene) -> None:
    scene.own(T0)
    scene.feeder.fetch(0)
    scene.commit(T0, 1)
    for offset in range(3):
        scene.consumer.ready = [message(T0, offset)]
        scene.turn()
    scene.feeder.fetch(2)
    scene.turn()
    assert scene.offsets() == [(0, 0), (0, 1)]


# -- demand and pausing


def test_everything_is_paused_half_a_second_after_the_last_fetch(scene: Scene) -> None:
    scene.own(T0, T1)
    scene.consumer.ready = [message(T0, 4)]
    scene.turn(2)
    assert scene.consumer.named("pause") == [("pause", [0, 1])]
    assert scene.clock.now == pytest.approx(100.0 + 0.1 + 0.5)  # an empty poll, and the rest


def test_polling_goes_on_while_all_is_paused(scene: Scene) -> None:
    scene.own(T0)
    scene.feeder.fetch(0)
    before = scene.clock.now
    scene.turn(20)
    polls = len(scene.consumer.named("poll"))
    assert polls >= 20
    assert scene.clock.now - before <= 20 * 0.11


def test_demand_resumes_first_and_then_seeks_behind_what_was_delivered(scene: Scene) -> None:
    scene.own(T0)
    scene.consumer.ready = [message(T0, 4)]
    scene.turn(2)
    scene.consumer.calls.clear()
    scene.feeder.fetch(10)
    scene.turn()
    assert scene.consumer.calls[:2] == [("resume", [0]), ("seek", 0, 5)]


def test_demand_does_not_resume_what_the_caller_paused(scene: Scene) -> None:
    scene.own(T0, T1)
    scene.feeder.pause([T1])
    scene.feeder.fetch(0)
    scene.turn()
    scene.consumer.calls.clear()
    scene.feeder.fetch(10)
    scene.turn()
    assert scene.consumer.named("resume") == [("resume", [0])]


def test_a_seek_that_is_refused_is_tried_again_and_nothing_delivered_before(
    scene: Scene,
) -> None:
    scene.own(T0)
    scene.consumer.refused_seeks = 1
    scene.feeder.resume({T0: 42})
    scene.turn()
    assert scene.consumer.named("resume", "seek", "pause") == [("resume", [0]), ("pause", [0])]
    scene.consumer.calls.clear()
    scene.turn()
    assert scene.consumer.named("resume", "seek", "pause") == [("resume", [0]), ("seek", 0, 42)]


def test_a_seek_drops_what_was_kept_from_before(scene: Scene) -> None:
    scene.own(T0)
    scene.feeder.fetch(0)
    scene.commit(T0, 1)
    scene.consumer.ready = [message(T0, 0)]
    scene.turn()
    scene.feeder.resume({T0: 9})
    scene.feeder.fetch(10)
    scene.consumer.ready = [message(T0, 9)]
    scene.turn()
    assert scene.offsets() == [(0, 9)]


def test_a_command_that_was_given_before_a_loss_was_told_is_not_for_the_next_epoch(
    scene: Scene,
) -> None:
    client = ConfluentClient({"bootstrap.servers": "127.0.0.1:1", "group.id": "group"})
    client._events = told = Told(scene)
    scene.own(T0, T1)
    told.assigned([*scene.owned.values()])
    client.pause([T0])
    client.resume({T0: 9, T1: 8})
    scene.rebalance("lost", T0)
    scene.own(T0)
    while not client._commands.empty():
        client._commands.get()(scene.feeder)
    scene.turn()
    assert scene.consumer.named("pause", "seek") == [("seek", 1, 8)]


def test_a_pause_does_not_outlive_its_epoch(scene: Scene) -> None:
    scene.own(T0)
    scene.feeder.pause([T0])
    scene.turn()
    scene.on_revoking = lambda partitions: scene.feeder.release(partitions, [])
    scene.rebalance("revoke", T0)
    scene.consumer.calls.clear()
    scene.rebalance("assign", T0)
    assert scene.consumer.named("resume") == [("resume", [0])]


# -- ticks


def test_polling_stops_while_trio_does_not_answer_and_goes_on_when_it_does(
    scene: Scene,
) -> None:
    scene.own(T0)
    scene.blocked = []
    scene.turn(30)
    assert 10 <= len(scene.consumer.named("poll")) <= 14  # TICK_EVERY and TICK_LIMIT
    assert len(scene.blocked) == 1

    [tick] = scene.blocked
    scene.blocked = None
    tick()
    scene.consumer.calls.clear()
    scene.turn(3)
    assert len(scene.consumer.named("poll")) == 3


def test_the_thread_ends_when_trio_is_gone(scene: Scene) -> None:
    scene.own(T0)
    scene.gone = True
    scene.feeder.run()
    assert scene.consumer.calls[-1] == ("close",)


# -- commits


def test_one_commit_is_sent_at_a_time(scene: Scene) -> None:
    scene.own(T0)
    _, first = scene.commit(T0, 1)
    _, second = scene.commit(T0, 2)
    scene.turn(2)
    assert scene.consumer.named("commit") == [("commit", [(0, 1)], "async")]
    scene.answer_commit()
    assert len(first) == 1
    assert scene.consumer.named("commit")[1:] == [("commit", [(0, 2)], "async")]
    scene.answer_commit()
    assert len(second) == 1


def test_a_commit_nobody_waits_for_is_not_sent(scene: Scene) -> None:
    scene.own(T0)
    scene.commit(T0, 1)
    commit, _ = scene.commit(T0, 2)
    scene.turn()
    commit.wanted = False
    scene.answer_commit()
    assert len(scene.consumer.named("commit")) == 1


def test_a_commit_of_an_ended_epoch_is_dropped_when_it_is_sent(scene: Scene) -> None:
    scene.own(T0)
    _, answers = scene.commit(T0, 1)
    scene.rebalance("lost", T0)
    scene.turn()
    assert answers == [[]]
    assert scene.consumer.named("commit") == []


def test_a_commit_on_its_way_is_answered_when_a_revoke_begins(scene: Scene) -> None:
    """Its own answer comes after the revoke, which the caller holds until it has one."""
    scene.own(T0)
    _, answers = scene.commit(T0, 1)
    scene.turn()

    def release_when_committed(partitions: Sequence[AssignedPartition]) -> None:
        scene.commands.put(lambda feeder: feeder.release(partitions, []) if answers else None)

    scene.on_revoking = release_when_committed
    before = scene.clock.now
    scene.rebalance("revoke", T0)
    assert len(answers) == 1
    assert scene.consumer.named("commit")[-1] == ("commit", [(0, 1)], "sync")
    assert scene.clock.now == before

    scene.answer_commit()
    assert len(answers) == 1


# -- rebalances


def test_released_offsets_are_committed_before_their_epoch_ends(scene: Scene) -> None:
    scene.own(T0, T1)
    epochs = {place: owned.epoch for place, owned in scene.owned.items()}
    scene.on_revoking = lambda partitions: scene.feeder.release(
        partitions, [OffsetCommit(*T0, epochs[T0], 7), OffsetCommit(*T0, 99, 8)]
    )
    scene.rebalance("revoke", T0)
    assert scene.consumer.named("commit") == [("commit", [(0, 7)], "sync")]
    _, answers = scene.commit(T0, 9)
    scene.turn()
    assert answers == [[]]


def test_a_refused_commit_of_a_release_is_told(scene: Scene) -> None:
    scene.own(T0)
    (epoch,) = (owned.epoch for owned in scene.owned.values())
    answers: list[object] = []
    scene.on_revoking = lambda partitions: scene.feeder.release(
        partitions, [OffsetCommit(*T0, epoch, 7)], answers.append
    )
    scene.consumer.commit_error = KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))
    scene.rebalance("revoke", T0)
    (failure,) = answers
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "ILLEGAL_GENERATION"


def test_a_revoke_that_is_not_released_ends_by_the_threads_own_clock(scene: Scene) -> None:
    scene.own(T0)
    scene.blocked = []
    before = scene.clock.now
    scene.rebalance("revoke", T0)
    assert scene.clock.now - before == pytest.approx(0.2 + 1)
    assert scene.consumer.named("commit") == []


U0 = TopicPartition("u", 0)


class Gone:
    """Answers commits as librdkafka does when a topic was deleted: with an error for all."""

    def __init__(self, scene: Scene, topic: str) -> None:
        self.scene = scene
        self.topic = topic
        self.committed: list[list[tuple[str, int]]] = []
        self.error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)

    def commit(self, offsets: list[Native], asynchronous: bool) -> list[Native] | None:
        self.committed.append([(o.topic, o.offset) for o in offsets])
        if any(o.topic == self.topic for o in offsets):
            if not asynchronous:
                raise KafkaException(self.error)
            self.pending: list[KafkaError | None] = [self.error]
        else:
            self.pending = [None]
        return None if asynchronous else offsets

    def answer(self) -> None:
        self.scene.feeder.on_commit(self.pending.pop(), [])


def test_of_a_deleted_topic_nothing_is_committed_and_of_the_others_all(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene.own(U0, T0)
    gone = Gone(scene, "u")
    monkeypatch.setattr(scene.consumer, "commit", gone.commit)
    answers: list[object] = []
    offsets = [OffsetCommit(*place, scene.owned[place].epoch, 5) for place in (U0, T0)]
    for _ in range(2):
        scene.feeder.commit(Commit(offsets, answers.append))
        scene.turn()
        for _ in range(3):
            gone.answer()
        assert gone.committed == [[("u", 5), ("t", 5)], [("u", 5)], [("t", 5)]]
        gone.committed.clear()
    assert answers == [[offsets[1]], [offsets[1]]]
    assert caplog.text.count("'u' is gone") == 1


def test_a_revoke_of_a_deleted_topic_commits_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.own(U0, T0)
    gone = Gone(scene, "u")
    monkeypatch.setattr(scene.consumer, "commit", gone.commit)

    def release(partitions: Sequence[AssignedPartition]) -> None:
        offsets = [OffsetCommit(p.topic, p.partition, p.epoch, 7) for p in partitions]
        scene.commands.put(lambda feeder: feeder.release(partitions, offsets))

    scene.on_revoking = release
    scene.rebalance("revoke", U0, T0)
    assert gone.committed == [[("u", 7), ("t", 7)], [("u", 7)], [("t", 7)]]
    assert scene.failures == []


@pytest.mark.parametrize(
    ("classic", "calls"),
    [
        (True, [["a"], ["a", "c"], "unsubscribe", ["b"], ["b", "c"], "unsubscribe"]),
        (False, [["a", "c"], ["b"], ["b", "c"], "unsubscribe"]),
    ],
)
def test_in_classic_groups_what_is_left_goes_before_what_is_new_comes(
    classic: bool, calls: list[object]
) -> None:
    seen: list[object] = []

    class Subscriber:
        def subscribe(self, topics: list[str]) -> None:
            seen.append(topics)

        def unsubscribe(self) -> None:
            seen.append("unsubscribe")

    membership = Membership(cast(Consumer, Subscriber()), {}, classic=classic)
    membership.subscribe(["a", "b"])
    seen.clear()
    for topics in (["a", "c"], ["a", "c"], ["b"], ["b", "c"], []):
        membership.subscribe(topics)
    assert seen == calls


def test_a_change_of_topics_waits_for_a_revoke_that_is_under_way(scene: Scene) -> None:
    scene.own(T0)
    subscribed: list[tuple[list[str], bool]] = []
    revoking = True

    def subscribe(topics: list[str], **_: object) -> None:
        subscribed.append((topics, revoking))

    scene.consumer.subscribe = subscribe  # type: ignore[method-assign]
    answers: list[Exception | None] = []

    def change(partitions: Sequence[AssignedPartition]) -> None:
        scene.commands.put(lambda feeder: feeder.subscribe((["t", "u"], answers.append)))
        scene.commands.put(lambda feeder: feeder.release(partitions, []))

    scene.on_revoking = change
    scene.rebalance("revoke", T0)
    revoking = False
    scene.turn()
    assert (subscribed, answers) == ([(["t", "u"], False)], [None])


def test_commits_and_pauses_are_served_while_a_revoke_waits(scene: Scene) -> None:
    scene.own(T0, T1)
    answers: list[list[object]] = []

    def ask(partitions: Sequence[AssignedPartition]) -> None:
        answers.append(scene.commit(T1, 3)[1])
        scene.commands.put(lambda feeder: feeder.pause([T1]))
        scene.commands.put(lambda feeder: feeder.release(partitions, []))

    scene.on_revoking = ask
    scene.rebalance("revoke", T0)
    assert [len(a) for a in answers] == [1]
    scene.turn()
    assert scene.consumer.named("pause") == [("pause", [1])]


def test_stopping_ends_the_wait_of_a_revoke(scene: Scene) -> None:
    scene.own(T0)
    scene.on_revoking = lambda _: scene.commands.put(Feeder.stop)
    before = scene.clock.now
    scene.rebalance("revoke", T0)
    assert scene.clock.now == before


def test_a_revoke_after_stopping_reports_nothing_and_does_not_wait(scene: Scene) -> None:
    scene.own(T0)
    scene.feeder.stop()
    scene.reports.clear()
    before = scene.clock.now
    scene.rebalance("revoke", T0)
    assert (scene.reports, scene.clock.now) == ([], before)


def test_what_has_no_known_start_is_neither_reported_nor_read_until_it_has(
    scene: Scene,
) -> None:
    scene.feeder._beginnings.starts = Starts(
        cast(Consumer, scene.consumer), "latest", scene.reported
    )
    scene.own(T0)
    scene.consumer.ready = [message(T0, 0), eof(T0, 1)]
    scene.turn()
    assert (scene.reports, scene.owned) == ([], {})
    scene.consumer.ends = 5
    scene.clock.now += 1
    scene.consumer.calls.clear()
    scene.consumer.ready = [message(T0, 5)]
    scene.turn()
    assert (scene.owned[T0].start, scene.offsets()) == (5, [(0, 5)])
    assert ("seek", 0, 5) in scene.consumer.calls


def test_what_is_committed_is_asked_for_until_kafka_tells_and_nothing_is_read_before(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Else what only the committed metadata tell of would be handled again."""
    consumer = scene.consumer
    consumer.committed_error = KafkaError._TIMED_OUT
    consumer.committed_offsets = {T0: 7}
    consumer.metadata = {T0: "a map"}
    scene.own(T0, T1)
    assert ("assign", [(0, OFFSET_END), (1, OFFSET_END)]) in scene.log
    assert ("pause", [0, 1]) in scene.log
    consumer.ready = [message(T0, 3), eof(T1, 9)]
    scene.turn(3)
    assert (scene.reports, scene.owned) == ([], {})
    consumer.committed_error = None
    scene.clock.now += 1
    consumer.calls.clear()
    consumer.ready = [message(T0, 7), message(T1, 0)]
    scene.turn()
    assert scene.owned[T0].committed == 7
    assert scene.owned[T0].metadata == "a map"
    assert scene.owned[T1].committed is None
    assert scene.offsets() == [(0, 7), (1, 0)]
    assert {("seek", 0, 7), ("seek", 1, OFFSET_BEGINNING)} <= set(consumer.named("seek"))
    assert len([r for r in caplog.records if "trying again" in r.message]) == 1


def test_a_map_waits_until_it_is_known_of_which_topic_it_is(scene: Scene) -> None:
    scene.consumer.committed_offsets = {T0: 7, T1: 5}
    scene.consumer.metadata = {T0: "a map"}
    scene.tells_ids = False
    scene.own(T0, T1)
    assert list(scene.owned) == [T1], "without a map there is nothing to compare"
    assert scene.owned[T1].topic_id == ""
    scene.tells_ids = True
    scene.clock.now += 1
    scene.turn()
    assert (scene.owned[T0].committed, scene.owned[T0].topic_id) == (7, "id of t")
    assert ("seek", 0, 7) in scene.consumer.calls


def test_what_waits_and_is_taken_away_begins_no_more(scene: Scene) -> None:
    scene.consumer.committed_error = KafkaError._TIMED_OUT
    scene.own(T0)
    scene.rebalance("revoke", T0)
    scene.consumer.committed_error = None
    scene.clock.now += 1
    scene.turn()
    assert (scene.reports, scene.owned, scene.failures) == ([], {}, [])


def test_a_start_that_comes_late_has_its_topics_id_though_others_were_asked_for(
    scene: Scene,
) -> None:
    scene.feeder._beginnings.starts = Starts(
        cast(Consumer, scene.consumer), "latest", scene.reported
    )
    scene.own(T0)  # it waits for its start
    scene.consumer.ends = 5
    scene.rebalance("assign", TopicPartition("another", 0))
    scene.clock.now += 1
    scene.turn()
    assert scene.owned[T0].topic_id == "id of t"


def test_who_is_no_member_any_more_waits_for_its_loss(scene: Scene) -> None:
    scene.consumer.committed_error = KafkaError.UNKNOWN_MEMBER_ID
    scene.own(T0)
    assert (scene.owned, scene.failures) == ({}, [])


def test_a_member_that_may_not_know_what_is_committed_ends(scene: Scene) -> None:
    scene.consumer.committed_error = KafkaError.GROUP_AUTHORIZATION_FAILED
    scene.rebalance("assign", T0)
    [failure] = scene.failures
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "GROUP_AUTHORIZATION_FAILED"


def test_an_empty_assignment_begins_no_epoch(scene: Scene) -> None:
    scene.rebalance("assign")
    assert scene.reports == []


def test_epochs_are_never_used_twice(scene: Scene) -> None:
    seen = []
    for _ in range(3):
        scene.own(T0, T1)
        seen += [owned.epoch for owned in scene.owned.values()]
        scene.rebalance("lost", T0, T1)
    assert len(set(seen)) == len(seen)


def test_a_rebalance_that_raises_is_reported_and_raises_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(*args: object, **kwargs: object) -> None:
        raise KeyError("bad")

    monkeypatch.setattr(scene.consumer, "committed", bad)
    scene.rebalance("assign", T0)
    assert [type(error) for error in scene.failures] == [KeyError]
