"""Ctrl-C wherever it comes: the main task gets it, and what is finished is committed."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, RateLimit, Stages, open_pipeline
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient
from trio_broadway_kafka.testing._scheduler import seeded_scheduler


def _commits_what_is_finished(interrupt_now: Callable[[], object]) -> None:
    """Run a pipeline that handles 5 messages, then let a Ctrl-C come somewhere inside it."""
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    async def main() -> None:
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=handle),
            commit_interval=math.inf,
        ) as pipeline:
            await pipeline.wait_caught_up()
            assert handled == [0, 1, 2, 3, 4]
            interrupt_now()
            broker.produce("t", b"v")
            await trio.sleep_forever()

    clock = trio.testing.MockClock(autojump_threshold=0)
    with pytest.RaisesGroup(KeyboardInterrupt):
        trio.run(main, clock=clock)
    assert broker.committed("t", 0) == len(handled) >= 5


def test_ctrl_c_while_the_acknowledger_runs_loses_none_of_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add = PartitionOffsets.add

    def add_and_interrupt(self: PartitionOffsets, segment: object) -> None:
        monkeypatch.undo()
        add(self, segment)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    _commits_what_is_finished(
        lambda: monkeypatch.setattr(PartitionOffsets, "add", add_and_interrupt)
    )


def test_ctrl_c_while_the_client_runs_loses_none_of_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poll = FakeClient._poll

    async def poll_and_interrupt(self: FakeClient) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        await poll(self)

    _commits_what_is_finished(
        lambda: monkeypatch.setattr(FakeClient, "_poll", poll_and_interrupt)
    )


class InterruptAt(trio.abc.Instrument):
    """Ctrl-C comes just before a step of some task."""

    def __init__(self, step: int) -> None:
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)


def _interrupt_partitions(at: int) -> bool:
    """Run stages of two partitions, one of which is revoked; False if it ended before."""
    broker = FakeBroker(topics={"t": 2})
    handled: dict[int, set[int]] = {0: set(), 1: set()}
    entered: list[int] = []

    async def prepare(messages: list[Message]) -> None:
        await trio.sleep(0.01)

    async def handle(message: Message) -> None:
        await trio.sleep(0.01)
        handled[message.partition].add(message.offset)

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        entered.append(partition)
        try:
            await trio.sleep(0.02)
            yield Stages(handle_message=handle, prepare_messages=prepare, ordering="partition")
            await trio.sleep(0.02)
        finally:
            entered.remove(partition)

    async def main() -> None:
        client = broker.client()
        for partition in (0, 1):
            broker.produce("t", *[b"v"] * 6, partition=partition)
        async with open_pipeline(
            client=client,
            topics=["t"],
            stages=stages,
            commit_interval=0.03,
            rate_limit=RateLimit(messages=5, per=0.03),
        ):
            await trio.sleep(0.05)
            broker.rebalance(client, [("t", 0)])
            await trio.sleep(0.05)

    instrument = InterruptAt(at)
    came_out: list[BaseException] = []
    clock = trio.testing.MockClock(autojump_threshold=0)
    with seeded_scheduler(random.Random(at)):
        try:
            trio.run(main, clock=clock, instruments=[instrument])
        except KeyboardInterrupt:
            pass  # before or after the block
        except BaseExceptionGroup as group:
            came_out += group.exceptions
    assert all(isinstance(error, KeyboardInterrupt) for error in came_out)
    assert entered == []
    for commit in broker.commits:
        assert handled[commit.partition] >= set(range(commit.offset))
    return instrument.left <= 0


def test_ctrl_c_at_any_step_leaves_the_stages_of_partitions_and_comes_out_flat() -> None:
    step = 1
    while _interrupt_partitions(step):
        step += 1
    assert step > 100
