"""What a `LoggingInstrument` logs, and that nothing is logged twice."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages, open_pipeline
from trio_broadway_kafka.instruments import LoggingInstrument
from trio_broadway_kafka.testing import FakeBroker

SECRET = b"the payload"


def broker_of(messages: int) -> FakeBroker:
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    for _ in range(messages):
        broker.produce("t", SECRET, key=SECRET, headers=[("h", SECRET)])
    return broker


async def handle(message: Message) -> None:
    await trio.sleep(1)
    if message.offset == 1:
        raise LookupError(message.value)


async def handle_batch(batch: Batch) -> None:
    await trio.sleep(0.5)


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == logger]


async def test_it_logs_a_line_for_each_event_and_none_for_a_message(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = broker_of(4)
    client = broker.client()
    stages = Stages(
        handle_message=handle,
        batchers={"default": Batcher(handle_batch=handle_batch, size=2, timeout=5)},
        ordering="partition",
        on_failure=Skip(),
    )
    async with open_pipeline(
        client=client,
        topics=["t"],
        name="orders",
        stages=stages,
        instruments=[LoggingInstrument("app.kafka")],
        commit_interval=math.inf,
    ):
        await trio.sleep(1.5)
        broker.rebalance(client)
        await trio.sleep(10)
    assert lines(caplog, "app.kafka") == [
        (
            "INFO",
            "orders: open: t; handle, 16 at once, by partition; batcher 'default': "
            "handle_batch, 2 messages or 5 s, 1 at once",
        ),
        ("INFO", "orders: assigned t/0, nothing committed"),
        ("DEBUG", "orders: received 4 messages of t/0, 0 to 3, 44 bytes"),
        (
            "DEBUG",
            "orders: handled a batch of 1 messages for 'default' (revoke) in 0.500 s, 0 failed",
        ),
        ("INFO", "orders: revoked t/0, drained in 1.00 s, 0 messages cut off"),
        ("DEBUG", "orders: committed t/0 at 2 in 0.000 s"),
        ("INFO", "orders: assigned t/0, committed up to 2"),
        ("DEBUG", "orders: received 2 messages of t/0, 2 to 3, 22 bytes"),
        (
            "DEBUG",
            "orders: handled a batch of 2 messages for 'default' (size) in 0.500 s, 0 failed",
        ),
        ("DEBUG", "orders: committed t/0 at 4 in 0.000 s"),
        (
            "INFO",
            "orders: closed after 11.5 s: 6 messages received, 3 succeeded, 1 skipped, "
            "0 started and left unfinished",
        ),
    ]
    assert SECRET.decode() not in caplog.text


async def test_it_says_what_closed_the_pipeline_but_not_with_which_words(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def closed(**options: Any) -> tuple[str, str]:
        caplog.clear()
        opened = open_pipeline(
            client=broker_of(3).client(),
            topics=["t"],
            name="orders",
            stages=Stages(handle_message=handle, ordering="partition", **options),
            instruments=[LoggingInstrument()],
        )
        with trio.move_on_after(5):
            try:
                async with opened:
                    await trio.sleep_forever()
            except* LookupError:
                pass
        return lines(caplog, "trio_broadway_kafka.instruments")[-1]

    counts = "3 messages received, {} succeeded, {} skipped, {} started and left unfinished"
    assert await closed() == (
        "WARNING",
        f"orders: closed after 2.0 s by LookupError: {counts.format(1, 0, 1)}",
    )
    assert await closed(on_failure=Skip()) == (
        "INFO",
        f"orders: closed after 5.0 s, cancelled: {counts.format(2, 1, 0)}",
    )
    assert SECRET.decode() not in caplog.text


async def test_what_the_pipeline_logs_itself_is_not_said_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = broker_of(3)
    client = broker.client()
    broker.fail_next("commit", "COORDINATOR_NOT_AVAILABLE")
    async with open_pipeline(
        client=client,
        topics=["t"],
        name="orders",
        stages=Stages(handle_message=handle, ordering="partition", on_failure=Skip()),
        instruments=[LoggingInstrument()],
    ):
        await trio.sleep(2.5)
        broker.lose(client)
        await trio.sleep(2)
    theirs = [text for _, text in lines(caplog, "trio_broadway_kafka")]
    ours = [
        text.partition(":")[2][:9]
        for _, text in lines(caplog, "trio_broadway_kafka.instruments")
    ]
    assert [text.split()[0] for text in theirs] == ["commit", "skipped", "orders:"]
    assert ours == [" open: t;", " assigned", " assigned", " closed a"]


async def test_stages_of_its_own_for_each_partition_are_said_to_be_that(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_pipeline(
        client=broker_of(0).client(),
        topics=["t", "^u.*"],
        name="orders",
        stages=lambda topic, partition: Stages(handle_message=handle),
        instruments=[LoggingInstrument(logging.getLogger("mine"))],
    ):
        await trio.sleep(1)
    assert lines(caplog, "mine")[0] == (
        "INFO",
        "orders: open: t, ^u.*; stages of its own for each partition",
    )
