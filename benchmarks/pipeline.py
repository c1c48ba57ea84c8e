"""Compare the pipeline with the raw loop: interleaved runs, CPU per message first.

    python benchmarks/pipeline.py [--bootstrap HOST:PORT] [--messages N] [--rounds N]

Every run is a process of its own that reads the same backlog with a fresh group. Machines
drift twofold within minutes, so only ratios of runs side by side count: each round runs
every variant once, and what is printed is the median over the rounds of raw's CPU per
message divided by the variant's (1 = free).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median

from _backlog import Result, local_or, make_backlog

HERE = Path(__file__).parent
# "+watched": with Prometheus and the dashboard.
VARIANTS = ("batches", "batches_of_messages", "unordered", "partition", "key", "key+watched")


def run(script: str, *args: str) -> Result:
    """Run a variant in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *args], check=True, capture_output=True, text=True
    )
    return Result(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    topic = f"bench-{options.messages}"
    rounds: list[dict[str, Result]] = []
    with local_or(options.bootstrap) as bootstrap:
        print(f"{options.messages:,} records of 100 bytes …", flush=True)
        make_backlog(bootstrap, topic, options.messages)
        args = (bootstrap, topic, str(options.messages))
        for number in range(options.rounds):
            results = {"raw": run("raw.py", *args)}
            for variant in VARIANTS:
                results[variant] = run("_member.py", *args, variant)
            rounds.append(results)
            line = "  ".join(f"{name} {r.cpu_us:.2f} µs" for name, r in results.items())
            print(f"round {number + 1}: {line}", flush=True)
    print_table(rounds)


def print_table(rounds: list[dict[str, Result]]) -> None:
    """Medians over the rounds."""
    print(f"\nPython {platform.python_version()}, medians of {len(rounds)} rounds:\n")
    print(f"{'variant':<20}{'CPU µs':>8}{'CPU ratio':>11}{'rate/s':>11}{'gc':>6}{'MiB':>6}")
    for name in rounds[0]:
        runs = [results[name] for results in rounds]
        ratios = [results["raw"].cpu_us / results[name].cpu_us for results in rounds]
        print(
            f"{name:<20}{median(r.cpu_us for r in runs):>8.2f}{median(ratios):>11.2f}"
            f"{median(r.messages / r.wall for r in runs):>11,.0f}"
            f"{median(r.collections for r in runs):>6.0f}{median(r.rss for r in runs):>6.0f}"
        )


if __name__ == "__main__":
    main()
