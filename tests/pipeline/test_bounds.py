"""Memory is bounded, and what is stuck does not stop the others."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker


@pytest.mark.parametrize("max_in_flight", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_no_more_than_max_in_flight_is_here_and_unfinished(
    autojump_clock: trio.testing.MockClock, max_in_flight: int, ordering: str
) -> None:
    broker = FakeBroker(topics={"t": 3})
    for index in range(600):
        broker.produce("t", b"v", key=b"%d" % (index % 50))
    highest = 0

    async def handle(message: Message) -> None:
        nonlocal highest
        await trio.sleep(0.01)
        highest = max(highest, pipeline.statistics().in_flight)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering=ordering, concurrency=20),  # type: ignore[arg-type]
        max_in_flight=max_in_flight,
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
    assert 0 < highest <= max_in_flight


async def test_bytes_in_flight_are_bounded_once_sizes_are_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v" * 10_000] * 2_000)
    highest = 0

    async def handle(message: Message) -> None:
        nonlocal highest
        await trio.sleep(0.01)
        highest = max(highest, pipeline.statistics().in_flight_bytes)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered"),
        max_in_flight_bytes=1_000_000,
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
    assert 500_000 < highest <= 1_000_000


async def test_a_message_larger_than_the_bound_passes_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v" * 1000] * 5)

    async def handle(message: Message) -> None:
        await trio.sleep(1)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        max_in_flight_bytes=10,
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
    assert broker.committed("t", 0) == 5


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
@pytest.mark.parametrize("stuck", [1, 9])
async def test_partitions_with_a_handler_that_never_returns_do_not_stop_the_others(
    autojump_clock: trio.testing.MockClock, ordering: str, stuck: int
) -> None:
    broker = FakeBroker(topics={"t": 10})
    for partition in range(10):
        broker.produce("t", *[b"v"] * 3000, key=b"k", partition=partition)

    async def handle(message: Message) -> None:
        if message.partition < stuck and message.offset == 5:
            await trio.sleep_forever()
        await trio.sleep(0.001)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering=ordering),  # type: ignore[arg-type]
        max_in_flight=1000,
        drain_timeout=0,
    ) as pipeline:
        with trio.fail_after(300):
            for partition in range(stuck, 10):
                await broker.wait_committed("t", partition, 3000)
        assert pipeline.statistics().in_flight <= 1000
    for partition in range(stuck):
        assert broker.committed("t", partition) == 5


async def test_a_stuck_key_lets_the_other_keys_of_its_partition_go_on_to_the_share(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    for index in range(1000):
        broker.produce("t", b"v", key=b"stuck" if index % 10 == 0 else b"%d" % index)
    handled: Counter[bytes | None] = Counter()
    release = trio.Event()

    async def handle(message: Message) -> None:
        if message.key == b"stuck":
            await release.wait()
        handled[message.key] += 1

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        max_in_flight=50,
    ) as pipeline:
        await trio.sleep(100)
        # The stuck one, and 49 parked behind it: the share of the only partition is all.
        assert 440 <= handled.total() <= 450
        assert pipeline.statistics().in_flight == 50
        release.set()
        await pipeline.wait_caught_up()
        assert handled[b"stuck"] == 100
        assert handled.total() == 1000
    assert broker.committed("t", 0) == 1000


async def test_what_is_finished_behind_a_stuck_message_is_bounded_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 5000, partition=partition)
    release = trio.Event()
    handled: Counter[int] = Counter()

    async def handle(message: Message) -> None:
        if message.partition == 0 and message.offset == 0:
            await release.wait()
        handled[message.partition] += 1

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered"),
        max_in_flight=100,
    ) as pipeline:
        await trio.sleep(100)
        assert handled[1] == 5000
        assert 1000 <= handled[0] <= 1600  # ten times max_in_flight, and what was under way
        release.set()
        with trio.fail_after(100):
            await pipeline.wait_caught_up()
        assert handled[0] == 5000
    assert broker.committed("t", 0) == 5000


async def test_slow_handlers_fill_up_to_the_bound_between_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 5000)
    queued: list[int] = []

    async def handle(message: Message) -> None:
        await trio.sleep(1)
        queued.append(pipeline.statistics().queued)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered", concurrency=10),
        max_in_flight=1000,
        drain_timeout=math.inf,
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
    assert trio.current_time() < 502  # 5000 messages of 1 s by 10, and never idle
    assert max(queued) > 900
    refills = sum(later > earlier + 100 for earlier, later in pairwise(queued))
    assert refills <= 12  # by half of the bound each time, not by a fetch


@pytest.mark.parametrize("interval", [0.0, 1.0, math.inf])
async def test_nothing_new_is_taken_while_a_commit_has_had_no_answer_for_5_seconds(
    autojump_clock: trio.testing.MockClock, interval: float
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 10_000)
    handled = 0

    async def handle(message: Message) -> None:
        nonlocal handled
        await trio.sleep(0.1)
        handled += 1

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered", concurrency=10),
        max_in_flight=50,
        commit_interval=interval,
    ) as pipeline:
        await trio.sleep(9.5)
        assert 900 <= handled <= 950  # 100 a second
        broker.delay("commit", math.inf)
        if interval < math.inf:
            await trio.sleep(90)
            # The commit asked for after 9.5 or 10 s has no answer; what was taken by then and
            # in the 5 s after is finished.
            assert 1450 <= handled <= 1550 + 50
            assert pipeline.statistics().in_flight == 0
            assert broker.committed("t", 0) == (900 if interval else 950)
            broker.delay("commit", 0)
            await trio.sleep(2)
            assert handled >= 1600, "it goes on at once"
        else:
            with trio.move_on_after(7):
                await pipeline.commit()
            await trio.sleep(10)
            assert handled >= 2000, "nobody waits for an answer any more"
            broker.delay("commit", 0)
    assert broker.committed("t", 0) == handled
