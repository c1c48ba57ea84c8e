"""`Pipeline.topology`: what a pipeline consists of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing

from tests._diary import Diary
from trio_broadway_kafka import (
    Batch,
    Batcher,
    BatcherTopology,
    Message,
    Stages,
    StagesTopology,
    Topology,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker


async def save(store: str, message: Message) -> None: ...


async def prepare(messages: list[Message]) -> None: ...


class Uploads:
    async def upload(self, batch: Batch) -> None: ...

    async def __call__(self, messages: list[Message]) -> None: ...


def by_customer(message: Message) -> bytes | None:
    return message.key


STAGES = Stages(
    prepare_messages=prepare,
    handle_message=partial(save, "postgres://user:password@host"),
    handle_failed=Uploads(),
    batchers={
        "big": Batcher(
            handle_batch=Uploads().upload, size=2.5, weigh=lambda message: 1.0, concurrency=3
        ),
        "small": Batcher(handle_batch=Uploads().upload, timeout=7),
    },
    ordering=by_customer,
    concurrency=5,
)
AS_TOLD = StagesTopology(
    topic=None,
    partition=None,
    prepare_messages="prepare",
    handle_message="save",
    handle_failed="Uploads",
    ordering="by_customer",
    concurrency=5,
    batchers=(
        BatcherTopology(
            name="big",
            handle_batch="Uploads.upload",
            size=2.5,
            weighs=True,
            timeout=1.0,
            concurrency=3,
        ),
        BatcherTopology(
            name="small",
            handle_batch="Uploads.upload",
            size=100,
            weighs=False,
            timeout=7,
            concurrency=1,
        ),
    ),
)


async def test_it_tells_the_stages_over_all_partitions_whether_or_not_they_are_watched(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for instruments in ([], [Diary()]):
        async with open_pipeline(
            client=FakeBroker(topics={"t": 2}).client(),
            topics=["t", "^more"],
            name="orders",
            stages=STAGES,
            instruments=instruments,
        ) as pipeline:
            assert pipeline.topology() == Topology(
                name="orders",
                group=None,
                topics=("t", "^more"),
                state="open",
                per_partition=False,
                stages=(AS_TOLD,),
            )
            assert "password" not in repr(pipeline.topology())


async def test_it_tells_the_stages_of_each_partition_once_they_are_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 11})
    client = broker.client()

    async def handle(message: Message) -> None: ...

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        await trio.sleep(5 if partition == 3 else 0)
        yield Stages(handle_message=handle, ordering="unordered", concurrency=partition + 1)

    def told() -> list[tuple[str | None, int | None, int]]:
        topology = pipeline.topology()
        assert topology.per_partition
        return [(s.topic, s.partition, s.concurrency) for s in topology.stages]

    async with open_pipeline(client=client, topics=["t"], stages=stages) as pipeline:
        await trio.sleep(1)
        assert told() == [("t", number, number + 1) for number in range(11) if number != 3]
        await trio.sleep(5)
        assert told() == [("t", number, number + 1) for number in range(11)]
        broker.rebalance(client, [("t", 10)], to=client)
        broker.lose(client, [("t", 3)])
        await trio.sleep(1)
        assert len(told()) == 10  # 3 is being entered again
    assert pipeline.topology().per_partition


async def test_its_state_goes_from_opening_to_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    broker.delay("open", 2)

    async def handle(message: Message) -> None:
        await trio.sleep(10)

    opening = open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
    )
    pipeline = opening.pipeline  # type: ignore[attr-defined]
    states = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def use() -> None:
            async with opening:
                await trio.sleep(3)
                await pipeline.drain()
                await trio.sleep(3)

        for moment in (1, 3, 7, 13):
            await trio.sleep_until(moment)
            states.append(pipeline.topology().state)
    states.append(pipeline.topology().state)
    assert states == ["opening", "open", "draining", "drained", "closed"]


async def test_the_group_is_the_one_in_the_settings() -> None:
    async def handle(message: Message) -> None: ...

    opening = open_pipeline(
        kafka={"bootstrap.servers": "127.0.0.1:1", "group.id": "billing"},
        topics=["t"],
        stages=Stages(handle_message=handle),
    )
    topology = opening.pipeline.topology()  # type: ignore[attr-defined]
    assert (topology.name, topology.group, topology.state) == ("billing", "billing", "opening")
