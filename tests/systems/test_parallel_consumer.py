"""The rows of Confluent's parallel-consumer that are here: orders, concurrency, figures."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Hashable

import pytest
import trio
from trio.testing import MockClock

from trio_broadway_kafka import Message, Retry, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker

# Its table: 10,000 records in one partition, 100 at once, 0 to 5 ms of work each.
RECORDS = 10_000
AT_ONCE = 100


@pytest.mark.parametrize(("ordering", "at_once"), [("unordered", 16), ("key", 16)])
@pytest.mark.parametrize("partitions", [1, 4])
async def test_16_at_once_or_more_regardless_of_the_number_of_partitions(
    autojump_clock: MockClock, ordering: str, at_once: int, partitions: int
) -> None:
    broker = FakeBroker(topics={"t": partitions})
    for index in range(64):
        broker.produce("t", b"v", key=b"%d" % index, partition=index % partitions)
    started: list[float] = []

    async def handle(message: Message) -> None:
        started.append(trio.current_time())
        await trio.sleep(1)

    stages = Stages(handle_message=handle, ordering=ordering)  # type: ignore[arg-type]
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_caught_up()
    assert started == [float(index // at_once) for index in range(64)]


@pytest.mark.parametrize("ordering", ["unordered", "partition", "key"])
async def test_each_order_holds_one_after_another_what_it_says_and_nothing_else(
    autojump_clock: MockClock, ordering: str
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for index in range(20):
        broker.produce("t", b"v", key=b"%d" % (index // 2 % 5), partition=index % 2)
    lanes: defaultdict[Hashable, list[int]] = defaultdict(list)
    took = 0.0

    def lane(message: Message) -> Hashable:
        of = {
            "unordered": (message.partition, message.offset),
            "partition": message.partition,
            "key": (message.partition, message.key),
        }
        return of[ordering]

    async def handle(message: Message) -> None:
        nonlocal took
        lanes[lane(message)].append(message.offset)
        await trio.sleep(1)
        took = trio.current_time()

    stages = Stages(handle_message=handle, ordering=ordering, concurrency=20)  # type: ignore[arg-type]
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_caught_up()
    # As long as the longest lane: one of 20, ten of 2, or two of 10.
    assert took == max(map(len, lanes.values()))
    assert all(offsets == sorted(offsets) for offsets in lanes.values())
    assert len(lanes) == {"unordered": 20, "partition": 2, "key": 10}[ordering]


@pytest.mark.parametrize(
    ("ordering", "keys"),
    [("partition", 1000), ("key", 1), ("key", 10), ("key", 1000), ("unordered", 1000)],
)
async def test_published_table_takes_no_longer_than_the_order_must(
    autojump_clock: MockClock, ordering: str, keys: int
) -> None:
    """Nobody can beat the longest lane, nor all work by 100 at once. On a clock that counts
    the work only, we need no more. Theirs, with all that a machine adds, were 22.2 s, 26.7,
    3.3, 2.06 and 2.83; benchmarks/slow_handlers.py has ours."""
    pick = random.Random(1)
    work = [pick.randrange(6) / 1000 for _ in range(RECORDS)]
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    lanes: defaultdict[int, float] = defaultdict(float)
    for index in range(RECORDS):
        broker.produce("t", b"v", key=b"%d" % (index % keys), partition=0)
        lane = {"partition": 0, "key": index % keys, "unordered": index}[ordering]
        lanes[lane] += work[index]
    least = max(sum(work) / AT_ONCE, *lanes.values())
    took = 0.0

    async def handle(message: Message) -> None:
        nonlocal took
        await trio.sleep(work[message.offset])
        took = trio.current_time()

    stages = Stages(handle_message=handle, ordering=ordering, concurrency=AT_ONCE)  # type: ignore[arg-type]
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_caught_up()
    assert least - 1e-6 < took < 1.02 * least


async def test_metrics_in_flight_waiting_highest_finished_and_highest_contiguous(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 40, key=b"k")

    async def handle(message: Message) -> None:
        if message.offset in (3, 7) or message.offset >= 20:
            await trio.sleep_forever()

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered", concurrency=10),
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(5)
        now = pipeline.statistics()
    (partition,) = now.partitions
    assert (now.busy, now.queued) == (10, 12)  # in flight there, and waiting
    assert (now.in_flight, partition.in_flight) == (22, 22)  # incomplete
    assert partition.committed == 3  # highest contiguous
    assert partition.highest_finished == 19
    assert (partition.position, partition.end, partition.lag) == (40, 40, 37)
    assert partition.oldest_unacked_s == 5


async def test_a_restart_repeats_only_what_had_not_finished(autojump_clock: MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 1_000)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)
        if message.offset % 100 == 7 and trio.current_time() < 5:
            await trio.sleep_forever()

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=20)
    for _ in range(2):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=stages, drain_timeout=0
        ):
            await trio.sleep(5)
    assert handled[1_000:] == [*range(7, 1_000, 100)]
    assert broker.committed("t", 0) == 1_000
    # Theirs are at most 4,096 characters, ours one less: librdkafka adds a NUL.
    assert max(len(commit.metadata) for commit in broker.commits) <= 4_095


async def test_a_retry_with_a_delay_does_not_hold_up_other_keys(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    for number in range(100):
        broker.produce("t", b"v", key=b"%d" % (number % 10))
    done: dict[int, float] = {}

    async def handle(message: Message) -> None:
        if message.key == b"3" and message.attempt == 1:
            raise LookupError
        done[message.offset] = trio.current_time()

    policy = Retry(wait_initial=60, wait_max=60, wait_jitter=0)
    stages = Stages(handle_message=handle, on_failure=policy, concurrency=1)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_caught_up()
    assert {offset for offset, time in done.items() if time < 1} == {
        offset for offset in range(100) if offset % 10 != 3
    }
    assert [done[offset] for offset in range(3, 100, 10)] == [
        60.0 * (number + 1) for number in range(10)
    ]
