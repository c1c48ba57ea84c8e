"""The rows of broadway_kafka: what its users configure, and what its acknowledger does."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.broker._facts import PATIENCE, Facts
from tests.systems._flow import open_flow
from trio_broadway_kafka import ConfigError, Message, Stages, open_pipeline
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka.testing import FakeBroker


async def nothing(message: Message) -> None: ...


async def handled_offsets(facts: Facts, reset: str, *, then_produce: int = 0) -> list[int]:
    """The offsets that a pipeline handles which starts, reads to the end, then so many more."""
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka={**facts.kafka, "auto.offset.reset": reset},
            topics=[facts.topic],
            stages=Stages(handle_message=handle),
        ) as pipeline:
            await pipeline.wait_caught_up()
            if then_produce:
                await facts.produce(0, then_produce)
                await pipeline.wait_caught_up()
    return handled


async def test_offset_reset_policy_earliest_starts_a_new_group_at_the_first_record(
    facts: Facts,
) -> None:
    await facts.produce(0, 3)
    assert await handled_offsets(facts, "earliest") == [0, 1, 2]


async def test_offset_reset_policy_latest_starts_a_new_group_at_the_end(facts: Facts) -> None:
    await facts.produce(0, 3)
    assert await handled_offsets(facts, "latest", then_produce=2) == [3, 4]
    assert await facts.committed() == {0: 5}


async def test_begin_offset_assigned_goes_on_where_the_group_is_whatever_the_reset_policy(
    facts: Facts,
) -> None:
    await facts.produce(0, 2)
    assert await handled_offsets(facts, "earliest") == [0, 1]
    await facts.produce(0, 2)
    assert await handled_offsets(facts, "latest") == [2, 3]


@pytest.mark.parametrize(("options", "interval"), [({"commit_interval": 5}, 5), ({}, 1)])
async def test_commit_interval_is_the_time_between_two_commits(
    autojump_clock: MockClock, options: dict[str, float], interval: int
) -> None:
    """``offset_commit_interval_seconds``, 5 there and 1 here unless given."""
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        **options,  # type: ignore[arg-type]
    ):
        await trio.sleep(0.25)
        for _ in range(40):
            broker.produce("t", b"v")
            await trio.sleep(0.5)
        times = [commit.time for commit in broker.commits]
    assert times == [float(second) for second in range(interval, 21, interval)]


async def test_commit_on_ack_commits_at_once_what_is_acknowledged(
    autojump_clock: MockClock,
) -> None:
    """``offset_commit_on_ack`` is a `commit_interval` of 0."""
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        commit_interval=0,
    ):
        for second in range(3):
            await trio.sleep(second - trio.current_time())
            broker.produce("t", b"v")
        await wait_all_tasks_blocked()
        assert [(c.time, c.offset) for c in broker.commits] == [(0.0, 1), (1.0, 2), (2.0, 3)]


async def test_commit_on_ack_off_commits_at_the_interval_only(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=nothing)
    ):
        broker.produce("t", *[b"v"] * 3)
        await trio.sleep(0.9)
        assert broker.commits == []
        await trio.sleep(0.2)
        assert [(c.time, c.offset) for c in broker.commits] == [(1.0, 3)]


GROUP_FETCH_AND_CLIENT = {
    "session.timeout.ms": 20_000,
    "heartbeat.interval.ms": 2_000,
    "max.poll.interval.ms": 120_000,
    "fetch.min.bytes": 2,
    "fetch.max.bytes": 1_000_000,
    "max.partition.fetch.bytes": 100_000,
    "queued.max.messages.kbytes": 4_096,
    "fetch.wait.max.ms": 50,
    "client.id": "a-client",
    "client.rack": "a-rack",
    "socket.timeout.ms": 9_000,
    "isolation.level": "read_uncommitted",
}
SASL_AND_TLS = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.username": "somebody",
    "sasl.password": "a secret",
    "enable.ssl.certificate.verification": False,
}


@pytest.mark.parametrize("settings", [GROUP_FETCH_AND_CLIENT, SASL_AND_TLS])
def test_settings_of_group_fetch_and_client_are_passed_on_untouched(
    settings: dict[str, object],
) -> None:
    given = {"bootstrap.servers": "nowhere:1", "group.id": "g", **settings}
    passed_on = ClientConfig(given).consumer
    assert {key: passed_on[key] for key in given} == given


def test_settings_that_are_wrong_are_named_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError, match=r"fetch\.max\.bites"):
        open_pipeline(
            kafka={"bootstrap.servers": "x:1", "group.id": "g", "fetch.max.bites": 1},
            topics=["t"],
            stages=Stages(),
        )


async def test_offsets_are_tracked_as_the_actual_ones_so_gaps_are_skipped(
    autojump_clock: MockClock,
) -> None:
    """Of 10, 11, 13 and 15: what comes after the last finished one is committed, not what
    would come if there were no gaps. (Before 10 is finished, it is 10 with a map.)"""
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    for gap, count in ((10, 2), (1, 1), (1, 1)):
        broker.gap("t", 0, gap)
        broker.produce("t", *[b"v"] * count)
    done = {offset: trio.Event() for offset in (10, 11, 13, 15)}

    async def handle(message: Message) -> None:
        await done[message.offset].wait()

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered"),
        commit_interval=0,
    ):
        for offset, commits in ((11, [10]), (13, [10]), (10, [10, 14]), (15, [10, 14, 16])):
            done[offset].set()
            await wait_all_tasks_blocked()
            assert [*dict.fromkeys(commit.offset for commit in broker.commits)] == commits


async def test_revoke_drops_what_waits_and_waits_for_what_is_in_flight(
    autojump_clock: MockClock,
) -> None:
    """Its flag says that nothing more is taken; ours is that nothing is left to take."""
    async with open_flow(concurrency=2) as flow:
        await flow.arrive(6)
        assert (flow.started, flow.kept) == ([0, 1], 4)
        flow.broker.rebalance(flow.client)
        await wait_all_tasks_blocked()
        assert flow.kept == 0
        await flow.finish(1)
        assert flow.started == [0, 1]  # a processor is free, and takes nothing
        assert flow.broker.committed("t", 0) is None  # nor is anything released yet
        await flow.finish(1)
        assert flow.broker.committed("t", 0) == 2
        assert flow.started == [0, 1, 2, 3]  # of the next assignment, from there on


async def test_offset_reset_policy_a_timestamp_starts_at_the_first_record_since_then(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    since = datetime(2026, 1, 1, tzinfo=UTC)
    for hours in range(-2, 3):
        at = since + timedelta(hours=hours)
        broker.produce("t", b"v", timestamp=round(at.timestamp() * 1000))
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        start_from=since,
    ) as pipeline:
        await pipeline.wait_caught_up()
    assert handled == [2, 3, 4]


async def test_begin_offset_reset_starts_at_the_policy_whatever_was_committed(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 4)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    for _ in range(2):
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=handle),
            start_from="earliest",
        ) as pipeline:
            await pipeline.wait_caught_up()
    assert handled == [0, 1, 2, 3] * 2


async def test_topics_are_changed_while_it_runs(autojump_clock: MockClock) -> None:
    broker = FakeBroker(topics={"a": 1, "b": 1, "c": 1})
    handled: list[str] = []

    async def handle(message: Message) -> None:
        handled.append(message.topic)

    async with open_pipeline(
        client=broker.client(), topics=["a", "b"], stages=Stages(handle_message=handle)
    ) as pipeline:
        for topic in "abc":
            broker.produce(topic, b"first")
        await broker.wait_committed("a", 0, 1)
        await broker.wait_committed("b", 0, 1)
        await pipeline.subscribe(["b", "c"])
        for topic in "abc":
            broker.produce(topic, b"second")
        await broker.wait_committed("b", 0, 2)
        await broker.wait_committed("c", 0, 2)
        assert pipeline.topology().topics == ("b", "c")
    assert Counter(handled) == {"a": 1, "b": 2, "c": 2}
