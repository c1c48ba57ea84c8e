"""Memory over a long backlog: resident MiB while 3M records pass.

    python benchmarks/memory.py [--bootstrap HOST:PORT] [--messages N]

The pipeline is in a process of its own, so that what the producer used is not seen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import trio
from _backlog import consumer_settings, local_or, make_backlog, resident

from trio_broadway_kafka import Message, Stages, open_pipeline


async def member(bootstrap: str, topic: str, count: int) -> None:
    step = count // 15
    handled = 0

    async def handle(message: Message) -> None:
        nonlocal handled
        handled += 1
        if not handled % step:
            print(f"{handled:>10,} records  {resident():>6.0f} MiB", flush=True)
        if not handled % 5000:
            await trio.sleep(0.001)  # slower than Kafka: librdkafka's queues fill up

    async with open_pipeline(
        kafka=consumer_settings(bootstrap, "memory"),
        topics=[topic],
        stages=Stages(handle_message=handle, concurrency=10),
    ) as pipeline:
        await pipeline.wait_caught_up()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--messages", type=int, default=3_000_000)
    parser.add_argument("--member", help=argparse.SUPPRESS)
    options = parser.parse_args()
    topic = f"bench-{options.messages}"
    if options.member:
        trio.run(member, options.member, topic, options.messages)
        return
    with local_or(options.bootstrap) as bootstrap:
        print(f"{options.messages:,} records of 100 bytes …", flush=True)
        make_backlog(bootstrap, topic, options.messages)
        subprocess.run(
            [
                sys.executable,
                str(Path(__file__)),
                f"--member={bootstrap}",
                f"--messages={options.messages}",
            ],
            check=True,
        )


if __name__ == "__main__":
    main()
