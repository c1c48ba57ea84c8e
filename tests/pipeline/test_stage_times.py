"""What a pipeline tells of its stages: where their time goes, and how long handlers take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    Message,
    PipelineStatistics,
    RateLimit,
    Stages,
    StageStatistics,
    TopicStatistics,
    open_pipeline,
)
from trio_broadway_kafka._model._batch_sizes import SIZE_BOUNDS
from trio_broadway_kafka.testing import FakeBroker


def sleeping(seconds: float) -> Callable[[object], Awaitable[None]]:
    """A handler that takes that long."""

    async def handle(argument: object) -> None:
        await trio.sleep(seconds)

    return handle


def times(stage: StageStatistics) -> tuple[float, float, float]:
    return tuple(  # type: ignore[return-value]
        round(seconds, 1) for seconds in (stage.busy_s, stage.idle_s, stage.backpressured_s)
    )


async def test_tasks_are_busy_while_their_handlers_run_and_idle_before_and_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=sleeping(2), ordering="unordered", concurrency=4),
    ) as pipeline:
        await trio.sleep(5)
        broker.produce("t", *[b"v"] * 6)  # four at once, then two
        await trio.sleep(5)
        (stage,) = pipeline.statistics().stages
    assert (stage.name, stage.concurrency) == ("handle_message", 4)
    assert times(stage) == (12.0, 28.0, 0.0)
    after = pipeline.statistics().stages[0]  # the block is over: its tasks are gone
    assert after.concurrency == 0
    assert times(after) == (12.0, 28.0, 0.0)


async def test_tasks_that_may_take_no_more_are_back_pressured(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 100)

    async def handle(message: Message) -> None: ...

    async def store(batch: Batch) -> None:
        await trio.sleep(10)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(
            handle_message=handle,
            concurrency=2,
            batchers={"default": Batcher(handle_batch=store, size=10)},
        ),
        max_in_flight=10,
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(100)
        messages, batches = pipeline.statistics().stages
        assert batches.name == "handle_batch:default"
        assert times(batches) == (100.0, 0.0, 0.0)
        # Both processors wait for the batcher nearly all the time.
        assert messages.backpressured_s == pytest.approx(200, abs=4)
        assert sum(times(messages)) == pytest.approx(200, abs=0.1)


async def test_once_there_is_room_and_nothing_more_to_do_they_are_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 10)

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(
            handle_message=handle,
            concurrency=2,
            batchers={"default": Batcher(handle_batch=sleeping(10), size=10)},
        ),
        max_in_flight=10,
    ) as pipeline:
        await trio.sleep(100)
        messages, batches = pipeline.statistics().stages
        assert times(batches) == (10.0, 90.0, 0.0)
        assert messages.backpressured_s == pytest.approx(20, abs=0.5)
        assert messages.idle_s == pytest.approx(180, abs=0.5)


async def test_a_rate_limit_is_back_pressure(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 50)

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, concurrency=1),
        rate_limit=RateLimit(messages=1, per=10.0),
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(100)
        (stage,) = pipeline.statistics().stages
        assert stage.backpressured_s == pytest.approx(100, abs=1)


async def test_handling_and_end_to_end_have_percentiles(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=sleeping(0.5), concurrency=1),
    ) as pipeline:
        for _ in range(10):
            broker.produce("t", b"v", b"v", key=b"k")  # the second waits for the first
            await trio.sleep(2)
        statistics = pipeline.statistics()
    (stage,) = statistics.stages
    assert stage.handling.total == 20
    assert stage.handling.p50 == pytest.approx(0.5, rel=0.04)
    assert stage.handling.max == pytest.approx(0.5, abs=0.01)
    assert statistics.end_to_end is not None
    assert statistics.end_to_end.total == 20
    assert statistics.end_to_end.p50 == pytest.approx(0.5, rel=0.05)
    assert statistics.end_to_end.max == pytest.approx(1.0, abs=0.02)


async def test_messages_that_waited_for_their_key_are_measured_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 4, key=b"k")
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=sleeping(1), concurrency=4),
    ) as pipeline:
        await pipeline.wait_caught_up()
        statistics = pipeline.statistics()
    assert statistics.stages[0].handling.total == 4
    assert statistics.end_to_end is not None
    assert statistics.end_to_end.max == pytest.approx(4, abs=0.1)


async def test_of_a_batch_the_first_records_way_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(
            batchers={"default": Batcher(handle_batch=sleeping(1), size=10, timeout=3)}
        ),
    ) as pipeline:
        broker.produce("t", b"v")
        await trio.sleep(2)
        broker.produce("t", b"v")
        await trio.sleep(5)
        statistics = pipeline.statistics()
    (stage,) = statistics.stages
    assert (stage.handling.total, stage.handling.max) == (1, pytest.approx(1.0, abs=0.01))
    assert statistics.end_to_end is not None
    assert statistics.end_to_end.max == pytest.approx(4.0, abs=0.05)


async def test_of_many_messages_a_sample_is_timed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5_000)

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="partition"),
    ) as pipeline:
        await pipeline.wait_caught_up()
        statistics = pipeline.statistics()
    assert statistics.succeeded == 5_000
    assert 0 < statistics.stages[0].handling.total < 2_000


async def test_handlers_that_raise_are_timed_and_those_cut_off_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")

    async def handle(message: Message) -> None:
        await trio.sleep(1)
        raise ValueError

    with pytest.raises(ExceptionGroup):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        ) as pipeline:
            await trio.sleep_forever()
    assert pipeline.statistics().stages[0].handling.max == pytest.approx(1.0, abs=0.01)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=sleeping(100)),
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(10)
    assert pipeline.statistics().stages[0].handling.total == 0


async def test_lag_has_its_seconds_whether_its_records_are_here_or_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=sleeping(10), concurrency=1),
        max_in_flight=1,
        commit_interval=0,
    ) as pipeline:
        await pipeline.wait_assigned()
        await trio.sleep(1)
        assert lag(pipeline.statistics()) == (0, 0)
        broker.produce("t", b"v")
        await trio.sleep(5)
        broker.produce("t", b"v")
        await trio.sleep(1)
        assert lag(pipeline.statistics()) == (1, 6)  # nothing is being fetched
        await pipeline.refresh_lag()
        assert lag(pipeline.statistics()) == (2, 6)
        await trio.sleep(5)
        assert lag(pipeline.statistics()) == (1, 6)
        await pipeline.wait_caught_up()
        await trio.sleep(1)
        assert lag(pipeline.statistics()) == (0, 0)


def lag(statistics: PipelineStatistics) -> tuple[int | None, int | None]:
    (partition,) = statistics.partitions
    seconds = None if partition.lag_s is None else round(partition.lag_s)
    return partition.lag, seconds


async def test_a_batcher_tells_why_its_batches_left_and_what_they_held(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 25)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(batchers={"default": Batcher(handle_batch=sleeping(1), size=10)}),
    ) as pipeline:
        await trio.sleep(1.5)
        (batcher,) = pipeline.statistics().batchers
        assert (batcher.running, batcher.pending, batcher.delivered) == (10, 5, 10)
        await pipeline.wait_caught_up()
        (batcher,) = pipeline.statistics().batchers
    assert [(one.trigger, one.batches, one.messages) for one in batcher.triggers] == [
        ("size", 2, 20),
        ("timeout", 1, 5),
    ]
    sizes = dict(zip((*SIZE_BOUNDS, "more"), batcher.triggers[0].buckets, strict=True))
    assert {bound: count for bound, count in sizes.items() if count} == {10: 2}


async def test_each_topic_has_its_counts_beyond_its_assignments(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"a": 1, "b": 2})
    broker.produce("a", b"v")
    broker.produce("b", b"v", partition=0)
    broker.produce("b", b"v", partition=1)
    client = broker.client()

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=client, topics=["a", "b"], stages=Stages(handle_message=handle)
    ) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.subscribe(["b"])
        await trio.sleep(1)
        assert {one.topic for one in pipeline.statistics().partitions} == {"b"}
        assert counts(pipeline.statistics()) == [("a", 1, 1), ("b", 2, 2)]


def counts(statistics: PipelineStatistics) -> list[tuple[str, int, int]]:
    assert all(isinstance(topic, TopicStatistics) for topic in statistics.topics)
    return [(one.topic, one.received, one.succeeded) for one in statistics.topics]
