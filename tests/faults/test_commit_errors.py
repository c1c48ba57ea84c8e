"""Case 18: what a broker may answer to a commit."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator

import pytest
import trio

from tests.broker._facts import Facts, Log
from tests.faults._ledger import settle
from tests.faults._mock import OFFSET_COMMIT, MockCluster
from trio_broadway_kafka import KafkaFailure, Message, Stages, open_pipeline
from trio_broadway_kafka._kafka._admin import Admin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Code: its number, how often it is answered, and how many records may be handled again.
COORDINATORS = {
    "COORDINATOR_LOAD_IN_PROGRESS": (14, 3, 0),
    "COORDINATOR_NOT_AVAILABLE": (15, 3, 0),
    "NOT_COORDINATOR": (16, 3, 0),
    "UNKNOWN_MEMBER_ID": (25, 1, 100),
}
BY_PROTOCOL = {
    # The first of these makes librdkafka join anew: what was not committed is handled again.
    "classic": {
        **COORDINATORS,
        "ILLEGAL_GENERATION": (22, 3, 300),
        "REBALANCE_IN_PROGRESS": (27, 3, 0),
    },
    # Its brokers' only word for both.
    "consumer": {**COORDINATORS, "STALE_MEMBER_EPOCH": (113, 3, 0)},
}
SLOW = {"UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION"}  # the mock takes its time to let them in
FOR_GOOD = {
    "INVALID_COMMIT_OFFSET_SIZE": 28,
    "TOPIC_AUTHORIZATION_FAILED": 29,
    "GROUP_AUTHORIZATION_FAILED": 30,
}
RECORDS = 100
TEST_TIMEOUT = 40.0


@pytest.fixture
def mock() -> MockCluster:
    return MockCluster()


@pytest.fixture(params=["classic", "consumer"])
def mocked(
    request: pytest.FixtureRequest, mock: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Facts]:
    """A topic and a group of the mock's; it makes topics by itself."""
    # It does not answer the question for a topic's id.
    monkeypatch.setattr(
        Admin, "describe", lambda self, names, timeout: dict.fromkeys(names, "")
    )
    topic = f"t-{uuid.uuid4().hex[:8]}"
    facts = Facts(mock.bootstrap, topic, f"{topic}-group", request.param)
    yield facts
    facts.close()


def settings_of(facts: Facts) -> dict[str, object]:
    """The mock lets nobody in while it waits for a member that it has sent away."""
    if facts.protocol == "consumer":
        return facts.kafka
    return {**facts.kafka, "session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}


async def work(message: Message) -> None:
    await trio.sleep(0.001)


@pytest.mark.parametrize(
    ("mocked", "code"),
    [
        pytest.param(protocol, code, marks=[pytest.mark.faults] if code in SLOW else [])
        for protocol, codes in BY_PROTOCOL.items()
        for code in codes
    ],
    indirect=["mocked"],
)
async def test_what_may_pass_is_tried_again(
    mocked: Facts, mock: MockCluster, code: str
) -> None:
    number, times, again = BY_PROTOCOL[mocked.protocol][code]
    log = Log()
    await mocked.produce(0, RECORDS, keys=10)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=settings_of(mocked),
            topics=[mocked.topic],
            stages=Stages(handle_message=log.handler(work)),
            commit_interval=0.1,
        ):
            mock.answer(OFFSET_COMMIT, [number] * times)
            await mocked.wait_committed({0: RECORDS})
    settle(
        18,
        mocked.protocol,
        {0: RECORDS},
        log.places,
        faults=f"commits answered with {code}: {times}",
        at_most=again,
    )


@pytest.mark.faults
@pytest.mark.parametrize("code", FOR_GOOD)
async def test_what_is_refused_for_good_ends_the_pipeline_with_its_name(
    mocked: Facts, mock: MockCluster, code: str
) -> None:
    log = Log()
    await mocked.produce(0, RECORDS, keys=10)
    stages = Stages(handle_message=log.handler(work))
    with (
        trio.fail_after(TEST_TIMEOUT),
        pytest.RaisesGroup(
            pytest.RaisesExc(KafkaFailure, check=lambda error: error.code == code)
        ),
    ):
        async with open_pipeline(
            kafka=settings_of(mocked), topics=[mocked.topic], stages=stages, commit_interval=0.1
        ):
            mock.answer(OFFSET_COMMIT, [FOR_GOOD[code]] * 2)
            await trio.sleep_forever()
    assert await mocked.committed() == {}
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=settings_of(mocked), topics=[mocked.topic], stages=stages
        ):
            await mocked.wait_committed({0: RECORDS})
    settle(
        18,
        mocked.protocol,
        {0: RECORDS},
        log.places,
        faults=f"commits answered with {code}: 2",
        at_most=RECORDS,
    )
