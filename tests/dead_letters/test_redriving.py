"""Dead letters are read back and sent back, each once, and what is left stays for later."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    ConfigError,
    DeadLetter,
    KafkaFailure,
    Message,
    Output,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka._model import _offset_map
from trio_broadway_kafka.dead_letters import Letter, Place, Redriven, Selection, read, redrive
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient

Clock = trio.testing.MockClock


class Broken(Exception):
    """What the handlers below raise of themselves."""


async def broker_with(
    *errors: type[Exception] | None, partitions: int = 1, dead_partitions: int = 1
) -> FakeBroker:
    """A broker whose topic ``t`` was handled: for each error a message is among the dead."""
    broker = FakeBroker(topics={"t": partitions, "dead": dead_partitions})
    for number, _ in enumerate(errors):
        broker.produce(
            "t",
            b"v%d" % number,
            key=b"k%d" % number,
            partition=number % partitions,
            headers=[("trace", b"%d" % number)],
            timestamp=1_700_000_000_000 + number,
        )
    await handle(broker, lambda message: errors[int((message.value or b"")[1:])])
    return broker


async def handle(
    broker: FakeBroker, error_of: Callable[[Message], type[Exception] | None]
) -> list[Message]:
    """Handle what is in ``t``. Returns what came."""
    came: list[Message] = []

    async def handle(message: Message) -> None:
        came.append(message)
        if (error := error_of(message)) is not None:
            raise error("as planned")

    stages = Stages(handle_message=handle, on_failure=DeadLetter("dead"))
    async with open_pipeline(
        client=broker.client("app"), topics=["t"], stages=stages, stop_at="end"
    ) as pipeline:
        await pipeline.wait_finished()
    return came


async def letters_of(broker: FakeBroker, **options: Any) -> list[Letter]:
    async with read("dead", client=broker.client("dead-redrive"), **options) as letters:
        return [letter async for letter in letters]


async def redriven(broker: FakeBroker, **options: Any) -> Redriven:
    return await redrive("dead", client=broker.client("dead-redrive"), **options)


def sent_back(broker: FakeBroker, after: int) -> list[bytes | None]:
    return [record.value() for record in broker.records("t")[after:]]


# Reading.


async def test_a_letter_says_what_failed_where_and_why(autojump_clock: Clock) -> None:
    broker = await broker_with(Broken, None, KeyError, partitions=2)
    first, second = await letters_of(broker)
    assert (first.topic, first.partition, first.offset) == ("dead", 0, 0)
    assert first.came_from == ("t", 0, 0)
    assert (first.key, first.value, first.headers) == (b"k0", b"v0", (("trace", b"0"),))
    assert first.exception_type == f"{__name__}.Broken"
    assert first.exception_message == "as planned"
    assert (first.attempts, first.replays, first.group) == (1, 0, None)
    assert first.produced_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert second.came_from == ("t", 0, 1)
    assert second.exception_type == "KeyError"
    assert repr(second) == "<Letter dead/0@1>"


async def test_what_others_put_there_is_read_and_says_nothing(autojump_clock: Clock) -> None:
    broker = FakeBroker(topics={"dead": 1})
    broker.produce("dead", b"v", headers=[("dead_letter.partition", b"x"), ("h", None)])
    broker.produce("dead", None, headers=[("dead_letter.timestamp", b"9" * 40)])
    first, second = await letters_of(broker)
    assert (first.came_from, first.exception_type, first.replays) == (None, None, 0)
    assert first.headers == (("h", None),)
    assert (second.value, second.produced_at) == (None, None)
    with pytest.raises(ValueError, match="does not say where it came from"):
        first.sent_back()


async def test_reading_commits_nothing_and_ends_where_the_topic_ended(
    autojump_clock: Clock,
) -> None:
    broker = await broker_with(*[Broken] * 5)
    seen: list[tuple[int, int]] = []
    async with read(
        "dead", client=broker.client("r"), progress=lambda *now: seen.append(now)
    ) as letters:
        found = []
        async for letter in letters:
            broker.produce("dead", b"later")
            found.append(letter.offset)
    assert found == [0, 1, 2, 3, 4]
    assert seen[-1] == (5, 5)
    assert broker.committed("dead", 0, "r") is None


async def test_one_letter_is_read_by_its_place_sent_back_or_not(autojump_clock: Clock) -> None:
    broker = await broker_with(*[Broken] * 9)
    await redriven(broker)
    [letter] = await letters_of(broker, place=Place(0, 4))
    assert letter.value == b"v4"
    assert await letters_of(broker, place=Place(0, 400)) == []
    assert await letters_of(broker, place=Place(7, 0)) == []


async def test_an_empty_topic_has_none(autojump_clock: Clock) -> None:
    broker = FakeBroker(topics={"dead": 3})
    assert await letters_of(broker) == []
    assert (await redriven(broker)).count == 0


async def test_a_missing_topic_is_named(autojump_clock: Clock) -> None:
    broker = FakeBroker()
    with pytest.RaisesGroup(
        pytest.RaisesExc(KafkaFailure, match="dead"), flatten_subgroups=True
    ):
        await redriven(broker, open_timeout=1)


# Redriving.


async def test_each_goes_back_as_it_was_with_one_more_replay(autojump_clock: Clock) -> None:
    broker = await broker_with(Broken, None, Broken, partitions=2)
    assert (await redriven(broker)).sent == {"t": 2}
    came = await handle(broker, lambda message: None)
    assert [(m.key, m.value) for m in came] == [(b"k0", b"v0"), (b"k2", b"v2")]
    assert list(came[0].headers) == [("trace", b"0"), ("dead_letter.replays", b"1")]


async def test_a_second_redrive_sends_nothing_and_lists_nothing(autojump_clock: Clock) -> None:
    broker = await broker_with(*[Broken] * 3)
    assert (await redriven(broker)).count == 3
    assert broker.committed("dead", 0, "dead-redrive") == 3
    again = await redriven(broker)
    assert (again.count, again.read, again.total) == (0, 0, 0)
    assert await letters_of(broker) == []


async def test_a_letter_is_acknowledged_only_once_it_is_delivered(
    autojump_clock: Clock,
) -> None:
    broker = await broker_with(Broken)
    broker.delay("produce", 5)
    with trio.move_on_after(3):
        await redriven(broker, close_timeout=1)
    assert trio.current_time() == pytest.approx(4, abs=0.5)
    assert broker.committed("dead", 0, "dead-redrive") is None
    assert len(await letters_of(broker)) == 1


async def test_a_broker_that_takes_no_map_gets_offsets_alone(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await broker_with(KeyError, Broken, Broken)
    broker.fail_next("commit", "OFFSET_METADATA_TOO_LARGE")
    assert (await redriven(broker, selection=Selection(exception_types=["Broken"]))).count == 2
    assert "offset.metadata.max.bytes" in caplog.text


async def test_what_is_not_meant_stays_for_the_next_redrive(autojump_clock: Clock) -> None:
    broker = await broker_with(KeyError, Broken, KeyError, Broken, Broken)
    result = await redriven(broker, selection=Selection(exception_types=["Broken"]))
    assert (result.count, result.not_meant) == (3, 2)
    assert sent_back(broker, 5) == [b"v1", b"v3", b"v4"]
    assert broker.committed("dead", 0, "dead-redrive") == 0
    assert [letter.value for letter in await letters_of(broker)] == [b"v0", b"v2"]
    assert (await redriven(broker)).count == 2
    assert sent_back(broker, 8) == [b"v0", b"v2"]
    assert broker.committed("dead", 0, "dead-redrive") == 5


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["Broken"], 1),
        ([f"{__name__}.*"], 1),
        (["*Error"], 2),
        (["KeyError", "Broken"], 2),
        (["broken"], 0),
        ([], 3),
    ],
)
async def test_exceptions_are_meant_by_their_full_or_last_names(
    autojump_clock: Clock, patterns: list[str], meant: int
) -> None:
    broker = await broker_with(Broken, KeyError, ValueError)
    selection = Selection(exception_types=patterns)
    assert len(await letters_of(broker, selection=selection)) == meant
    assert (await redriven(broker, selection=selection)).count == meant


async def test_letters_are_meant_by_when_they_were_sent(autojump_clock: Clock) -> None:
    broker = await broker_with(*[Broken] * 3)
    times = [letter.failed_at for letter in await letters_of(broker)]
    assert all(time is not None for time in times)
    last = max(time for time in times if time is not None)
    assert (
        await letters_of(broker, selection=Selection(since=last + timedelta(seconds=1))) == []
    )
    assert len(await letters_of(broker, selection=Selection(since=min(times)))) == 3  # type: ignore[type-var]


async def test_at_most_so_many_go(autojump_clock: Clock) -> None:
    broker = await broker_with(*[Broken] * 7)
    assert (await redriven(broker, max_count=3)).count == 3
    assert (await redriven(broker, max_count=3)).count == 3
    assert (await redriven(broker, max_count=3)).count == 1
    assert sent_back(broker, 7) == [b"v%d" % number for number in range(7)]


async def test_a_dry_run_says_what_would_go_and_changes_nothing(autojump_clock: Clock) -> None:
    broker = await broker_with(*[Broken] * 4)
    result = await redriven(broker, dry_run=True, max_count=3)
    assert result.sent == {"t": 3}
    assert sent_back(broker, 4) == []
    assert broker.committed("dead", 0, "dead-redrive") is None


async def test_what_always_fails_does_not_go_round_for_ever(autojump_clock: Clock) -> None:
    broker = await broker_with(Broken)
    for _ in range(2):
        assert (await redriven(broker, max_replays=2)).count == 1
        await handle(broker, lambda message: Broken)
    result = await redriven(broker, max_replays=2)
    assert (result.count, result.at_limit) == (0, 1)
    [letter] = await letters_of(broker)
    assert letter.replays == 2
    assert (await redriven(broker, max_replays=math.inf)).count == 1


async def test_what_says_nothing_of_where_it_came_from_is_left_and_counted(
    autojump_clock: Clock,
) -> None:
    broker = await broker_with(Broken)
    broker.produce("dead", b"foreign")
    origin = [("dead_letter.topic", b"dead"), ("dead_letter.partition", b"0")]
    broker.produce("dead", b"round", headers=[*origin, ("dead_letter.offset", b"0")])
    result = await redriven(broker)
    assert (result.count, result.without_origin) == (1, 2)


async def test_a_missing_topic_fails_after_all_else_was_acknowledged(
    autojump_clock: Clock,
) -> None:
    broker = await broker_with(Broken, Broken)
    gone = [("dead_letter.partition", b"0"), ("dead_letter.offset", b"0")]
    broker.produce("dead", b"lost", headers=[("dead_letter.topic", b"gone"), *gone])
    output = Output(delivery_timeout=2)
    with pytest.RaisesGroup(
        pytest.RaisesExc(KafkaFailure, match="gone"), flatten_subgroups=True
    ):
        await redriven(broker, output=output)
    assert sent_back(broker, 2) == [b"v0", b"v1"]
    assert [letter.value for letter in await letters_of(broker)] == [b"lost"]


@pytest.mark.parametrize("seed", range(8))
async def test_several_redrive_a_topic_together_and_each_letter_goes_once(
    autojump_clock: Clock, seed: int
) -> None:
    """Partitions move between them at random moments, in the middle of sending."""
    rng = random.Random(seed)
    broker = await broker_with(*[Broken] * 1_500, dead_partitions=4)
    broker.delay("produce", 0.3)
    clients = [broker.client("dead-redrive") for _ in range(2)]
    results: list[Redriven] = []

    async def one(client: FakeClient) -> None:
        results.append(await redrive("dead", client=client))

    async def move() -> None:
        for _ in range(12):
            await trio.sleep(rng.random())
            mine, other = rng.sample(clients, 2)
            with contextlib.suppress(ValueError):  # it is no member, or has no partition
                partitions = [("dead", rng.randrange(4))]
                broker.rebalance(mine, partitions, to=other)

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(one, client)
        nursery.start_soon(move)
    # Who has nothing left to read ends; what moves on from then on is another run's.
    rest = await redriven(broker)
    assert sum(result.count for result in results) + rest.count == 1_500
    assert sorted(sent_back(broker, 1_500)) == sorted(  # type: ignore[type-var]
        b"v%d" % number for number in range(1_500)
    )


async def test_what_others_have_is_said(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await broker_with(*[Broken] * 5)
    async with read("dead", client=broker.client("dead-redrive")) as theirs:
        assert (await anext(theirs)).offset == 0
        assert await letters_of(broker) == []
    said = "partitions of dead that others have, and that are not read here: 0"
    assert said in caplog.messages


async def test_a_cancelled_redrive_acknowledges_what_was_delivered(
    autojump_clock: Clock,
) -> None:
    broker = await broker_with(*[Broken] * 450)
    with trio.CancelScope() as scope:
        await redriven(broker, progress=lambda now: now.count >= 200 and scope.cancel())
    went = len(broker.records("t")) - 450
    assert 200 <= went < 450
    assert (await redriven(broker)).count == 450 - went
    assert len(broker.records("t")) == 900


async def test_it_ends_early_where_no_more_can_be_remembered(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second letter is left: 500 characters hold about 2,700 offsets."""
    monkeypatch.setattr(_offset_map, "MAX_LENGTH", 500)
    broker = FakeBroker(topics={"t": 1, "dead": 1})
    origin = [("dead_letter.topic", b"t"), ("dead_letter.partition", b"0")]
    for number in range(4_000):
        kind = b"A" if number % 2 else b"B"
        broker.produce(
            "dead",
            b"v",
            headers=[
                *origin,
                ("dead_letter.offset", b"0"),
                ("dead_letter.exception_type", kind),
            ],
        )
    result = await redriven(broker, selection=Selection(exception_types=["A"]))
    assert result.is_full
    assert 1_300 < result.count < 1_600
    left = await letters_of(broker)
    assert sum(letter.exception_type == "B" for letter in left) == 2_000
    assert 2_000 - result.count <= len(left) - 2_000 < 2_200 - result.count


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_count": 0}, "max_count must be a whole number of 1 or more"),
        ({"max_replays": 0}, "max_replays must be"),
        ({"output": Output(transactional_id="x")}, "no transactions"),
        ({"kafka": {}}, "either kafka or client"),
    ],
)
async def test_wrong_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        await redriven(FakeBroker(topics={"dead": 1}), **options)


async def test_a_pattern_or_nothing_to_connect_to_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a pattern"):
        await redrive("^dead", client=FakeBroker().client())
    with pytest.raises(ConfigError, match="kafka is missing"):
        await redrive("dead")
    with pytest.raises(ConfigError, match="with a time zone"):
        Selection(since=datetime(2026, 1, 1))
    with pytest.raises(ConfigError, match="several patterns"):
        Selection(exception_types="ValueError")


async def test_nothing_of_a_payload_is_logged(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await broker_with(Broken)
    broker.produce("dead", b"secret", key=b"secret")
    caplog.set_level(logging.DEBUG)
    await redriven(broker)
    assert "secret" not in caplog.text
    assert "v0" not in caplog.text
