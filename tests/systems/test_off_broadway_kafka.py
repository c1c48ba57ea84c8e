"""The rows of off_broadway_kafka in its own figures: what it does, this library does."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.broker._facts import PATIENCE, Facts, owned, show, until, wait_partitions
from tests.systems._flow import open_flow
from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages, open_pipeline
from trio_broadway_kafka.testing import FakeBroker


async def test_classic_a_topic_that_the_pipeline_makes_both_records_handled_a_clean_stop(
    facts: Facts,
) -> None:
    facts.topic += "-made"
    handled: list[tuple[int, int, bytes | None]] = []

    async def handle(message: Message) -> None:
        handled.append((message.partition, message.offset, message.value))

    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=Stages(handle_message=handle),
            create_topics=True,
        ) as pipeline:
            await pipeline.wait_assigned()
            await facts.produce(0, 2)
            await pipeline.wait_caught_up()
    assert handled == [(0, 0, b"0-0"), (0, 1, b"0-1")]
    assert await facts.committed() == {0: 2}


@pytest.mark.kafka_topic(partitions=2)
async def test_per_partition_both_records_handled_each_by_its_own_pipeline(
    facts: Facts,
) -> None:
    handled: list[tuple[int, int, int]] = []
    left: list[int] = []

    @asynccontextmanager
    async def stages(topic: str, own: int) -> AsyncIterator[Stages]:
        async def handle(message: Message) -> None:
            assert message.topic == topic
            handled.append((own, message.partition, message.offset))

        yield Stages(handle_message=handle)
        left.append(own)

    for partition in (0, 1):
        await facts.produce(partition, 1)
    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka=facts.kafka, topics=[facts.topic], stages=stages
        ) as first:
            await facts.wait_committed({0: 1, 1: 1})
            assert sorted(handled) == [(0, 0, 0), (1, 1, 0)]
            # The pipelines come and go with the assignment.
            async with open_pipeline(
                kafka=facts.kafka, topics=[facts.topic], stages=stages
            ) as second:
                await wait_partitions(1, first, second)
                assert left == [*owned(second)]
                for partition in (0, 1):
                    await facts.produce(partition, 1)
                await facts.wait_committed({0: 2, 1: 2})
    assert sorted(handled) == [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)]


@pytest.mark.kafka_topic(partitions=3)
@pytest.mark.parametrize("in_batches", [False, True], ids=["messages", "batches"])
async def test_acking_events_none_lost_none_twice_as_a_second_pipeline_joins(
    facts: Facts, in_batches: bool
) -> None:
    ranges = [(10_000, 11_000), (5_000, 6_000), (20_000, 22_000)]
    produced = {partition: random.randint(*range) for partition, range in enumerate(ranges)}
    for partition, count in produced.items():
        await facts.produce(partition, count)
    handled: dict[str, list[tuple[int, int]]] = {"first": [], "second": []}

    def stages(name: str) -> Stages:
        async def handle(message: Message) -> None:
            await trio.sleep(0.001)
            if not in_batches:
                handled[name].append((message.partition, message.offset))

        async def handle_batch(batch: Batch) -> None:
            handled[name] += [(message.partition, message.offset) for message in batch]

        batcher = Batcher(handle_batch=handle_batch, size=1000, timeout=2)
        return Stages(
            handle_message=handle,
            ordering="unordered",
            concurrency=8,
            batchers={"default": batcher} if in_batches else {},
        )

    began = trio.current_time()
    with trio.fail_after(60):
        async with open_pipeline(
            kafka=facts.kafka, topics=[facts.topic], stages=stages("first")
        ):
            await trio.sleep(2)
            async with open_pipeline(
                kafka=facts.kafka, topics=[facts.topic], stages=stages("second")
            ) as second:
                await until(lambda: owned(second))
                await facts.wait_committed(produced, within=60)
                took = trio.current_time() - began
    together = handled["first"] + handled["second"]
    assert len(together) == len(set(together)), "none was handled twice"
    assert Counter(partition for partition, _ in together) == produced
    assert await facts.committed() == produced
    by_first, by_second = map(len, handled.values())
    show(f"acking_events: {by_first} + {by_second} records in {took:.1f} s")


@pytest.mark.parametrize("ordering", ["key", "unordered"])
async def test_shutdown_what_is_committed_is_the_number_that_was_handled(
    facts: Facts, ordering: str
) -> None:
    await facts.produce(0, 100_000)
    handled = 0
    enough = trio.Event()

    async def handle(message: Message) -> None:
        nonlocal handled
        if message.offset % 7 == 0:
            await trio.lowlevel.checkpoint()
        handled += 1
        if handled > 1000:
            enough.set()

    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=Stages(handle_message=handle, ordering=ordering, concurrency=8),
        ):
            await enough.wait()
            stopped_at = trio.current_time()
    took = trio.current_time() - stopped_at
    assert 1000 < handled < 100_000
    assert await facts.committed() == {0: handled}
    show(f"shutdown: {handled} handled, stopped in {took * 1000:.0f} ms")


@pytest.mark.parametrize("by_message", [True, False], ids=["by message", "whole lists"])
async def test_shutdown_with_batches_what_is_committed_is_the_number_handled_by_batches(
    facts: Facts, by_message: bool
) -> None:
    await facts.produce(0, 100_000)
    handled = 0
    enough = trio.Event()

    async def handle(message: Message) -> None: ...

    async def handle_batch(batch: Batch) -> None:
        nonlocal handled
        await trio.sleep(0.01)
        handled += len(batch)
        if handled > 1000:
            enough.set()

    stages = Stages(
        handle_message=handle if by_message else None,
        ordering="partition",
        batchers={"default": Batcher(handle_batch=handle_batch, size=1000, timeout=2)},
    )
    with trio.fail_after(PATIENCE):
        async with open_pipeline(kafka=facts.kafka, topics=[facts.topic], stages=stages):
            await enough.wait()
    assert 1000 < handled < 100_000
    assert await facts.committed() == {0: handled}


# Producer. Its demand is what the stages below have asked for and not got; ours is the number
# of processors that have nothing to do. What it keeps is the list of what arrived and was not
# demanded; ours are the messages here that nobody has taken, and what was never fetched.


async def test_producer_demand_0_and_6_arrivals_nothing_sent_6_kept(
    autojump_clock: MockClock,
) -> None:
    """All ten processors are busy. Six that came with the fetch before are kept here; six
    that come now are not even asked for: Kafka keeps them."""
    async with open_flow(concurrency=10) as flow:
        await flow.arrive(16)
        assert (len(flow.started), flow.kept) == (10, 6)
        await flow.arrive(6)
        assert (len(flow.started), flow.kept) == (10, 6)
        assert flow.asked == [64]
        assert flow.pipeline.statistics().received == 16


async def test_producer_demand_10_5_kept_and_5_new_all_10_sent_demand_0(
    autojump_clock: MockClock,
) -> None:
    """Ten processors become free at once: they take the five kept ones, ask, and take the
    five new ones; then all are busy."""
    async with open_flow(concurrency=10) as flow:
        await flow.arrive(15)
        await flow.arrive(5)
        assert (len(flow.started), flow.kept) == (10, 5)
        await flow.finish(10)
        assert flow.started == [*range(20)]
        assert (flow.busy, flow.kept) == (10, 0)
        assert flow.asked == [64, 128]


async def test_producer_demand_2_and_5_of_10_kept_7_sent_3_kept(
    autojump_clock: MockClock,
) -> None:
    """Two processors become free, and five more before the first two have taken any."""
    async with open_flow(concurrency=10) as flow:
        await flow.arrive(20)
        assert (len(flow.started), flow.kept) == (10, 10)
        flow.let_finish(2)
        await flow.finish(5)
        assert flow.started == [*range(17)]
        assert (flow.busy, flow.kept) == (10, 3)


async def test_producer_demand_8_of_5_kept_5_sent_demand_3_left(
    autojump_clock: MockClock,
) -> None:
    """Eight processors become free and five find something. The demand of the other three
    is kept: it is the open fetch, and three that arrive later are sent at once."""
    async with open_flow(concurrency=10) as flow:
        await flow.arrive(15)
        assert (len(flow.started), flow.kept) == (10, 5)
        await flow.finish(8)
        assert (len(flow.started), flow.kept, flow.busy) == (15, 0, 7)
        assert flow.asked == [64, 128]
        await flow.arrive(3)
        assert (len(flow.started), flow.kept, flow.busy) == (18, 0, 10)
        assert flow.asked == [64, 128]


# Acknowledger. It commits the last acknowledged offset where Kafka's own convention, and ours,
# is the next one to read: its 3 is our 4.


class Acknowledged:
    """A pipeline that was sent 1..100, each acknowledged when the test says so."""

    def __init__(self) -> None:
        self.broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
        self.broker.gap("t", 0, 1)
        self.broker.produce("t", *[b"v"] * 100)
        self._acknowledged: defaultdict[int, trio.Event] = defaultdict(trio.Event)
        self._failing: set[int] = set()

    async def _handle(self, message: Message) -> None:
        await self._acknowledged[message.offset].wait()
        if message.offset in self._failing:
            message.fail("as it is told")

    @asynccontextmanager
    async def known(self) -> AsyncIterator[None]:
        stages = Stages(
            handle_message=self._handle,
            ordering="unordered",
            concurrency=100,
            on_failure=Skip(),
        )
        async with open_pipeline(
            client=self.broker.client(),
            topics=["t"],
            stages=stages,
            commit_interval=0,
            drain_timeout=0,
        ):
            await wait_all_tasks_blocked()
            yield

    async def ack(self, succeeded: Iterable[int], failed: Iterable[int] = ()) -> None:
        self._failing.update(failed)
        for offset in (*succeeded, *self._failing):
            self._acknowledged[offset].set()
        await wait_all_tasks_blocked()

    @property
    def commits(self) -> list[int]:
        return [commit.offset for commit in self.broker.commits]


async def test_acknowledger_ack_1_commits_1(autojump_clock: MockClock) -> None:
    sent = Acknowledged()
    async with sent.known():
        assert sent.commits == []
        await sent.ack([1])
        assert sent.commits == [2]
    assert sent.commits == [2]


async def test_acknowledger_ack_3_alone_moves_nothing(autojump_clock: MockClock) -> None:
    """Theirs commits nothing; ours the first offset, whose metadata tell of 3."""
    sent = Acknowledged()
    async with sent.known():
        await sent.ack([3])
        assert sent.commits == [1]
    assert sent.commits == [1]


async def test_acknowledger_ack_1_to_3_is_one_commit_of_3(autojump_clock: MockClock) -> None:
    sent = Acknowledged()
    async with sent.known():
        await sent.ack([3, 1, 2])
        assert sent.commits == [4]


async def test_acknowledger_1_to_27_ok_and_28_to_41_failed_is_one_commit_of_41(
    autojump_clock: MockClock,
) -> None:
    sent = Acknowledged()
    async with sent.known():
        await sent.ack(range(1, 28), failed=range(28, 42))
        assert sent.commits == [42]


# Its faults, which are not ours.


async def test_fault_a_compaction_gap_does_not_stall_the_acknowledger(
    autojump_clock: MockClock,
) -> None:
    async with open_flow(concurrency=10) as flow:
        await flow.arrive(3)
        flow.broker.gap("t", 0, 1000)
        await flow.arrive(2)
        await flow.finish(5)
        assert flow.started == [0, 1, 2, 1003, 1004]
        await flow.pipeline.commit()
        assert flow.broker.committed("t", 0) == 1005


async def test_fault_a_revoke_does_not_wait_without_limit(autojump_clock: MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"w")
    started: list[tuple[str, int, float]] = []

    def stages(name: str) -> Stages:
        async def handle(message: Message) -> None:
            started.append((name, message.offset, trio.current_time()))
            if name == "first" and message.offset == 1:
                await trio.sleep_forever()

        return Stages(handle_message=handle, ordering="partition")

    first, second = broker.client(), broker.client()
    async with (
        open_pipeline(client=first, topics=["t"], stages=stages("first"), revoke_timeout=5),
        open_pipeline(client=second, topics=["t"], stages=stages("second")),
    ):
        await trio.sleep(1)
        broker.rebalance(first, to=second)
        await broker.wait_committed("t", 0, 2)
    assert started == [("first", 0, 0.0), ("first", 1, 0.0), ("second", 1, 6.0)]


async def test_fault_one_pipeline_per_partition_waits_on_revoke_for_what_has_started(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"w")
    done: list[tuple[str, int, float]] = []

    def stages(name: str) -> Stages:
        async def handle(message: Message) -> None:
            await trio.sleep(4)
            done.append((name, message.offset, trio.current_time()))

        return Stages(handle_message=handle, ordering="partition")

    first, second = broker.client(), broker.client()
    async with (
        open_pipeline(
            client=first, topics=["t"], stages=lambda topic, partition: stages("first")
        ),
        open_pipeline(
            client=second, topics=["t"], stages=lambda topic, partition: stages("second")
        ),
    ):
        await trio.sleep(1)
        broker.rebalance(first, to=second)
        await broker.wait_committed("t", 0, 2)
    assert done == [("first", 0, 4.0), ("second", 1, 8.0)]


async def test_fault_the_list_of_what_is_kept_is_bounded_whatever_the_backlog(
    autojump_clock: MockClock,
) -> None:
    async with open_flow(concurrency=10, max_in_flight=12) as flow:
        await flow.arrive(10_000)
        for _ in range(100):
            assert flow.busy == 10
            assert flow.kept <= 2
            await flow.finish(1)
        assert len(flow.started) == 110
        assert flow.pipeline.statistics().received <= 112
