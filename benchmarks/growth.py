"""What a message costs as there is more of something: it should stay flat.

    python benchmarks/growth.py [--bootstrap HOST:PORT] [--only AXIS ...] [--rounds N]

Each run is a process of its own over a real backlog, with a handler that does nothing, in the
order of keys if nothing else is said. Printed is the median over the rounds of the CPU that
all threads take for a message, and how much that is of what the axis's second value takes: the
first one may have little to share the beginning's cost among. Beside partitions, what a raw
`consume(1000)` loop of the client takes for them. And, in memory: what a commit costs with
messages unfinished behind its offset.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trio
import trio_util
from _backlog import (
    PARTITIONS,
    Meter,
    Result,
    consumer_settings,
    local_or,
    make_backlog,
    report,
)

from trio_broadway_kafka import Batch, Batcher, Message, Stages, open_pipeline
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment

HERE = Path(__file__).parent
AXES: dict[str, tuple[int, ...]] = {
    "records": (10_000, 100_000, 1_000_000, 10_000_000),
    "partitions": (1, 10, 100, 1_000),
    "keys": (10, 1_000, 100_000, 1_000_000),
    "processors": (10, 100, 1_000, 10_000),
    "batch keys": (10, 100, 1_000, 2_000),
}
UNFINISHED = (1, 100, 10_000, 100_000)
RECORDS = 1_000_000


@dataclass
class Backlog:
    """What is read: a topic of its own for each."""

    records: int = RECORDS
    partitions: int = PARTITIONS
    keys: int = 100_000

    @property
    def topic(self) -> str:
        return f"growth-{self.records}-{self.partitions}-{self.keys}"


def backlog_of(axis: str, value: int) -> Backlog:
    if axis in ("records", "partitions", "keys"):
        return Backlog(**{axis: value})
    return Backlog()


async def handle(message: Message) -> None: ...


async def handle_batch(batch: Batch) -> None: ...


def stages_of(axis: str, value: int) -> Stages:
    if axis == "processors":
        return Stages(handle_message=handle, ordering="key", concurrency=value)
    if axis == "batch keys":

        async def route(message: Message) -> None:
            message.batch_key = hash(message.key) % value

        batchers = {"default": Batcher(handle_batch=handle_batch, size=100)}
        return Stages(handle_message=route, batchers=batchers)
    return Stages(handle_message=handle, ordering="key", concurrency=10)


async def one(bootstrap: str, axis: str, value: int) -> None:
    """Measure a run in this process."""
    backlog = backlog_of(axis, value)
    opened_at = time.perf_counter()
    async with open_pipeline(
        kafka=consumer_settings(bootstrap, "growth"),
        topics=[backlog.topic],
        stages=stages_of(axis, value),
        # A batch of each key is open at once.
        max_in_flight=10_000 if axis != "batch keys" else 100 * value + 10_000,
    ) as pipeline:
        await pipeline.wait_assigned()
        print(f"assigned after {time.perf_counter() - opened_at:.2f} s", file=sys.stderr)
        meter = Meter()
        if axis == "batch keys":
            async for _ in trio_util.periodic(0.01):  # what is open of batches stays open
                if pipeline.statistics().received == backlog.records:
                    break
        else:
            await pipeline.wait_caught_up()
        report(meter.stop(f"{axis} {value}", backlog.records))


def run(bootstrap: str, axis: str, value: int) -> tuple[Result, str]:
    """Measure a run in a process of its own."""
    arguments = ["--bootstrap", bootstrap, "--one", axis, str(value)]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
    )
    return Result(**json.loads(done.stdout)), done.stderr.strip()


def run_raw(bootstrap: str, partitions: int) -> Result:
    """The raw loop over as many partitions, in a process of its own."""
    backlog = backlog_of("partitions", partitions)
    command = [sys.executable, str(HERE / "raw.py"), bootstrap, backlog.topic]
    done = subprocess.run(
        [*command, str(backlog.records)], check=True, capture_output=True, text=True
    )
    return Result(**json.loads(done.stdout))


def print_axis(bootstrap: str, axis: str, rounds: int) -> None:
    print(f"\n| {axis} | CPU µs a message | of the second | messages/s | MiB | |")
    print("|---|---|---|---|---|---|", flush=True)
    for value in AXES[axis]:
        backlog = backlog_of(axis, value)
        make_backlog(
            bootstrap,
            backlog.topic,
            backlog.records,
            partitions=backlog.partitions,
            keys=backlog.keys,
        )
    lines: dict[int, list[tuple[Result, str]]] = {}
    raw: dict[int, list[float]] = {}
    for _ in range(rounds):
        for value in AXES[axis]:
            lines.setdefault(value, []).append(run(bootstrap, axis, value))
            if axis == "partitions":
                raw.setdefault(value, []).append(run_raw(bootstrap, value).cpu_us)
    base = median(result.cpu_us for result, _ in lines[AXES[axis][1]])
    for value, found in lines.items():
        cpu = median(result.cpu_us for result, _ in found)
        rate = median(result.messages / result.wall for result, _ in found)
        rss = median(result.rss for result, _ in found)
        print(
            f"| {value:,} | {cpu:.2f} | {cpu / base:.2f} | {rate:,.0f} | {rss:.0f} "
            f"| {found[0][1]}{f'; raw {median(raw[value]):.2f} µs' if value in raw else ''} |",
            flush=True,
        )


def print_commits() -> None:
    """The offset that a commit has, and its map: with every other message unfinished."""
    print("\n| unfinished behind the offset | ms for the offset | ms with the map |")
    print("|---|---|---|")
    for count in UNFINISHED:
        plain, mapped = [], []
        for topic_id, spent in (("", plain), ("topic", mapped)):
            for _ in range(5):
                state, segments = arrived(2 * count + 20)
                state.ahead.topic_id = topic_id
                for offset in range(1, 2 * count, 2):
                    segments[offset // 1_000].flags[offset % 1_000] = 1
                state.next_commit()
                segments[0].flags[0] = 1
                spent.append(timed(state.next_commit))
        print(f"| {count:,} | {median(plain) * 1e3:.3f} | {median(mapped) * 1e3:.3f} |")


def arrived(count: int) -> tuple[PartitionOffsets, list[Segment]]:
    """So many messages that nobody has finished."""
    state = PartitionOffsets("t", 0, 1, 0)
    segments = []
    for first in range(0, count, 1_000):
        size = min(1_000, count - first)
        segment = Segment(state, [None] * size, first=first, last=first + size - 1)
        state.receive(segment)
        state.add(segment)
        segments.append(segment)
    return state, segments


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*AXES, "commits"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        axis, value = options.one
        trio.run(one, options.bootstrap, axis, int(value))
        return
    wanted = options.only or [*AXES, "commits"]
    if "commits" in wanted:
        print_commits()
    with local_or(options.bootstrap) as bootstrap:
        for axis in AXES:
            if axis in wanted:
                print_axis(bootstrap, axis, options.rounds)


if __name__ == "__main__":
    main()
