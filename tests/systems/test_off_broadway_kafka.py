"""The rows of off_broadway_kafka in its own figures: what it does, this library does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.broker._facts import PATIENCE, Facts, owned, show, until, wait_partitions
from trio_broadway_kafka import Batch, Batcher, Message, Stages, open_pipeline


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
