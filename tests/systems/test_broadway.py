"""The rows of Broadway: what its users expect, this library does."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from tests._diary import Diary
from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker, open_test_pipeline


async def double(message: Message) -> None:
    message.data = 2 * int(message.value or b"")


def doubling_batches(triggers: list[tuple[str, int]]) -> Stages:
    async def handle_batch(batch: Batch) -> None:
        triggers.append((batch.trigger, len(batch)))
        for message in batch:
            if message.data > 8:
                message.fail("too much")

    batcher = Batcher(handle_batch=handle_batch, size=3, timeout=2)
    return Stages(handle_message=double, batchers={"default": batcher})


async def test_testing_test_message_is_flushed_at_once_and_acknowledged_by_one_answer(
    autojump_clock: MockClock,
) -> None:
    triggers: list[tuple[str, int]] = []
    async with open_test_pipeline(stages=doubling_batches(triggers)) as pipeline:
        succeeded, failed = await pipeline.push(b"4")
        assert ([message.data for message in succeeded], failed) == ([8], ())
        succeeded, failed = await pipeline.push(b"5")
        assert (succeeded, [str(message.failure) for message in failed]) == ((), ["too much"])
        succeeded, failed = await pipeline.push(b"five")
        assert (succeeded, [type(message.failure) for message in failed]) == ((), [ValueError])
        assert trio.current_time() == 0
    assert triggers == [("flush", 1), ("flush", 1)]


async def test_testing_test_batch_in_bulk_leaves_by_size_or_timeout_one_answer_for_each(
    autojump_clock: MockClock,
) -> None:
    triggers: list[tuple[str, int]] = []
    async with open_test_pipeline(stages=doubling_batches(triggers)) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3", b"4", b"5", batch_mode="bulk")
        assert trio.current_time() == 2
    assert triggers == [("size", 3), ("timeout", 2)]
    assert [message.data for message in acks.succeeded] == [2, 4, 6, 8]
    assert [message.data for message in acks.failed] == [10]


async def test_telemetry_start_stop_and_exception_of_each_stage_with_durations_and_counts(
    autojump_clock: MockClock,
) -> None:
    async def handle_message(message: Message) -> None:
        await trio.sleep(1)
        if message.offset == 1:
            raise ValueError("broken")

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(0.5)
        batch.messages[0].fail("no")

    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    broker.produce("t", b"a", b"b", b"c")
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(
            handle_message=handle_message,
            batchers={"default": Batcher(handle_batch=handle_batch, size=2, timeout=10)},
            ordering="partition",
            on_failure=Skip(),
        ),
        instruments=[diary],
        commit_interval=math.inf,
    ):
        await trio.sleep(5)
    assert diary.lines == [
        (0, "opened", ()),  # topology init
        (0, "assigned", ("t/0", 1, None)),
        (0, "received", ("t/0", 3, 3, 0, 2)),
        (1, "processed", ((0, 1, None),)),  # message and processor stop, with the duration
        (2, "processed", ((1, 1, "ValueError"),)),
        (2, "failed", (1, "ValueError", "Skip", "handle_message")),  # message exception
        (3, "processed", ((2, 1, None),)),
        (3.5, "batch", ("default", "size", 2, 0.5, 1)),  # batch processor stop
        (3.5, "failed", (0, "MessageFailed", "Skip", "handle_batch")),
        (5, "committed", ({("t", 0): 3}, 0)),
        (5, "closed", (None, 0)),
    ]


async def test_introspection_topology_tells_stages_and_whether_it_runs(
    autojump_clock: MockClock,
) -> None:
    async with open_test_pipeline(stages=doubling_batches([])) as pipeline:
        topology = pipeline.topology()
        assert (topology.name, topology.topics, topology.state) == ("test", ("test",), "open")
        (stages,) = topology.stages
        assert (stages.handle_message, stages.concurrency, stages.ordering) == (
            "double",
            16,
            "key",
        )
        (batcher,) = stages.batchers
        assert (batcher.name, batcher.size, batcher.timeout) == ("default", 3, 2)
    assert pipeline.topology().state == "closed"
