"""Let real processes work while all around them fails: ``nox -s soak -- --minutes 60``.

Its end is a table, and 0 if nothing was lost, there twice, or out of order. The seed that it
prints makes the same things happen again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import trio

from tests.soak._soak import Soak, Totals
from trio_broadway_kafka.testing import open_kafka_broker

GROWTH = 64.0  # MiB that a process may grow by after its first seconds


def show(totals: Totals, protocol: str) -> bool:
    """Print the table. Returns whether all is well."""
    rows = [
        *((kind, f"{count:,}") for kind, count in sorted(totals.deeds.items())),
        ("processes", f"{totals.processes:,}"),
        ("records", f"{totals.produced:,}"),
        ("copied", f"{totals.copied:,}"),
        ("dead letters", f"{totals.dead:,}"),
        ("lost", f"{totals.lost:,}"),
        ("there twice", f"{totals.twice:,}"),
        ("out of order", f"{totals.disordered:,}"),
        ("largest process", f"{totals.largest:.0f} MiB"),
        ("growth", f"{totals.growth:+.0f} MiB"),
    ]
    print(f"\n{protocol}")
    for name, figure in rows:
        print(f"  {name:<18}{figure:>12}")
    for text in totals.wrong:
        print(f"  wrong: {text}")
    return (
        not (totals.lost or totals.twice or totals.disordered or totals.wrong)
        and totals.growth < GROWTH
    )


async def soak(protocol: str, seed: int, minutes: float, rate: int) -> bool:
    def tell(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        async with open_kafka_broker() as broker:
            one = Soak(
                broker,
                protocol,
                seed=seed,
                seconds=minutes * 60,
                rate=rate,
                folder=Path(folder),
                tell=tell,
            )
            return show(await one.run(), protocol)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition(":")[0])
    parser.add_argument("--minutes", type=float, default=5, help="for each protocol (5)")
    parser.add_argument("--seed", type=int, help="of an earlier soak, to repeat it")
    parser.add_argument("--rate", type=int, default=400, help="records a second (400)")
    parser.add_argument("--protocol", choices=["classic", "consumer", "both"], default="both")
    options = parser.parse_args()
    if options.minutes <= 0 or options.rate < 1:
        parser.error("--minutes must be more than 0, --rate at least 1")
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}: --seed {seed} makes the same happen again", flush=True)
    protocols = ["classic", "consumer"] if options.protocol == "both" else [options.protocol]
    try:
        results = [
            trio.run(soak, protocol, seed, options.minutes, options.rate)
            for protocol in protocols
        ]
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(f"\nseed {seed}: {'all is well' if all(results) else 'NOT well'}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
