"""Pipelines that end by themselves, on a real Kafka."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.lowlevel
from confluent_kafka import Producer

from tests.broker._facts import Facts, Log, until
from trio_broadway_kafka import Message, Pipeline, Stages, open_pipeline, run_pipeline

TEST_TIMEOUT = 60.0


async def _nothing(message: Message) -> None: ...


def _open(
    facts: Facts, handle: Callable[[Message], Any], **options: Any
) -> AbstractAsyncContextManager[Pipeline]:
    stages = Stages(handle_message=handle, ordering="partition")
    options = {"kafka": facts.kafka, "stop_at": "end", **options}
    return open_pipeline(topics=[facts.topic], stages=stages, **options)


class Transaction:
    """One open transaction on a partition: the last stable offset lies before it."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.producer = Producer(
            {"bootstrap.servers": facts.bootstrap, "transactional.id": uuid.uuid4().hex}
        )

    async def begin(self, partition: int, count: int) -> None:
        await trio.to_thread.run_sync(self._begin, partition, count)

    async def end(self, *, commit: bool) -> None:
        await trio.to_thread.run_sync(
            self.producer.commit_transaction if commit else self.producer.abort_transaction
        )

    def _begin(self, partition: int, count: int) -> None:
        self.producer.init_transactions(30)
        self.producer.begin_transaction()
        for number in range(count):
            self.producer.produce(self.facts.topic, b"%d" % number, partition=partition)
        assert self.producer.flush(30) == 0


@pytest.mark.kafka_topic(partitions=2)
@pytest.mark.parametrize("interval", [0.5, math.inf])
async def test_it_returns_at_the_ends_as_of_the_opening(facts: Facts, interval: float) -> None:
    await facts.produce(0, 500)
    log = Log()

    async def more(message: Message) -> None:
        if message.offset == 100:
            await facts.produce(0, 10)
            await facts.produce(1, 10)

    with trio.fail_after(TEST_TIMEOUT):
        await run_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=Stages(handle_message=log.handler(more), ordering="partition"),
            stop_at="end",
            commit_interval=interval,
        )
    assert log.offsets(0) == [*range(500)]
    assert log.offsets(1) == []
    assert await facts.committed() == {0: 500}
    assert await facts.ends(2) == {0: 510, 1: 10}


@pytest.mark.kafka_topic(partitions=4)
async def test_two_members_with_a_rebalance_in_between_both_end(facts: Facts) -> None:
    for partition in range(3):  # the last one stays empty
        await facts.produce(partition, 60)
    log = Log()
    two_at_work = trio.Event()

    async def work(message: Message) -> None:
        # The first one can't end before the second one has its part.
        await trio.sleep(0.005)
        if message.offset == 20:
            await two_at_work.wait()

    async def second(message: Message) -> None:
        two_at_work.set()
        await trio.sleep(0.005)

    async def member(name: str, handle: Callable[[Message], Any]) -> None:
        async with _open(facts, log.handler(handle, member=name)) as pipeline:
            await facts.produce(0, 5)
            await pipeline.wait_finished()
        ended.append(name)

    ended: list[str] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member, "one", work)
            await until(lambda: len(log.finished) >= 40)
            nursery.start_soon(member, "two", second)
            # A revoke waits for what has started, and that waits for the second one.
            await trio.sleep(2)
            two_at_work.set()
    assert sorted(ended) == ["one", "two"]
    times = Counter((partition, offset) for _, partition, offset in log.finished)
    assert set(times.values()) == {1}
    # What came before the second one was opened was handled, what came after it was not.
    committed = await facts.committed()
    assert {n: committed[n] for n in range(3)} == {0: 65, 1: 60, 2: 60}
    assert {n: len(log.offsets(n)) for n in range(4)} == {0: 65, 1: 60, 2: 60, 3: 0}


@pytest.mark.parametrize("commit", [True, False])
async def test_control_records_and_aborted_ones_before_the_stop_do_not_hold_it_up(
    facts: Facts, commit: bool
) -> None:
    await facts.produce(0, 5)
    transaction = Transaction(facts)
    await transaction.begin(0, 3)
    await transaction.end(commit=commit)
    log = Log()
    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(_nothing)) as pipeline:
            await pipeline.wait_finished()
    assert log.offsets(0) == [*range(8 if commit else 5)]
    assert await facts.committed() == {0: 9}


async def test_an_open_transaction_lies_beyond_the_end(facts: Facts) -> None:
    await facts.produce(0, 5)
    transaction = Transaction(facts)
    await transaction.begin(0, 3)
    log = Log()

    async def work(message: Message) -> None:
        if message.offset == 2:
            await transaction.end(commit=True)

    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(work)) as pipeline:
            await pipeline.wait_finished()
    assert log.offsets(0) == [*range(5)]
    assert await facts.committed() == {0: 5}


@pytest.mark.kafka_topic(partitions=2)
async def test_a_replay_between_two_times(facts: Facts) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def produce() -> None:
        producer = Producer({"bootstrap.servers": facts.bootstrap})
        for second in range(10):
            timestamp = round(noon.timestamp() + second) * 1000
            producer.produce(facts.topic, b"v", partition=0, timestamp=timestamp)
        assert producer.flush(30) == 0

    await trio.to_thread.run_sync(produce)
    log = Log()
    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(_nothing)) as pipeline:
            await pipeline.wait_finished()
        assert await facts.committed() == {0: 10}
        async with _open(
            facts,
            log.handler(_nothing, member="replay"),
            start_from=noon + timedelta(seconds=2),
            stop_at=noon + timedelta(seconds=7),
        ) as pipeline:
            await pipeline.wait_finished()
    assert log.offsets(0, member="replay") == [*range(2, 7)]
    assert (await facts.committed())[0] == 7


async def test_a_time_to_come_is_waited_for(facts: Facts) -> None:
    log = Log()
    when = datetime.now(UTC) + timedelta(seconds=3)
    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(_nothing), stop_at=when) as pipeline:
            await facts.produce(0, 5)
            await pipeline.wait_finished()
    assert datetime.now(UTC) >= when
    assert log.offsets(0) == [*range(5)]
    assert await facts.committed() == {0: 5}
