"""When a pipeline is alive, and when it is ready: with the reason in words."""

from __future__ import annotations

import trio
import trio.testing

from tests.dashboard._client import shown, take
from trio_broadway_kafka import Message, Stages, open_pipeline
from trio_broadway_kafka.dashboard._health import health
from trio_broadway_kafka.testing import FakeBroker


def test_it_is_alive_while_its_client_is_polled() -> None:
    assert health("open", 1.0, 20.0).ok
    assert health("draining", 29.0, 20.0).ok  # a revoke polls nothing
    found = health("open", 31.0, 20.0)
    assert not found.ok
    assert found.reason == "Kafka's client was not polled for 31 s (30 at most)"
    assert not health("closed", 0.0, 20.0).ok


async def test_a_client_that_is_halted_is_not_alive() -> None:
    async with shown() as it:
        assert it.dashboard.health().ok
        it.pipeline._client.since_poll = lambda: 100.0  # type: ignore[method-assign]
        assert not it.dashboard.health().ok


async def test_it_is_not_ready_once_a_partition_with_work_stands_for_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stuck = trio.Event()

    async def handle(message: Message) -> None:
        if message.partition == 1 and message.offset == 3:
            await stuck.wait()

    stages = Stages(handle_message=handle, ordering="partition")
    async with shown(stages, stalled=30) as it:
        it.broker.produce("t", *[b"v"] * 5, partition=1)
        it.broker.produce("t", b"v", partition=0)
        await trio.sleep(25)
        assert it.dashboard.ready().ok
        await trio.sleep(10)
        found = it.dashboard.ready()
        assert not found.ok
        assert found.reason.startswith("t/1 stands at 3 for 3")
        assert found.reason.endswith("with 2 messages unfinished here and a lag of 2")
        stuck.set()
        await trio.sleep(2)
        found = it.dashboard.ready()
        assert (found.ok, found.reason) == (True, "there is nothing to do")


async def test_a_long_rest_is_no_stall_and_neither_is_a_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(5)

    async with shown(Stages(handle_message=handle), stalled=30) as it:
        await trio.sleep(1_000)
        assert it.dashboard.ready().ok
        it.broker.produce("t", b"v", partition=1)
        await trio.sleep(3)
        assert it.dashboard.ready().reason == "2 partitions move"
        it.pipeline.pause("t", 1)
        await trio.sleep(10)
        it.broker.produce("t", b"v", partition=1)
        await trio.sleep(1_000)
        found = it.dashboard.ready()
        assert (found.ok, found.reason) == (True, "there is nothing to do")


async def test_a_member_without_partitions_is_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    async with (
        shown(broker=broker) as one,
        open_pipeline(
            client=(client := broker.client()),
            topics=["t"],
            stages=Stages(handle_message=take),
        ) as other,
    ):
        broker.rebalance(one.pipeline._client, to=client)  # type: ignore[arg-type]
        await other.wait_assigned()
        found = one.dashboard.ready()
        assert found.ok
        assert found.reason == "no partition is assigned: others of the group have them"
