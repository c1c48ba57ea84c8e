"""Plans run in several processes. A module of its own, for they have to import it."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation._pipelines import Report, run
from tests.simulation._plans import make_plan

__all__ = ["hunt"]


def hunt(seeds: range, jobs: int) -> Iterator[tuple[int, Report]]:
    """Run the plans of these seeds, and give what came of each, in their order."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _be_quiet) as pool:
        try:
            yield from pool.map(_simulate, seeds, chunksize=8)
        finally:
            pool.shutdown(cancel_futures=True)


def _simulate(seed: int) -> tuple[int, Report]:
    report = run(make_plan(seed))
    report.trace.clear()
    return seed, report


def _be_quiet() -> None:
    """Planned failures are logged, and Ctrl-C is the parent's."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
