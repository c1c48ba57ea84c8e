"""What starting and leaving take: the import, the first message, the end.

    python benchmarks/starting.py [--bootstrap HOST:PORT] [--rounds N]

The import is measured in processes of its own, above that of trio and confluent_kafka, with
the byte code at hand; the first message from the call of `open_pipeline`, of a topic that has
one; leaving from the end of the block, with nothing to do. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

import trio
from _backlog import consumer_settings, local_or, make_backlog

from trio_broadway_kafka import Message, Stages, open_pipeline

IMPORTS = """
import time, trio, confluent_kafka
begun = time.perf_counter()
import trio_broadway_kafka
print(time.perf_counter() - begun)
"""


def importing() -> float:
    """Seconds."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


async def opening(bootstrap: str, protocol: str) -> tuple[float, float]:
    """Seconds until the first message, and from the block's end on."""
    started = trio.Event()

    async def handle(message: Message) -> None:
        started.set()

    settings = consumer_settings(bootstrap, "starting") | {"group.protocol": protocol}
    begun = time.perf_counter()
    async with open_pipeline(
        kafka=settings, topics=["starting"], stages=Stages(handle_message=handle)
    ):
        await started.wait()
        first = time.perf_counter() - begun
        await trio.sleep(0.5)
        leaving = time.perf_counter()
    return first, time.perf_counter() - leaving


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    importing()  # writes the byte code
    imports = [importing() for _ in range(options.rounds)]
    print(f"import, above trio and confluent_kafka: {median(imports) * 1e3:.0f} ms")
    with local_or(options.bootstrap) as bootstrap:
        make_backlog(bootstrap, "starting", 1, partitions=1)
        for protocol in ("classic", "consumer"):
            trio.run(opening, bootstrap, protocol)
            found = [trio.run(opening, bootstrap, protocol) for _ in range(options.rounds)]
            first, left = (median(values) for values in zip(*found, strict=True))
            print(
                f"{protocol}: first message {first:.2f} s after opening, left in {left:.2f} s"
            )


if __name__ == "__main__":
    main()
