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

TRIED_AGAIN = {
    "COORDINATOR_LOAD_IN_PROGRESS": 14,
    "COORDINATOR_NOT_AVAILABLE": 15,
    "NOT_COORDINATOR": 16,
}
BY_PROTOCOL = {
    # The first of these makes librdkafka join anew: what was not committed is handled again.
    "classic": {**TRIED_AGAIN, "ILLEGAL_GENERATION": 22, "REBALANCE_IN_PROGRESS": 27},
    # Its brokers' only word for both.
    "consumer": {**TRIED_AGAIN, "STALE_MEMBER_EPOCH": 113},
}
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
        pytest.param(
            protocol, code, marks=[pytest.mark.faults] if code == "ILLEGAL_GENERATION" else []
        )
        for protocol, codes in BY_PROTOCOL.items()
        for code in codes
    ],
    indirect=["mocked"],
)
async def test_what_may_pass_is_tried_again(
    mocked: Facts, mock: MockCluster, code: str
) -> None:
    log = Log()
    await mocked.produce(0, RECORDS, keys=10)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=settings_of(mocked),
            topics=[mocked.topic],
            stages=Stages(handle_message=log.handler(work)),
            commit_interval=0.1,
        ):
            mock.answer(OFFSET_COMMIT, [BY_PROTOCOL[mocked.protocol][code]] * 3)
            await mocked.wait_committed({0: RECORDS})
    settle(
        18,
        mocked.protocol,
        {0: RECORDS},
        [(partition, offset) for _, partition, offset in log.finished],
        faults=f"commits answered with {code}: 3",
        at_most=3 * RECORDS if code == "ILLEGAL_GENERATION" else 0,
    )


@pytest.mark.faults  # the mock takes its time
async def test_who_is_no_member_any_more_joins_again_and_begins_at_what_is_committed(
    mocked: Facts, mock: MockCluster
) -> None:
    log = Log()
    await mocked.produce(0, RECORDS, keys=10)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=settings_of(mocked),
            topics=[mocked.topic],
            stages=Stages(handle_message=log.handler(work)),
            commit_interval=0.1,
        ):
            mock.answer(OFFSET_COMMIT, [25])
            await mocked.wait_committed({0: RECORDS})
    settle(
        18,
        mocked.protocol,
        {0: RECORDS},
        [(partition, offset) for _, partition, offset in log.finished],
        faults="commits answered with UNKNOWN_MEMBER_ID: 1",
        at_most=RECORDS,
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
        [(partition, offset) for _, partition, offset in log.finished],
        faults=f"commits answered with {code}: 2",
        at_most=RECORDS,
    )
