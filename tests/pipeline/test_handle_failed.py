"""handle_failed: once for each message, before it is acknowledged as failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    Message,
    MessageFailed,
    Skip,
    Stages,
    Stop,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker

Handle = Callable[[Message], Awaitable[None]]
HandleBatch = Callable[[Batch], Awaitable[None]]


def _broker(messages: int, *, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for index in range(messages):
        broker.produce("t", b"v%d" % index, key=b"k", partition=index % partitions)
    return broker


def _in(stage: str, handle: Handle, handle_batch: HandleBatch, *, size: int) -> dict[str, Any]:
    """The handler of the stage that is to fail, as options of Stages."""
    if stage == "message":
        return {"handle_message": handle}
    return {"batchers": {"default": Batcher(handle_batch=handle_batch, size=size)}}


async def odd_ones_fail(message: Message) -> None:
    if message.offset % 2:
        raise LookupError(f"{message.offset} is odd")


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_it_is_called_before_a_failed_message_is_acknowledged(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = _broker(6)
    failed: list[tuple[int, str, int | None]] = []

    async def handle_failed(messages: list[Message]) -> None:
        await trio.sleep(1)
        (message,) = messages
        failed.append((message.offset, str(message.failure), broker.committed("t", 0)))

    stages = Stages(
        handle_message=odd_ones_fail,
        handle_failed=handle_failed,
        on_failure=Skip(),
        ordering=ordering,
        concurrency=1,
    )
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, commit_interval=0
    ) as pipeline:
        await broker.wait_committed("t", 0, 6)
        assert (pipeline.statistics().succeeded, pipeline.statistics().skipped) == (3, 3)
    assert failed == [(1, "1 is odd", 1), (3, "3 is odd", 3), (5, "5 is odd", 5)]


async def test_the_lane_is_held_until_it_has_returned(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(3)
    log: list[tuple[str, int, float]] = []

    async def handle(message: Message) -> None:
        log.append(("handle", message.offset, round(trio.current_time())))
        raise LookupError

    async def handle_failed(messages: list[Message]) -> None:
        log.extend(("failed", m.offset, round(trio.current_time())) for m in messages)
        await trio.sleep(10)

    stages = Stages(handle_message=handle, handle_failed=handle_failed, on_failure=Skip())
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 3)
    expected = [("handle", 0, 0), ("failed", 0, 0), ("handle", 1, 10), ("failed", 1, 10)]
    assert log == [*expected, ("handle", 2, 20), ("failed", 2, 20)]


async def test_it_gets_the_failed_messages_of_a_batch_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(10)
    failed: list[list[int]] = []

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            if message.offset in (2, 7):
                message.fail("no")

    async def handle_failed(messages: list[Message]) -> None:
        failed.append([message.offset for message in messages])

    stages = Stages(
        batchers={"default": Batcher(handle_batch=handle_batch, size=10)},
        handle_failed=handle_failed,
        on_failure=Skip(),
    )
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 10)
    assert failed == [[2, 7]]


async def test_what_stops_the_pipeline_loses_nothing_of_what_is_skipped_in_the_same_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(10)
    failed: list[list[int]] = []

    async def handle_batch(batch: Batch) -> None:
        batch.messages[4].fail(LookupError("stop here"))
        batch.messages[7].fail("skip this")
        batch.messages[2].fail("and this")

    async def handle_failed(messages: list[Message]) -> None:
        failed.append([message.offset for message in messages])

    stages = Stages(
        batchers={"default": Batcher(handle_batch=handle_batch, size=10)},
        handle_failed=handle_failed,
        on_failure=lambda m: Skip() if isinstance(m.failure, MessageFailed) else Stop(),
    )
    with pytest.RaisesGroup(LookupError):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert failed == [[2, 7]]
    assert broker.committed("t", 0) == 4


@pytest.mark.parametrize("stage", ["message", "batch"])
async def test_if_it_raises_the_pipeline_stops_and_the_message_is_not_acknowledged(
    autojump_clock: trio.testing.MockClock, stage: str
) -> None:
    broker = _broker(4)

    async def handle_batch(batch: Batch) -> None:
        batch.messages[1].fail("no")

    async def handle_failed(messages: list[Message]) -> None:
        raise OSError("the alarm is broken, too")

    stages = Stages(
        **_in(stage, odd_ones_fail, handle_batch, size=4),
        handle_failed=handle_failed,
        on_failure=Skip(),
    )
    with pytest.RaisesGroup(OSError):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert broker.committed("t", 0) == 1


@pytest.mark.parametrize("stage", ["message", "batch"])
@pytest.mark.parametrize("raises", [False, True])
async def test_one_that_is_cut_off_at_a_revokes_deadline_leaves_the_message_to_the_next_owner(
    autojump_clock: trio.testing.MockClock, stage: str, raises: bool
) -> None:
    broker = _broker(1)
    handled: list[float] = []

    async def handle(message: Message) -> None:
        handled.append(round(trio.current_time()))
        message.fail("no")

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            await handle(message)

    async def handle_failed(messages: list[Message]) -> None:
        if len(handled) == 1:
            try:
                await trio.sleep_forever()
            finally:
                if raises:
                    raise OSError("the connection is gone")

    stages = Stages(
        **_in(stage, handle, handle_batch, size=1),
        handle_failed=handle_failed,
        on_failure=Skip(),
    )
    client = broker.client()
    async with open_pipeline(client=client, topics=["t"], stages=stages, revoke_timeout=4):
        await trio.sleep(5)
        broker.rebalance(client)
        await trio.sleep(3.9)
        assert broker.committed("t", 0) is None
        await broker.wait_committed("t", 0, 1)
    assert handled == [0, 9]


async def test_what_failed_in_a_batch_that_resisted_its_revoke_is_settled_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(4, partitions=2)
    failed: list[tuple[int, int]] = []
    starts = 0

    async def handle_batch(batch: Batch) -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(12)
        for message in batch:
            message.fail("no")

    async def handle_failed(messages: list[Message]) -> None:
        await trio.sleep(1)
        failed.extend((message.partition, message.offset) for message in messages)

    stages = Stages(
        batchers={"default": Batcher(handle_batch=handle_batch, size=4)},
        handle_failed=handle_failed,
        on_failure=Skip(),
    )
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, revoke_timeout=4
    ) as first:
        await trio.sleep(5)
        async with open_pipeline(client=broker.client(), topics=["t"], stages=Stages()):
            await trio.sleep(5)
            (kept,) = [p.partition for p in first.statistics().partitions]
            with trio.fail_after(30):
                await broker.wait_committed("t", kept, 2)
    assert failed == [(kept, 0), (kept, 1)]


@pytest.mark.parametrize("raises", [False, True])
async def test_one_that_is_cancelled_with_the_pipeline_acknowledges_nothing(
    autojump_clock: trio.testing.MockClock, raises: bool
) -> None:
    broker = _broker(2)

    async def handle_failed(messages: list[Message]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if raises:
                raise OSError("the connection is gone")

    stages = Stages(
        handle_message=odd_ones_fail, handle_failed=handle_failed, on_failure=Skip()
    )
    with trio.move_on_after(3) as scope:
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert broker.committed("t", 0) == 1


async def test_what_no_lane_and_no_weight_can_be_found_for_comes_here_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"1", b"x", b"3")
    failed: list[int] = []

    async def handle(message: Message) -> None: ...

    async def handle_batch(batch: Batch) -> None: ...

    async def handle_failed(messages: list[Message]) -> None:
        await trio.sleep(1)
        failed.extend(message.offset for message in messages)

    def number(message: Message) -> int:
        return int(message.data)

    heavy = Batcher(handle_batch=handle_batch, weigh=number)
    for stages in (
        Stages(
            handle_message=handle,
            ordering=number,
            handle_failed=handle_failed,
            on_failure=Skip(),
        ),
        Stages(batchers={"default": heavy}, handle_failed=handle_failed, on_failure=Skip()),
    ):
        client = broker.client(group=f"group {len(failed)}")
        async with open_pipeline(client=client, topics=["t"], stages=stages) as pipeline:
            await pipeline.wait_caught_up()
    assert failed == [1, 1]


async def test_a_returned_value_stops_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2)

    async def handle_failed(messages: list[Message]) -> Any:
        return messages

    stages = Stages(
        handle_message=odd_ones_fail, handle_failed=handle_failed, on_failure=Skip()
    )
    with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match="handle_failed returned a list")):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()


def test_one_that_is_not_async_is_refused() -> None:
    with pytest.raises(ConfigError, match="handle_failed must be an async function"):
        Stages(handle_message=odd_ones_fail, handle_failed=print)  # type: ignore[arg-type]
