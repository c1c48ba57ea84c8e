"""A job that ends: all orders of a topic so far, added up by country, with a progress bar.

    python examples/report.py 127.0.0.1:9092 orders

Records are JSON such as {"country": "PT", "total": 12.5}. Where the job ends is fixed as it
starts: what is produced meanwhile is not in the report. It reads from the beginning each time
(``start_from``), so run one at a time: a second member would start its own share over.

Ctrl-C ends it without a report (exit code 130); an order that can't be read ends it too (exit
code 1), and says where it is.
"""

import json
import sys
from collections import Counter

import trio
from rich.console import Console
from rich.progress import Progress, TaskID
from trio_util import periodic

from trio_broadway_kafka import (
    BroadwayKafkaError,
    Message,
    Pipeline,
    PipelineStatistics,
    Stages,
    open_pipeline,
)


class BrokenOrder(Exception):
    """An order that can't be read."""


class Report:
    """What is added up. Handlers don't wait, so no lock is needed."""

    def __init__(self) -> None:
        self.orders: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()

    async def add(self, message: Message) -> None:
        try:
            order = json.loads(message.value or b"")
            country, total = order["country"], order["total"]
        except (ValueError, LookupError, TypeError):  # whose texts may show the order
            raise BrokenOrder(f"{message!r} is no order") from None
        self.orders[country] += 1
        self.totals[country] += total

    def show(self) -> None:
        for country, total in sorted(self.totals.items()):
            print(f"{country}: {total:,.2f} in {self.orders[country]:,} orders")


async def show_progress(pipeline: Pipeline, progress: Progress) -> None:
    bar = progress.add_task("reading", total=None)
    async for _ in periodic(0.1):
        show(pipeline.statistics(), progress, bar)


def show(now: PipelineStatistics, progress: Progress, bar: TaskID) -> None:
    ends = [partition.end for partition in now.partitions]
    if ends and None not in ends:  # else they are still to be learnt
        behind = sum((p.end or 0) - (p.position or 0) for p in now.partitions)
        total = now.succeeded + now.in_flight + max(behind, 0)
        progress.update(bar, total=total, completed=now.succeeded)


async def main(bootstrap: str, topic: str) -> None:
    report = Report()
    # To stderr: the report goes to stdout, and may go into a file.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        async with (
            open_pipeline(
                kafka={"bootstrap.servers": bootstrap, "group.id": f"report-{topic}"},
                topics=[topic],
                stages=Stages(handle_message=report.add, ordering="unordered"),
                start_from="earliest",
                stop_at="end",
            ) as pipeline,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(show_progress, pipeline, progress)
            await pipeline.wait_finished()
            nursery.cancel_scope.cancel()
    report.show()


if __name__ == "__main__":
    _, bootstrap, topic = sys.argv
    code: str | int | None = None
    try:
        trio.run(main, bootstrap, topic)
    except* KeyboardInterrupt:
        code = 130
    except* (BroadwayKafkaError, BrokenOrder) as group:
        code = "\n".join(str(error) for error in group.exceptions)
    sys.exit(code)
