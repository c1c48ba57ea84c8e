"""Ctrl-C wherever it comes: the main task gets it, and what is finished is committed."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, Stages, open_pipeline
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient


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
