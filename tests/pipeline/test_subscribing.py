"""Topics that change while a pipeline runs: by the user, by a pattern, or because they go."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    ConfigError,
    KafkaFailure,
    Message,
    Pipeline,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker


class Seen:
    def __init__(self, work: float = 0.0) -> None:
        self.work = work
        self.started: list[tuple[str, int, float]] = []
        self.ended: list[tuple[str, int]] = []

    async def handle(self, message: Message) -> None:
        self.started.append((message.topic, message.offset, trio.current_time()))
        await trio.sleep(self.work)
        self.ended.append((message.topic, message.offset))


def _open(
    broker: FakeBroker, seen: Seen, *topics: str, **options: Any
) -> AbstractAsyncContextManager[Pipeline]:
    stages = Stages(handle_message=seen.handle, ordering="partition")
    return open_pipeline(client=broker.client(), topics=topics, stages=stages, **options)


async def test_what_is_left_is_drained_and_committed_and_what_is_kept_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"kept": 1, "left": 1, "new": 1})
    for topic in ("kept", "left", "new"):
        broker.produce(topic, *[b"v"] * 4)
    seen = Seen(work=2)
    async with _open(broker, seen, "kept", "left") as pipeline:
        await trio.sleep(3)
        await pipeline.subscribe(["kept", "new"])
        await trio.sleep(30)
        epochs = [(p.topic, p.epoch) for p in pipeline.statistics().partitions]
        assert epochs == [("kept", 1), ("new", 3)]
    by_topic = {
        topic: [(offset, time) for name, offset, time in seen.started if name == topic]
        for topic in ("kept", "left", "new")
    }
    near = pytest.approx
    assert by_topic["kept"] == [(n, near(2 * n, abs=0.01)) for n in range(4)]
    assert by_topic["left"] == [(n, near(2 * n, abs=0.01)) for n in range(2)]
    # What is taken away is waited for, within the rebalance.
    assert by_topic["new"] == [(n, near(4 + 2 * n, abs=0.11)) for n in range(4)]
    assert [broker.committed(t, 0) for t in ("kept", "left", "new")] == [4, 2, 4]


async def test_a_missing_topic_is_named_and_the_old_topics_are_read_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    seen = Seen()
    async with _open(broker, seen, "t") as pipeline:
        await pipeline.wait_assigned()
        with pytest.raises(KafkaFailure, match="no topic 'u'"):
            await pipeline.subscribe(["t", "u"])
        broker.produce("t", b"v")
        await pipeline.wait_caught_up()
    assert seen.ended == [("t", 0)]


async def test_with_create_topics_a_missing_topic_is_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with _open(broker, Seen(), "t", create_topics=True) as pipeline:
        await pipeline.subscribe(["t", "u"])
        assert broker.records("u") == []


@pytest.mark.parametrize(
    ("topics", "says"),
    [
        ("t", "topics must be a list"),
        ([], "topics is empty"),
        (["^(t"], r"the pattern '\^\(t', which Python's re refuses"),
    ],
)
async def test_wrong_topics_are_a_config_error_and_change_nothing(
    autojump_clock: trio.testing.MockClock, topics: Any, says: str
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with _open(broker, Seen(), "t") as pipeline:
        await pipeline.wait_assigned()
        with pytest.raises(ConfigError, match=says):
            await pipeline.subscribe(topics)
        assert [p.topic for p in pipeline.statistics().partitions] == ["t"]


async def test_a_closed_pipeline_does_not_subscribe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with _open(broker, Seen(), "t") as pipeline:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await pipeline.subscribe(["t"])


async def test_an_outage_fails_it_within_open_timeout_and_the_old_topics_are_read_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1, "u": 1})
    seen = Seen()
    async with _open(broker, seen, "t", open_timeout=5) as pipeline:
        await pipeline.wait_assigned()
        broker.stop()
        started_at = trio.current_time()
        with pytest.raises(KafkaFailure) as caught:
            await pipeline.subscribe(["u"])
        assert caught.value.retriable
        assert trio.current_time() - started_at == pytest.approx(5)
        broker.start()
        broker.produce("t", b"v")
        await pipeline.wait_caught_up()
    assert seen.ended == [("t", 0)]


async def test_a_pattern_that_matches_nothing_waits_for_topics(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"returns": 1})
    seen = Seen()
    async with _open(broker, seen, "^orders-") as pipeline:
        await trio.sleep(100)
        assert pipeline.statistics().partitions == ()
        for region in ("eu", "us"):
            broker.create_topic(f"orders-{region}")
            broker.produce(f"orders-{region}", b"v")
            await trio.sleep(1)
    assert seen.ended == [("orders-eu", 0), ("orders-us", 0)]


async def test_a_topic_that_is_deleted_ends_and_the_others_go_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker(topics={"gone": 1, "t": 1})
    for topic in ("gone", "t"):
        broker.produce(topic, *[b"v"] * 6)
    seen = Seen(work=1)
    with caplog.at_level(logging.WARNING):
        async with _open(broker, seen, "gone", "t") as pipeline:
            await trio.sleep(2.5)
            broker.delete_topic("gone")
            await trio.sleep(10)
            assert [p.topic for p in pipeline.statistics().partitions] == ["t"]
    assert [offset for topic, offset in seen.ended if topic == "gone"] == [0, 1, 2]
    assert (broker.committed("t", 0), broker.committed("gone", 0)) == (6, None)
    assert caplog.text.count("'gone' is gone") == 1
