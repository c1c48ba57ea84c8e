"""One pipeline over the backlog, with a handler that does nothing."""

from __future__ import annotations

import sys

import trio
from _backlog import Meter, consumer_settings, report

from trio_broadway_kafka import Message, Stages, open_pipeline


async def handle(message: Message) -> None: ...


async def main(bootstrap: str, topic: str, count: int, ordering: str) -> None:
    async with open_pipeline(
        kafka=consumer_settings(bootstrap, ordering),
        topics=[topic],
        stages=Stages(handle_message=handle, ordering=ordering, concurrency=10),  # type: ignore[arg-type]
    ) as pipeline:
        await pipeline.wait_assigned()
        meter = Meter()
        await pipeline.wait_caught_up()
        result = meter.stop(ordering, count)
        assert pipeline.statistics().succeeded == count
    report(result)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
