"""The rows of Broadway: what its users expect, this library does."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from trio_broadway_kafka import Batch, Batcher, Message, Stages
from trio_broadway_kafka.testing import open_test_pipeline


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
