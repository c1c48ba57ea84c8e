"""`run_pipeline`: the first signal drains, the second cancels."""

from __future__ import annotations

import inspect
import signal
from typing import get_type_hints

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, Stages, open_pipeline, run_pipeline
from trio_broadway_kafka._run import PipelineArguments
from trio_broadway_kafka.testing import FakeBroker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_drains(
    autojump_clock: trio.testing.MockClock, number: signal.Signals
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 10)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        if message.offset == 2:
            signal.raise_signal(number)
        await trio.sleep(5)
        handled.append(message.offset)

    await run_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="partition"),
    )
    assert handled == [0, 1, 2]
    assert broker.committed("t", 0) == 3
    assert 15 <= trio.current_time() <= 15.3


async def test_the_second_signal_cancels_and_commits_what_is_finished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 10)

    async def handle(message: Message) -> None:
        await trio.sleep(1)
        if message.offset == 2:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(1)
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()

    await run_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="partition"),
    )
    assert broker.committed("t", 0) == 2
    assert 4 <= trio.current_time() <= 4.3


async def test_other_signals_can_be_chosen_and_a_failure_comes_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")

    async def handle(message: Message) -> None:
        raise LookupError("the handler's")

    with pytest.RaisesGroup(LookupError):
        await run_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=handle),
            drain_signals=[signal.SIGUSR1],
        )


async def test_a_signal_while_opening_ends_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.stop()

    async def handle(message: Message) -> None: ...

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: run_pipeline(
                client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
            )
        )
        await trio.sleep(3)
        signal.raise_signal(signal.SIGINT)
    assert trio.current_time() == pytest.approx(3)


def test_it_takes_what_open_pipeline_takes() -> None:
    given = set(inspect.signature(open_pipeline).parameters)
    assert set(get_type_hints(PipelineArguments)) == given


async def test_without_signals_it_runs_until_it_is_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    await run_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(), drain_signals=(), stop_at="end"
    )
    assert broker.committed("t", 0) == 1
