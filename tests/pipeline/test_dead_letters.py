"""DeadLetter: the message goes to another topic, and is acknowledged once it is there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    DeadLetter,
    DeadLetterFailed,
    Message,
    Output,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient


def broker_with(messages: int) -> FakeBroker:
    broker = FakeBroker(topics={"t": 1, "dead": 1})
    for index in range(messages):
        broker.produce(
            "t", b"v%d" % index, key=b"k", headers=[("trace", b"7")], timestamp=1000 + index
        )
    return broker


def opened(broker: FakeBroker, *, client: FakeClient | None = None, **options: Any) -> Any:
    pipeline: dict[str, Any] = {"commit_interval": 0}
    for name in ("output", "close_timeout"):
        if name in options:
            pipeline[name] = options.pop(name)
    return open_pipeline(
        client=client or broker.client(), topics=["t"], stages=Stages(**options), **pipeline
    )


async def odd_ones_fail(message: Message) -> None:
    if message.offset % 2:
        raise LookupError(f"{message.offset} is odd")


async def all_fail(message: Message) -> None:
    raise LookupError


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_it_has_all_of_the_message_and_says_where_from_and_why(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(2)
    policy = Retry(attempts=3, wait_jitter=0, then=DeadLetter("dead"))
    async with opened(
        broker, handle_message=odd_ones_fail, on_failure=policy, ordering=ordering
    ) as pipeline:
        await broker.wait_committed("t", 0, 2)
        figures = pipeline.statistics()
    assert (figures.succeeded, figures.dead_lettered, figures.skipped) == (1, 1, 0)
    (letter,) = broker.records("dead")
    assert (letter.key(), letter.value()) == (b"k", b"v1")
    assert letter.headers() == [
        ("trace", b"7"),
        ("dead_letter.topic", b"t"),
        ("dead_letter.partition", b"0"),
        ("dead_letter.offset", b"1"),
        ("dead_letter.timestamp", b"1001"),
        ("dead_letter.exception_type", b"LookupError"),
        ("dead_letter.exception_message", b"1 is odd"),
        ("dead_letter.attempts", b"3"),
    ]


async def test_it_is_acknowledged_after_the_delivery(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(1)
    broker.delay("produce", 5)
    async with opened(broker, handle_message=all_fail, on_failure=DeadLetter("dead")):
        await trio.sleep(4.9)
        assert broker.committed("t", 0) is None
        await broker.wait_committed("t", 0, 1)
        assert trio.current_time() == pytest.approx(5, abs=0.2)


async def test_while_its_topic_is_away_nothing_is_committed_past_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(4)
    policy = DeadLetter("later")
    async with opened(broker, handle_message=odd_ones_fail, on_failure=policy):
        await trio.sleep(20)
        assert broker.committed("t", 0) == 1
        broker.create_topic("later")
        await broker.wait_committed("t", 0, 4)
    assert [letter.value() for letter in broker.records("later")] == [b"v1", b"v3"]


async def test_one_that_can_not_be_delivered_ends_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)
    with pytest.RaisesGroup(
        pytest.RaisesExc(DeadLetterFailed, match=r"the dead letter of t/0@1: .*'missing'")
    ):
        async with opened(
            broker,
            handle_message=odd_ones_fail,
            on_failure=DeadLetter("missing"),
            output=Output(delivery_timeout=7),
        ):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(7, abs=0.2)
    assert broker.committed("t", 0) == 1


async def test_handle_failed_comes_first_and_may_produce_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(1)

    async def handle_failed(messages: list[Message]) -> None:
        for message in messages:
            message.produce("dead", value=b"told", headers=[("for", b"the team")])

    async with opened(
        broker,
        handle_message=all_fail,
        handle_failed=handle_failed,
        on_failure=DeadLetter("dead"),
    ):
        await broker.wait_committed("t", 0, 1)
    assert [letter.value() for letter in broker.records("dead")] == [b"told", b"v0"]


async def test_messages_of_a_batch(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with(4)

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            if message.offset % 2:
                message.fail("odd")

    batcher = Batcher(handle_batch=handle_batch, size=4, on_failure=DeadLetter("dead"))
    async with opened(broker, batchers={"default": batcher}) as pipeline:
        await broker.wait_committed("t", 0, 4)
        assert pipeline.statistics().dead_lettered == 2
    assert [letter.value() for letter in broker.records("dead")] == [b"v1", b"v3"]


async def test_too_many_in_a_row_are_the_next_policys(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(6)

    async def handle(message: Message) -> None:
        if message.offset != 2:
            raise LookupError

    policy = DeadLetter("dead", max_consecutive=2, then=Skip())
    async with opened(
        broker, handle_message=handle, on_failure=policy, ordering="partition"
    ) as pipeline:
        await broker.wait_committed("t", 0, 6)
        assert pipeline.statistics().skipped == 1
    values = [letter.value() for letter in broker.records("dead")]
    assert values == [b"v0", b"v1", b"v3", b"v4"]


async def test_an_earlier_failure_is_told_no_longer_but_how_often_it_was_sent_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1, "dead": 1})
    old = [("dead_letter.topic", b"older"), ("dead_letter.replays", b"2"), ("trace", b"7")]
    broker.produce("t", b"v", headers=old, timestamp=0)
    async with opened(broker, handle_message=all_fail, on_failure=DeadLetter("dead")):
        await broker.wait_committed("t", 0, 1)
    (letter,) = broker.records("dead")
    headers = letter.headers() or []
    assert headers[:3] == [
        ("dead_letter.replays", b"2"),
        ("trace", b"7"),
        ("dead_letter.topic", b"t"),
    ]


async def test_the_topic_itself_is_no_place_for_its_dead_letters(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(1)
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="'t', where its dead letter")):
        async with opened(broker, handle_message=all_fail, on_failure=DeadLetter("t")):
            await trio.sleep_forever()


async def test_in_a_transaction_it_leaves_with_the_offset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)
    output = Output(transactional_id="one", transaction_interval=3)
    async with opened(
        broker, handle_message=odd_ones_fail, on_failure=DeadLetter("dead"), output=output
    ):
        await trio.sleep(2)
        assert broker.records("dead") == []
        await broker.wait_committed("t", 0, 2)
    assert [letter.value() for letter in broker.records("dead")] == [b"v1"]


async def test_an_exception_whose_text_can_not_be_had(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise LookupError

    async def handle(message: Message) -> None:
        raise Odd

    broker = broker_with(1)
    async with opened(broker, handle_message=handle, on_failure=DeadLetter("dead")):
        await broker.wait_committed("t", 0, 1)
    (letter,) = broker.records("dead")
    assert dict(letter.headers() or [])["dead_letter.exception_message"] == b""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"topic": ""}, "topic must be the dead-letter topic's name, not ''"),
        ({"topic": None}, "topic must be the dead-letter topic's name, not None"),
        ({"topic": "dead", "max_consecutive": 0}, "max_consecutive must be a whole number"),
        ({"topic": "dead", "max_consecutive": math.nan}, "max_consecutive must be a whole"),
        ({"topic": "dead", "then": None}, "then must be a policy"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        DeadLetter(**options)
    assert complaint in str(raised.value)
