"""A batcher's workers, at a pace that no real clock lets one see."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from tests._records import arrive
from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages
from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._connect import make_lanes
from trio_broadway_kafka._model._offsets import PartitionOffsets


async def test_a_batch_whose_failures_are_cancelled_lets_no_other_start() -> None:
    sizes: list[int] = []

    async def handle_batch(batch: Batch) -> None:
        sizes.append(len(batch))
        batch.messages[0].fail("no")

    async def handle_failed(messages: list[Message]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("the connection is gone")

    stages = Stages(
        batchers={"default": Batcher(handle_batch=handle_batch, size=10)},
        handle_failed=handle_failed,
        on_failure=Skip(),
    )
    lanes = make_lanes(stages, share=1000)
    assignment = Assignment(
        stages,
        lanes,
        want=lambda: None,
        finished=None,
        clock=lambda: 0.0,  # a checkpoint is never due, which would be cancelled
    )
    state = PartitionOffsets("t", 0, 1)
    assignment.add([state])
    async with trio.open_nursery() as nursery:
        assignment.start(nursery)
        assignment.received([arrive(state, range(20), lanes)])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sizes == [10]
    assert state.prefix() is None
