"""What users and topics may hold, on a real Kafka: bad input, transactions, a stuck handler."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
import trio

from tests.broker._facts import PATIENCE, Facts, Log, until
from trio_broadway_kafka import (
    ConfigError,
    KafkaFailure,
    Message,
    Skip,
    Stages,
    open_pipeline,
)


async def _nothing(message: Message) -> None: ...


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Bad input: what was wrong, where, and what to do. Each says it within this time.
SOON = 2.0


@contextlib.asynccontextmanager
async def _nothing_comes_of_it(facts: Facts, *, within: float = SOON) -> Any:
    await facts.produce(0, 10)
    began = trio.current_time()
    yield
    assert trio.current_time() - began < within
    assert await facts.committed() == {}
    assert await facts.members() == []


@pytest.mark.parametrize(
    ("without", "more", "says"),
    [
        pytest.param("group.id", {}, r'kafka\["group\.id"\] is missing', id="no group"),
        pytest.param(
            None,
            {"enable.auto.commit": True},
            r"kafka\['enable\.auto\.commit'\] is set by this library: only offsets of finished",
            id="owned",
        ),
        pytest.param(
            None,
            {"auto.commit.interval.ms": 100},
            r"kafka\['auto\.commit\.interval\.ms'\].*give commit_interval instead",
            id="owned, with an option instead",
        ),
        pytest.param(
            None,
            {"max.pol.interval.ms": 60_000},
            r"kafka\['max\.pol\.interval\.ms'\].*did you mean 'max\.poll\.interval\.ms'\?",
            id="misspelt",
        ),
    ],
)
async def test_a_wrong_key_is_a_config_error_that_names_it(
    facts: Facts, without: str | None, more: dict[str, object], says: str
) -> None:
    kafka = {**{k: v for k, v in facts.kafka.items() if k != without}, **more}
    async with _nothing_comes_of_it(facts):
        with pytest.raises(ConfigError, match=says):
            async with open_pipeline(
                kafka=kafka, topics=[facts.topic], stages=Stages(handle_message=_nothing)
            ):
                pytest.fail("it opened")


async def test_a_session_timeout_that_a_protocol_has_no_use_for_is_named(
    facts: Facts,
) -> None:
    kafka = {**facts.kafka, "group.protocol": "consumer", "session.timeout.ms": 10_000}
    async with _nothing_comes_of_it(facts):
        with pytest.raises(ConfigError, match=r"session\.timeout\.ms"):
            async with open_pipeline(
                kafka=kafka, topics=[facts.topic], stages=Stages(handle_message=_nothing)
            ):
                pytest.fail("it opened")


async def test_an_unknown_start_from_is_a_config_error_that_names_it(facts: Facts) -> None:
    async with _nothing_comes_of_it(facts):
        with pytest.raises(
            ConfigError, match=r"start_from must be .*'committed'.*not 'newest'"
        ):
            async with open_pipeline(
                kafka=facts.kafka,
                topics=[facts.topic],
                stages=Stages(handle_message=_nothing),
                start_from="newest",  # type: ignore[arg-type]
            ):
                pytest.fail("it opened")


def test_a_handler_that_is_not_async_is_refused_before_there_is_a_pipeline() -> None:
    def handle(message: Message) -> None: ...

    with pytest.raises(ConfigError, match=r"handle_message must be an async function.*def'"):
        Stages(handle_message=handle)  # type: ignore[arg-type]


async def test_a_handler_that_returns_a_value_stops_the_pipeline(facts: Facts) -> None:
    async def handle(message: Message) -> bytes | None:
        return message.value

    says = r"(?s)handle_message returned a bytes; it must return None.*/0@0"
    async with _nothing_comes_of_it(facts, within=5):
        with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match=says)) as caught:
            async with open_pipeline(
                kafka=facts.kafka,
                topics=[facts.topic],
                stages=Stages(handle_message=handle, on_failure=Skip()),  # type: ignore[arg-type]
            ):
                await trio.sleep(PATIENCE)
        assert "0-0" not in "".join(map(str, caught.value.exceptions)), "no payload"


async def test_an_unknown_topic_is_named_and_what_to_do(facts: Facts) -> None:
    says = rf"no topic '{facts.topic}-x' at {facts.bootstrap}: .*create_topics=True"
    async with _nothing_comes_of_it(facts):
        with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match=says)) as caught:
            async with open_pipeline(
                kafka=facts.kafka,
                topics=[facts.topic, f"{facts.topic}-x"],
                stages=Stages(handle_message=_nothing),
            ):
                pytest.fail("it opened")
    [failure] = caught.value.exceptions
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "UNKNOWN_TOPIC_OR_PART"
    assert not failure.retriable


async def test_no_broker_at_the_address_is_told_at_open_timeout(facts: Facts) -> None:
    address = f"127.0.0.1:{_closed_port()}"
    says = rf"no broker answered at {address} within open_timeout=2 s.*bootstrap\.servers"
    async with _nothing_comes_of_it(facts, within=3.5):
        began = trio.current_time()
        with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match=says)) as caught:
            async with open_pipeline(
                kafka={**facts.kafka, "bootstrap.servers": address},
                topics=[facts.topic],
                stages=Stages(handle_message=_nothing),
                open_timeout=2,
            ):
                pytest.fail("it opened")
        assert trio.current_time() - began >= 1.9
    [failure] = caught.value.exceptions
    assert isinstance(failure, KafkaFailure)
    assert failure.retriable


# Bounds.


@pytest.mark.kafka_topic(partitions=10)
@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_beside_a_handler_that_never_returns_nine_partitions_reach_lag_0(
    facts: Facts, ordering: str
) -> None:
    await facts.produce(0, 3_000, keys=1)
    log = Log()
    most = 0

    async def work(message: Message) -> None:
        if message.partition == 0 and message.offset == 100:
            await trio.sleep_forever()  # with three times max_in_flight behind it
        if message.offset % 50 == 0:
            nonlocal most
            most = max(most, pipeline.statistics().in_flight)
            await trio.sleep(0.001)

    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=Stages(handle_message=log.handler(work), ordering=ordering),  # type: ignore[arg-type]
            max_in_flight=1000,
            commit_interval=0.1,
            drain_timeout=0,
        ) as pipeline:
            await until(lambda: ("", 0, 100) in log.started)
            for partition in range(1, 10):
                await facts.produce(partition, 2_000, keys=100)
            await facts.wait_committed({**await facts.ends(10), 0: 100})
            # The pipeline shows the same, once the answer to its commit has come.
            await until(
                lambda: (
                    {p.partition for p in pipeline.statistics().partitions if p.lag == 0}
                    == {*range(1, 10)}
                )
            )
    assert 100 < most <= 1000
    assert log.cancelled == [("", 0, 100)]
