"""What is wrong is said at once: what, where, and what to do. Nothing is lost or committed."""

from __future__ import annotations

from datetime import datetime

import pytest
import trio
import trio.testing

from trio_broadway_kafka import ConfigError, KafkaFailure, Message, Skip, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker


async def _nothing(message: Message) -> None: ...


def _options(**changes: object) -> dict[str, object]:
    options: dict[str, object] = {
        "kafka": {"bootstrap.servers": "127.0.0.1:1", "group.id": "g"},
        "topics": ["t"],
        "stages": Stages(handle_message=_nothing),
    }
    return {**options, **changes}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kafka": {"bootstrap.servers": "127.0.0.1:1"}}, "group.id"),
        ({"kafka": None}, "kafka is missing"),
        (
            {"kafka": {"group.id": "g", "enable.auto.commit": True}},
            "enable.auto.commit",
        ),
        (
            {"kafka": {"group.id": "g", "bootstrap.servers": "x", "sesion.timeout.ms": 1}},
            "sesion.timeout.ms",
        ),
        ({"topics": "t"}, r"topics=\['t'\]"),
        ({"topics": []}, "topics is empty"),
        ({"topics": [""]}, "not a topic's name"),
        ({"start_from": "newest"}, "start_from must be 'committed'"),
        ({"start_from": datetime(2026, 1, 1)}, "no time zone"),
        ({"max_in_flight": 0}, "max_in_flight must be a whole number of 1 or more"),
        ({"max_in_flight_bytes": 1.5}, "max_in_flight_bytes"),
        ({"commit_interval": -1}, "commit_interval must be seconds of 0 or more"),
        ({"revoke_timeout": float("inf")}, "revoke_timeout must be finite"),
        ({"revoke_timeout": 400}, "max.poll.interval.ms"),
        ({"close_timeout": float("nan")}, "close_timeout"),
        ({"stages": _nothing}, "stages must be a Stages"),
        ({"client": FakeBroker().client()}, "either kafka or client"),
    ],
)
async def test_a_wrong_option_is_a_config_error_that_names_it(
    changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        async with open_pipeline(**_options(**changes)):  # type: ignore[arg-type]
            pytest.fail("it opened")


def test_a_handler_that_is_not_async_is_refused() -> None:
    def handle(message: Message) -> None: ...

    with pytest.raises(
        ConfigError, match=r"handle_message must be an async function.*async def"
    ):
        Stages(handle_message=handle)  # type: ignore[arg-type]


async def test_a_handler_that_returns_a_value_stops_the_pipeline_even_under_skip(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"secret", b"w")

    async def handle(message: Message) -> bytes | None:
        return message.value

    with pytest.RaisesGroup(
        pytest.RaisesExc(
            TypeError, match="handle_message returned a bytes; it must return None"
        )
    ) as caught:
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=handle, on_failure=Skip()),  # type: ignore[arg-type]
        ):
            await trio.sleep_forever()
    (error,) = caught.value.exceptions
    assert error.__notes__ == ["for <Message t/0@0>"]
    assert broker.commits == []


async def test_an_unknown_topic_ends_the_opening_and_is_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="missing")) as caught:
        async with open_pipeline(
            client=broker.client(),
            topics=["t", "missing"],
            stages=Stages(handle_message=_nothing),
        ):
            pytest.fail("it opened")
    (failure,) = caught.value.exceptions
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "UNKNOWN_TOPIC_OR_PART"


async def test_no_broker_ends_the_opening_at_open_timeout_and_names_the_address(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.stop()
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="fake:9092")):
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=_nothing),
            open_timeout=7,
        ):
            pytest.fail("it opened")
    assert trio.current_time() == pytest.approx(7)


async def test_opening_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.stop()
    with trio.move_on_after(2) as scope:
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=_nothing)
        ):
            pytest.fail("it opened")
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(2)


async def test_a_topic_without_keys_under_key_order_is_warned_of_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker(topics={"t": 2, "keyed": 1})
    broker.produce("t", *[b"v"] * 10)
    broker.produce("keyed", *[b"v"] * 10, key=b"k")
    async with open_pipeline(
        client=broker.client(),
        topics=["t", "keyed"],
        stages=Stages(handle_message=_nothing),
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
    (record,) = caplog.records
    assert "the messages of t have no keys" in record.getMessage()
