"""A pipeline whose handlers end when the test says so, and what it asks Kafka for."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from trio_broadway_kafka import Message, Pipeline, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker

__all__ = ["Flow", "open_flow"]


class Flow:
    """What goes up and down in a pipeline over one partition.

    Attributes:
        asked: the number of messages of each fetch that was asked for.
        started: the offsets of the messages that a handler was called with.
    """

    def __init__(self) -> None:
        self.broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
        self.client = self.broker.client()
        self.asked: list[int] = []
        self.started: list[int] = []
        self.pipeline: Pipeline
        self._turns = trio.Semaphore(0)
        self._fetch = self.client.fetch
        self.client.fetch = self.fetch  # type: ignore[method-assign]

    def fetch(self, count: int) -> None:
        self.asked.append(count)
        self._fetch(count)

    async def handle(self, message: Message) -> None:
        self.started.append(message.offset)
        await self._turns.acquire()

    async def arrive(self, count: int) -> None:
        """Let messages arrive, and everything happen that follows from it."""
        self.broker.produce("t", *[b"v"] * count, partition=0)
        await wait_all_tasks_blocked()

    async def finish(self, count: int) -> None:
        """Let so many handlers return, and everything happen that follows from it."""
        self.let_finish(count)
        await wait_all_tasks_blocked()

    def let_finish(self, count: int) -> None:
        for _ in range(count):
            self._turns.release()

    @property
    def kept(self) -> int:
        """Messages here that nobody has taken."""
        return self.pipeline.statistics().queued

    @property
    def busy(self) -> int:
        return self.pipeline.statistics().busy


@asynccontextmanager
async def open_flow(*, concurrency: int, max_in_flight: int = 10_000) -> AsyncIterator[Flow]:
    """Open such a pipeline, and wait until it is at rest."""
    flow = Flow()
    async with open_pipeline(
        client=flow.client,
        topics=["t"],
        stages=Stages(
            handle_message=flow.handle, ordering="unordered", concurrency=concurrency
        ),
        max_in_flight=max_in_flight,
        commit_interval=math.inf,
        drain_timeout=0,
    ) as flow.pipeline:
        await wait_all_tasks_blocked()
        yield flow
