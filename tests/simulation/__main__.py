"""Run plans of whole pipelines, seed after seed: ``nox -s simulate -- --seeds 10000``.

What fails is made as small as it gets, and printed as Python: it belongs into `PLANS` of
test_pipelines.py. Ends with 1 then, with 130 after a Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter

from tests.simulation._hunt import hunt
from tests.simulation._pipelines import Report, run
from tests.simulation._plans import Plan, make_plan, shrink


def fails(plan: Plan) -> bool:
    return bool(run(plan).wrong)


def show_failure(seed: int, report: Report) -> None:
    print(f"\nseed {seed} fails:", *report.wrong[:5], sep="\n  ", flush=True)
    print("making it smaller …", flush=True)
    small = shrink(make_plan(seed), fails)
    print("the smallest plan that fails:", *run(small).wrong[:5], sep="\n  ")
    print(f"\n{small!r}\n", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__.partition(":")[0])
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (1,000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    options = parser.parse_args()
    if options.seeds < 1 or options.jobs < 1 or options.first < 0:
        parser.error("--seeds and --jobs must be at least 1, --first not negative")
    logging.disable(logging.CRITICAL)
    seeds = range(options.first, options.first + options.seeds)
    began = time.monotonic()
    survived: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    failed: list[tuple[int, Report]] = []
    done = 0
    try:
        for seed, report in hunt(seeds, options.jobs):
            done += 1
            survived += report.survived
            totals["records"] += report.records
            totals["again"] += report.again
            if report.wrong:
                failed.append((seed, report))
            if sys.stderr.isatty() or not done % 500:
                rate = done / (time.monotonic() - began)
                left = (len(seeds) - done) / rate
                end = "\r" if sys.stderr.isatty() else "\n"
                print(
                    f"{done:,} of {len(seeds):,} seeds, {rate:.0f} a second, "
                    f"{left:.0f} s left, {len(failed)} failed ",
                    end=end,
                    file=sys.stderr,
                    flush=True,
                )
    except KeyboardInterrupt:
        print(f"\nstopped after {done:,} seeds", file=sys.stderr)
    took = time.monotonic() - began
    print(f"\n{'survived':<14}{'times':>12}")
    for kind, count in survived.most_common():
        print(f"{kind:<14}{count:>12,}")
    print(
        f"\n{done:,} plans, {totals['records']:,} records, {totals['again']:,} handled again, "
        f"{len(failed)} plans failed, in {took:.0f} s"
    )
    for seed, report in failed[:3]:
        show_failure(seed, report)
    if failed:
        print("failed seeds:", *sorted(seed for seed, _ in failed))
        return 1
    return 0 if done == len(seeds) else 130


if __name__ == "__main__":
    sys.exit(main())
