"""A message that waits to be tried again is tried now, or for the last time, when asked."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Batch, Batcher, Message, Retry, Skip, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker


class Handler:
    """Fails each time for offset 0."""

    def __init__(self) -> None:
        self.attempts: list[tuple[int, float]] = []

    async def handle(self, message: Message) -> None:
        if message.offset == 0:
            self.attempts.append((message.attempt, round(trio.current_time())))
            raise LookupError

    async def handle_batch(self, batch: Batch) -> None:
        for message in batch:
            try:
                await self.handle(message)
            except LookupError as error:
                message.fail(error)


SLOW = Retry(attempts=10, wait_initial=1000, wait_max=1000, wait_jitter=0, then=Skip())


def stages_of(kind: str, handler: Handler) -> Stages:
    if kind == "batch":
        batcher = Batcher(handle_batch=handler.handle_batch, size=2)
        return Stages(batchers={"default": batcher}, on_failure=SLOW)
    return Stages(handle_message=handler.handle, ordering=kind, on_failure=SLOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["key", "partition", "unordered", "batch"])
async def test_it_is_tried_at_once(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"v", key=b"k")
    handler = Handler()
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages_of(kind, handler), drain_timeout=0
    ) as pipeline:
        await trio.sleep(10)
        blocker = pipeline.blocker("t", 0)
        assert blocker is not None
        assert (blocker.offset, blocker.doing, blocker.attempt) == (0, "retrying", 2)
        assert pipeline.retry_now("t", 0, 0)
        await trio.sleep(10)
        assert handler.attempts == [(1, 0), (2, 10)]
        assert not pipeline.retry_now("t", 0, 1)
        assert not pipeline.retry_now("t", 7, 0)


@pytest.mark.parametrize("kind", ["key", "partition", "unordered", "batch"])
async def test_given_up_it_is_tried_once_more_and_settled_by_then(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"v", key=b"k")
    handler = Handler()
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages_of(kind, handler)
    ) as pipeline:
        await trio.sleep(10)
        assert pipeline.give_up("t", 0, 0)
        await pipeline.wait_caught_up()
        assert pipeline.statistics().skipped == 1
        assert [attempt for attempt, _ in handler.attempts] == [1, 2]
        assert trio.current_time() < 20
        assert not pipeline.give_up("t", 0, 0)


async def test_where_the_pipeline_would_end_it_goes_on_being_tried(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    handler = Handler()
    policy = Retry(attempts=10, wait_initial=100, wait_max=100, wait_jitter=0)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handler.handle, on_failure=policy),
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(10)
        assert pipeline.give_up("t", 0, 0)
        await trio.sleep(150)
        assert [attempt for attempt, _ in handler.attempts] == [1, 2, 3]
