"""The real processors under seeded schedulers, against a plain model.

Over thousands of interleavings of handlers that return, suspend, raise, shield themselves or
are cut off: in a lane offsets increase, nothing overlaps (over epochs, and while a failed
message is settled, too) and nothing is missing; a message is started again only if it was cut
off; nothing of a partition starts once that is drained; no processor is idle while there is
something to take.

``SIMULATION_SEEDS=100000 pytest tests/simulation`` looks at more of them, and
``SIMULATION_FIRST_SEED`` begins elsewhere. What failed is shrunk and printed: put the plan
as it stands into `PLANS_THAT_FAILED`.
"""

from __future__ import annotations

import logging
import os

import pytest

from tests.simulation._world import ORDERINGS, Plan, make_plan, run, run_traced, shrink

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "3000"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))

PLANS_THAT_FAILED = {
    "the lane of a handler with a nursery stayed shut after it was cut off": Plan(
        seed=5,
        ordering="partition",
        concurrency=5,
        keys=(b"L",),
        messages=(6, 4),
        largest_segment=1,
        share=5,
        suspending=1.0,
        manners=("turns its cancellation into an error", "fails", "has a nursery"),
        faults=(("lose", 0.0032467811561863844, 3),),
        cancelled_at=None,
    ),
    "a processor parked though asking for more had brought it work": Plan(
        seed=10,
        ordering="unordered",
        concurrency=2,
        keys=(b"K",),
        messages=(9, 4, 5),
        largest_segment=30,
        share=5,
        suspending=1.0,
        manners=(
            "suspends, fails",
            "suspends",
            "suspends, raises",
            "shields itself",
            "fails",
            "returns",
            "raises",
            "sleeps",
        ),
        faults=(
            ("hold", 0.0017587844714757332, 6),
            ("lose", 0.006011038316258004, 1),
            ("share", 0.008405125071048876, 1),
            ("hold", 0.010798634492211702, 3),
            ("lose", 0.011574984829176065, 5),
        ),
        cancelled_at=None,
    ),
    "a message started behind one that its cancelled pipeline had cut off": Plan(
        seed=121,
        ordering="function",
        concurrency=3,
        keys=(b"L", b"K", b"M", b"M", b"K", None, b"L", b"M"),
        messages=(13, 8),
        largest_segment=3,
        share=2,
        suspending=1.0,
        manners=(
            "sleeps",
            "raises",
            "shields itself",
            "turns its cancellation into an error",
            "fails",
            "suspends",
            "returns",
        ),
        faults=(
            ("revoke", 0.0006855189377618731, 1),
            ("interrupt", 0.009482995194497612, 3),
            ("interrupt", 0.010516907486867176, 3),
            ("revoke", 0.01423207604898105, 4),
        ),
        cancelled_at=0.003305435667646751,
    ),
}


@pytest.fixture(autouse=True)
def without_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Each planned failure is logged."""
    caplog.set_level(logging.CRITICAL, "trio_broadway_kafka")


@pytest.mark.parametrize("ordering", ORDERINGS)
def test_lanes_are_kept_in_every_interleaving(ordering: str) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // len(ORDERINGS)):
        plan = make_plan(seed, ordering)
        if run(plan):
            plan = shrink(plan)
            pytest.fail(f"{plan}: {'; '.join(run(plan))}", pytrace=False)


@pytest.mark.parametrize("name", PLANS_THAT_FAILED)
def test_what_failed_once_does_not_again(name: str) -> None:
    assert run(PLANS_THAT_FAILED[name]) == []


def test_the_same_plan_is_the_same_run() -> None:
    for seed in range(20):
        plan = make_plan(seed, ORDERINGS[seed % 4])
        assert run_traced(plan) == run_traced(plan)
