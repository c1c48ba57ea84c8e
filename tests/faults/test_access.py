"""Case 27: who is not let in is told why, at once, and nothing of the secrets is shown."""

from __future__ import annotations

import logging
import time

import pytest
import trio
from confluent_kafka.admin import AclOperation, ResourceType

from tests.broker._facts import Log, until
from tests.faults._secure import PASSWORD, Secure, SecureBroker
from trio_broadway_kafka import KafkaFailure, Message, Stages, open_pipeline

RECORDS = 200
TEST_TIMEOUT = 60.0


async def nothing(message: Message) -> None: ...


async def refused(secure: Secure, **changed: object) -> tuple[KafkaFailure, float]:
    """Open, which must fail. Returns the error, and the seconds that it took."""
    began = trio.current_time()
    with trio.fail_after(TEST_TIMEOUT), pytest.RaisesGroup(KafkaFailure) as caught:
        async with open_pipeline(
            kafka=secure.settings(**changed),
            topics=[secure.topic],
            stages=Stages(handle_message=nothing),
            open_timeout=30,
        ):
            pytest.fail("it was let in")
    [error] = caught.value.exceptions
    return error, trio.current_time() - began


async def test_tls_a_password_and_permissions_let_in_who_has_them(secure: Secure) -> None:
    await secure.produce(0, RECORDS)
    log = Log()
    kafka = secure.settings()
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=kafka,
            topics=[secure.topic],
            stages=Stages(handle_message=log.handler(nothing)),
            commit_interval=0.1,
        ) as pipeline:
            assert PASSWORD not in repr(pipeline)
            await secure.wait_committed({0: RECORDS})
    assert log.offsets(0) == list(range(RECORDS))
    secure.tell("27", f"{RECORDS} records by TLS, SASL and ACLs, lost 0")


@pytest.mark.parametrize("what", ["certificate", "host name", "password", "user"])
async def test_who_is_not_let_in_is_told_why_within_seconds(
    secure: Secure, secure_broker: SecureBroker, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    changed: dict[str, object] = {
        "certificate": {"ssl_ca_location": str(secure_broker.stranger)},
        "host name": {"bootstrap_servers": f"127.0.0.1:{secure_broker.port}"},
        "password": {"sasl_password": PASSWORD[::-1]},
        "user": {"sasl_username": "mallory"},
    }[what]
    words = {
        "certificate": "certificate verify failed",
        "host name": "certificate verify failed",
        "password": "Authentication failed",
        "user": "Authentication failed",
    }[what]
    cpu = time.process_time()
    with caplog.at_level(logging.INFO):
        error, took = await refused(secure, **changed)
    cpu = time.process_time() - cpu
    assert error.code == ("_SSL" if "verify" in words else "_AUTHENTICATION")
    assert words in str(error)
    assert str(secure_broker.port) in str(error), "which broker"
    assert took < 5
    assert cpu < 2, "it does not spin"
    told = caplog.text + str(error) + repr(error)
    assert PASSWORD not in told
    assert PASSWORD[::-1] not in told
    assert len(caplog.records) < 10
    secure.tell("27", f"wrong {what}: after {took:.1f} s, {error}")


@pytest.mark.parametrize("what", ["topic", "group"])
async def test_a_permission_that_is_taken_away_while_it_runs_ends_the_pipeline(
    secure: Secure, what: str
) -> None:
    # All of them beforehand: when the pipeline ends, it cancels this block.
    await secure.produce(0, 2 * RECORDS)
    log = Log()
    times = {}
    # Without permission it can't even leave the group: its session has to end.
    kafka = {**await secure.short_session(3), **secure.settings()}

    async def work(message: Message) -> None:
        await trio.sleep(0.02)

    with trio.fail_after(TEST_TIMEOUT), pytest.RaisesGroup(KafkaFailure) as caught:
        async with open_pipeline(
            kafka=kafka,
            topics=[secure.topic],
            stages=Stages(handle_message=log.handler(work), ordering="partition"),
            commit_interval=0.1,
            max_in_flight=20,
        ):
            await until(lambda: len(log.finished) > 20)
            times["forbidden"] = trio.current_time()
            if what == "topic":
                await secure.forbid(ResourceType.TOPIC, secure.topic, AclOperation.READ)
            else:
                await secure.forbid(ResourceType.GROUP, secure.group, AclOperation.READ)
            await trio.sleep_forever()
    took = trio.current_time() - times["forbidden"]
    [error] = caught.value.exceptions
    assert error.code == f"{what.upper()}_AUTHORIZATION_FAILED"
    assert (await secure.committed()).get(0, 0) <= len(log.finished)
    # Given back, it goes on where it was.
    if what == "topic":
        await secure.permit(ResourceType.TOPIC, secure.topic, AclOperation.READ)
    else:
        await secure.permit(ResourceType.GROUP, secure.group, AclOperation.READ)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=kafka,
            topics=[secure.topic],
            stages=Stages(handle_message=log.handler(nothing)),
            commit_interval=0.1,
        ):
            await secure.wait_committed({0: 2 * RECORDS})
    handled = log.offsets(0)
    assert set(handled) == set(range(2 * RECORDS))
    secure.tell(
        "27",
        f"{2 * RECORDS} records, the permission to read the "
        f"{what} taken away: after {took:.1f} s, {error}; "
        f"{len(handled) - 2 * RECORDS} handled again, lost 0",
    )


async def test_an_output_without_permission_ends_the_pipeline_and_nothing_is_committed(
    secure: Secure,
) -> None:
    await secure.produce(0, 5)
    await secure.forbid(ResourceType.TOPIC, secure.topic, AclOperation.WRITE)

    async def handle(message: Message) -> None:
        message.produce(secure.topic, value=b"more")

    with trio.fail_after(TEST_TIMEOUT), pytest.RaisesGroup(KafkaFailure) as caught:
        async with open_pipeline(
            kafka=secure.settings(),
            topics=[secure.topic],
            stages=Stages(handle_message=handle),
        ):
            await trio.sleep_forever()
    [error] = caught.value.exceptions
    assert error.code == "TOPIC_AUTHORIZATION_FAILED"
    assert secure.topic in str(error)
    assert await secure.committed() == {}
    secure.tell("27", f"an output without permission: {error}")
