"""A restart, or the next owner, handles only what is unfinished beyond the committed offset."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Batch, Batcher, Message, Output, Stages, open_pipeline
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model import _offset_map
from trio_broadway_kafka._model._offset_map import decode
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_group import StoredOffset


def broker_with(messages: int, *, keys: int = 1_000, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for index in range(messages):
        broker.produce("t", b"v%d" % index, key=b"k%d" % (index % keys), partition=0)
    return broker


class Handler:
    """Notes what it handles; what is stuck waits until it is cancelled."""

    def __init__(self, stuck: Iterable[int] = ()) -> None:
        self.stuck = set(stuck)
        self.started: list[int] = []

    async def __call__(self, message: Message) -> None:
        self.started.append(message.offset)
        if message.offset in self.stuck:
            await trio.sleep_forever()

    async def batch(self, batch: Batch) -> None:
        self.started += [message.offset for message in batch]
        if self.stuck & {message.offset for message in batch}:
            await trio.sleep_forever()


def opened(broker: FakeBroker, handle: Any, **options: Any) -> Any:
    stages = unordered(handle) if isinstance(handle, Handler) else handle
    options = {"drain_timeout": 0, "client": broker.client(), **options}
    return open_pipeline(topics=["t"], stages=stages, **options)


def unordered(handle: Handler) -> Stages:
    return Stages(handle_message=handle, ordering="unordered", concurrency=10)


def mapped(broker: FakeBroker) -> set[int]:
    """What the last commit tells of beyond its offset."""
    commit = broker.commits[-1]
    runs = decode(commit.metadata, commit.offset, commit.metadata.split(":")[1])
    return {offset for first, behind in runs for offset in range(first, behind)}


async def leave_stuck(broker: FakeBroker, *stuck: int, messages: int) -> None:
    """Handle all messages but these, and end."""
    handle = Handler(stuck)
    async with opened(broker, handle):
        await trio.sleep(3)
    assert sorted(handle.started) == [*range(messages)]


@pytest.mark.parametrize("ordering", ["key", "unordered"])
async def test_only_what_is_unfinished_is_handled_again_after_a_restart(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(1_003, keys=1_003)
    for handle in (Handler([2, 700]), again := Handler()):
        stages = Stages(handle_message=handle, ordering=ordering, concurrency=10)
        async with opened(broker, stages):
            await trio.sleep(3)
    assert sorted(again.started) == [2, 700]
    assert broker.committed("t", 0) == 1_003
    assert broker.commits[-1].metadata == ""


async def test_a_message_that_is_still_stuck_costs_no_restart_its_finished_work(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(50)
    await leave_stuck(broker, 10, 20, messages=50)
    for _ in range(3):
        handle = Handler([10])
        async with opened(broker, handle) as pipeline:
            broker.produce("t", b"new")
            await trio.sleep(3)
            figures = pipeline.statistics()
        assert handle.started[0] == 10
        assert broker.committed("t", 0) == 10
        assert figures.in_flight == 1
    assert handle.started == [10, 52], "what was finished in each run stays so"
    assert mapped(broker) == {*range(11, 53)}


async def test_the_map_holds_at_its_old_offset_before_anything_arrives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Who takes over and is killed at once has lost nothing."""
    broker = broker_with(50)
    await leave_stuck(broker, 10, messages=50)
    before = broker.commits[-1]
    async with opened(broker, Handler([10])) as pipeline:
        await pipeline.commit()
    assert broker.commits[-1] == before


async def test_statistics_do_not_count_what_is_passed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(50)
    await leave_stuck(broker, 0, 30, messages=50)
    async with opened(broker, Handler()) as pipeline:
        await broker.wait_committed("t", 0, 50)
        await pipeline.commit()
        figures = pipeline.statistics()
    assert (figures.received, figures.succeeded, figures.in_flight) == (2, 2, 0)
    assert (figures.partitions[0].position, figures.partitions[0].lag) == (50, 0)


async def test_batches_are_of_what_is_unfinished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(40)
    stuck, again = Handler([5]), Handler()
    for handle in (stuck, again):
        batcher = Batcher(handle_batch=handle.batch, size=10, concurrency=4)
        stages = Stages(batchers={"default": batcher}, ordering="unordered")
        async with opened(broker, stages):
            await trio.sleep(3)
    assert sorted(stuck.started) == [*range(40)]
    assert again.started == [*range(10)], "the batch that was stuck, as a whole"


@pytest.mark.parametrize("ordering", ["key", "unordered"])
async def test_the_next_owner_goes_on_where_the_last_one_was_taken_from(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(100, keys=100)
    first, second = Handler([3]), Handler()
    ours, theirs = broker.client(), broker.client()
    stages = [
        Stages(handle_message=handle, ordering=ordering, concurrency=10)
        for handle in (first, second)
    ]
    async with opened(broker, stages[0], client=ours, revoke_timeout=1):
        await trio.sleep(3)
        async with opened(broker, stages[1], client=theirs):
            await trio.sleep(3)
            if not second.started:
                broker.rebalance(ours, [("t", 0)], to=theirs)
            await broker.wait_committed("t", 0, 100)
    assert second.started == [3]


async def test_partition_pipelines_pass_it_over_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(100)
    await leave_stuck(broker, 3, messages=100)
    handle = Handler()

    def stages(topic: str, partition: int) -> Stages:
        return unordered(handle)

    async with opened(broker, stages):
        await broker.wait_committed("t", 0, 100)
    assert handle.started == [3]


async def test_start_from_handles_all_of_it_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(20)
    await leave_stuck(broker, 3, messages=20)
    handle = Handler()
    async with opened(broker, handle, start_from="earliest"):
        await broker.wait_committed("t", 0, 20)
    assert handle.started == [*range(20)]


async def test_a_topic_made_anew_has_nothing_of_the_old_one_passed_over(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(20)
    await leave_stuck(broker, 0, 3, messages=20)
    offsets = broker._cluster.group("group").committed
    place = TopicPartition("t", 0)
    before = offsets[place]
    broker.delete_topic("t")
    broker.create_topic("t", 1)
    broker.produce("t", *[b"v"] * 20)
    offsets[place] = before  # as where somebody has kept and restored them
    handle = Handler()
    async with opened(broker, handle):
        await trio.sleep(3)
    assert handle.started == [*range(20)]
    assert any("it is of another topic of this name" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ("my own notes", "it is not one of this library's"),
        ("tbk9:what:comes", "it is of another version of this library"),
        ("tbk1:topic-1:5:r:AQE=:00000000", "it is damaged"),
    ],
)
async def test_metadata_that_make_no_sense_are_ignored_with_a_log_line(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    metadata: str,
    why: str,
) -> None:
    broker = broker_with(20)
    broker._cluster.group("group").committed[TopicPartition("t", 0)] = StoredOffset(5, metadata)
    handle = Handler()
    async with opened(broker, handle):
        await broker.wait_committed("t", 0, 20)
    assert handle.started == [*range(5, 20)]
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line == (
        "<t/0 epoch 1>: the metadata of the committed offset is ignored, so what may have "
        f"been finished beyond it is handled again: {why}"
    )


async def test_what_was_read_back_is_told_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_broadway_kafka")
    broker = broker_with(20)
    await leave_stuck(broker, 3, messages=20)
    async with opened(broker, Handler()):
        await broker.wait_committed("t", 0, 20)
    assert (
        "<t/0 epoch 1>: 16 offsets beyond the committed one are finished, and passed over"
        in caplog.messages
    )


async def test_without_a_gap_the_metadata_are_empty(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(100)
    async with opened(broker, Handler(), commit_interval=0):
        await broker.wait_committed("t", 0, 100)
    assert {commit.metadata for commit in broker.commits} == {""}


async def test_a_partition_waits_while_its_map_is_full(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second message is stuck: 500 characters hold about 2,700 offsets."""
    monkeypatch.setattr(_offset_map, "MAX_LENGTH", 500)
    broker = FakeBroker(topics={"t": 1})
    started = finished = 0
    may_go_on = trio.Event()

    async def handle(message: Message) -> None:
        nonlocal started, finished
        started += 1
        if message.offset % 2 == 0:
            await may_go_on.wait()
        finished += 1

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=3_000)
    async with opened(
        broker, stages, max_in_flight=3_000, commit_interval=0.1, drain_timeout=60
    ) as pipeline:
        for _ in range(40):
            broker.produce("t", *[b"v"] * 100)
            await trio.sleep(0.3)
        held = started
        assert 2_700 <= held <= 2_900
        assert pipeline.statistics().partitions[0].paused == ("share",)
        told = len(mapped(broker))
        await trio.sleep(5)
        assert started == held
        assert len(mapped(broker)) == told > 1_300
        may_go_on.set()
        await broker.wait_committed("t", 0, 4_000)
    assert started == finished == 4_000
    assert all(len(commit.metadata) <= 500 for commit in broker.commits)


@pytest.mark.parametrize("output", [None, Output(transactional_id="one")])
async def test_a_broker_that_takes_no_map_gets_offsets_alone(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    output: Output | None,
) -> None:
    broker = broker_with(10)
    operation: Any = "commit" if output is None else "transaction"
    broker.fail_next(operation, "OFFSET_METADATA_TOO_LARGE")
    handle = Handler([5])
    async with opened(broker, handle, output=output, max_in_flight=100):
        await trio.sleep(3)
        broker.produce("t", *[b"v"] * 5)
        await trio.sleep(3)
    assert {commit.metadata for commit in broker.commits} == {""}
    assert broker.committed("t", 0) == 5
    assert sorted(handle.started) == [*range(15)]
    said = [r.getMessage() for r in caplog.records if "offset.metadata.max.bytes" in r.message]
    assert len(said) == 1
