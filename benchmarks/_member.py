"""One pipeline over the backlog, with handlers that do nothing."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

import trio
from _backlog import Meter, consumer_settings, report

from trio_broadway_kafka import Batch, Batcher, Message, Stages, open_pipeline
from trio_broadway_kafka.dashboard import open_dashboard
from trio_broadway_kafka.instruments.prometheus import PrometheusInstrument


async def handle(message: Message) -> None: ...


async def handle_raw_values(batch: Batch) -> None:
    batch.raw_values()


async def handle_messages(batch: Batch) -> None:
    for _ in batch:
        pass


def stages(variant: str) -> Stages:
    """An ordering with a handler that does nothing, or batches of 1,000 that are read."""
    match variant:
        case "batches":
            return Stages(
                batchers={"default": Batcher(handle_batch=handle_raw_values, size=1000)}
            )
        case "batches_of_messages":
            return Stages(
                batchers={"default": Batcher(handle_batch=handle_messages, size=1000)}
            )
    return Stages(handle_message=handle, ordering=variant, concurrency=10)  # type: ignore[arg-type]


async def main(bootstrap: str, topic: str, count: int, variant: str) -> None:
    variant, _, watched = variant.partition("+")
    async with AsyncExitStack() as stack:
        pipeline = await stack.enter_async_context(
            open_pipeline(
                kafka=consumer_settings(bootstrap, variant),
                topics=[topic],
                stages=stages(variant),
                instruments=[PrometheusInstrument()] if watched else [],
            )
        )
        if watched:
            await stack.enter_async_context(open_dashboard(pipeline, port=0))
        await pipeline.wait_assigned()
        meter = Meter()
        await pipeline.wait_caught_up()
        result = meter.stop(variant, count)
        assert pipeline.statistics().succeeded == count
    report(result)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
