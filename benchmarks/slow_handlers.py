"""Handlers that wait: how near the pipeline comes to trio's own floor.

    python benchmarks/slow_handlers.py [--bootstrap HOST:PORT] [--rounds N]

Two tables. The floor of each is the same handler run by plain trio tasks that share one
iterator, in the same process, in turn with the pipeline:

- a handler of ``trio.sleep(0.01)``, 1,000 at once;
- 10,000 records in one partition, 1,000 keys, 100 at once, 0 to 5 ms each, in key order.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from statistics import median

import trio
from _backlog import consumer_settings, local_or, make_backlog

from trio_broadway_kafka import Message, Stages, open_pipeline


async def floor(
    items: Iterable[int], handle: Callable[[int], Awaitable[None]], tasks: int
) -> float:
    shared = iter(items)

    async def work() -> None:
        for item in shared:
            await handle(item)

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return time.perf_counter() - started


async def through_the_pipeline(
    bootstrap: str,
    topic: str,
    count: int,
    sleep: Callable[[int], float],
    stages: dict[str, object],
) -> float:
    started: float | None = None
    left = count
    ended = 0.0
    done = trio.Event()

    async def handle(message: Message) -> None:
        nonlocal started, left, ended
        if started is None:
            started = time.perf_counter()
        await trio.sleep(sleep(message.offset))
        left -= 1
        if not left:
            ended = time.perf_counter()
            done.set()

    async with open_pipeline(
        kafka=consumer_settings(bootstrap, "slow"),
        topics=[topic],
        stages=Stages(handle_message=handle, **stages),  # type: ignore[arg-type]
    ):
        await done.wait()
    assert started is not None
    return ended - started


async def compare(
    title: str,
    bootstrap: str,
    topic: str,
    count: int,
    sleep: Callable[[int], float],
    rounds: int,
    **stages: object,
) -> None:
    async def handle(item: int) -> None:
        await trio.sleep(sleep(item))

    floors, ours = [], []
    for _ in range(rounds):
        floors.append(await floor(range(count), handle, int(str(stages["concurrency"]))))
        ours.append(await through_the_pipeline(bootstrap, topic, count, sleep, stages))
    ratio = median(mine / least for mine, least in zip(ours, floors, strict=True))
    print(f"{title}\n  trio's floor {median(floors):.3f} s ({count / median(floors):,.0f}/s)")
    print(f"  pipeline     {median(ours):.3f} s ({count / median(ours):,.0f}/s)")
    print(
        f"  time ratio   {ratio:.2f}, share of the floor's rate {1 / ratio:.2f}\n", flush=True
    )


async def main(bootstrap: str, rounds: int) -> None:
    await compare(
        "sleep(0.01), 1,000 at once, 100,000 records, unordered:",
        bootstrap,
        "slow-100000",
        100_000,
        lambda _: 0.01,
        rounds,
        concurrency=1000,
        ordering="unordered",
    )
    pick = random.Random(1)
    durations = [pick.uniform(0, 0.005) for _ in range(10_000)]
    await compare(
        "0-5 ms, 100 at once, 10,000 records in one partition, 1,000 keys, key order:",
        bootstrap,
        "slow-10000-keys",
        10_000,
        lambda item: durations[item],
        rounds,
        concurrency=100,
        ordering="key",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with local_or(options.bootstrap) as address:
        make_backlog(address, "slow-100000", 100_000)
        make_backlog(address, "slow-10000-keys", 10_000, partitions=1, keys=1000)
        trio.run(main, address, options.rounds)
