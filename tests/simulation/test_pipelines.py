"""Whole pipelines of a group, from plans: whatever goes wrong, what must hold does.

Members that drain, are cancelled, killed and come back, with every kind of stages, on a broker
whose partitions move, whose answers are late or errors, that stands still. After every step:
nothing is committed past a record that nobody has finished, no committed offset goes back,
lanes are kept, no more is in flight than may be. In the end: all is finished and committed,
outputs are there, once if in transactions.

``nox -s simulate -- --seeds 10000`` runs more. A plan that fails is made smaller there, and its
text goes into `PLANS`.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import _plans
from tests.simulation._pipelines import run
from tests.simulation._plans import MemberPlan, Plan, make_plan, shrink
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka.testing import Chaos, Fault

SEEDS = min(300, int(os.environ.get("SIMULATION_SEEDS", "300")))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))

PLANS = {
    "a commit that arrives after the next epoch has begun ended the pipeline": Plan(
        seed=332,
        records=1,
        keys=1,
        poll_interval=math.inf,
        session_timeout=1.0,
        members=(MemberPlan(concurrency=1, work=0.5),),
        chaos=Chaos((Fault(at=0.383, kind="freeze", target=155, lasts=1.425),), 0.5, 332),
    ),
    "a fetch that failed was never tried again without the polls' rhythm": Plan(
        records=5,
        poll_interval=math.inf,
        members=(MemberPlan(concurrency=1, commit_interval=math.inf, max_in_flight=10),),
        chaos=Chaos((Fault(0.0, "fetch", 1),), 0.05),
    ),
}
"""What once failed, in its smallest form, by what was wrong."""


@pytest.fixture(autouse=True)
def without_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Each planned failure is logged."""
    caplog.set_level(logging.CRITICAL, "trio_broadway_kafka")


@pytest.mark.parametrize("part", range(4))
def test_what_must_hold_does_under_every_plan(part: int) -> None:
    for seed in range(FIRST_SEED + part, FIRST_SEED + SEEDS, 4):
        if wrong := run(make_plan(seed)).wrong:
            pytest.fail(f"seed {seed}: {'; '.join(wrong)}", pytrace=False)


def test_what_once_failed_does_no_more() -> None:
    for name, plan in PLANS.items():
        assert run(plan).wrong == [], name


def test_the_same_plan_is_the_same_run_in_every_process() -> None:
    program = """
import hashlib, logging
logging.disable(logging.CRITICAL)
from tests.simulation import _plans
from tests.simulation._pipelines import run
from tests.simulation._plans import make_plan
for seed in range(8):
    print(hashlib.sha256("\\n".join(run(make_plan(seed)).trace).encode()).hexdigest())
"""
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "2")
    }
    assert len(traces) == 1
    [trace] = traces
    assert len(set(trace.split())) == 8, "and each seed is another one"


def committed_too_early(self: PartitionOffsets) -> int | None:
    return self.position


def forgotten(self: Segment, records: object) -> None:
    """What was cut off does not go back to where it was."""


BROKEN = {
    "commits what has only arrived": (PartitionOffsets, "prefix", committed_too_early),
    "forgets what was cut off": (Segment, "put_back", forgotten),
}


@pytest.mark.parametrize("name", BROKEN)
def test_it_finds_what_is_broken_and_makes_the_plan_small(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[name])

    def fails(plan: Plan) -> bool:
        return bool(run(plan).wrong)

    plan = next(plan for seed in range(60) if fails(plan := make_plan(seed)))
    small = shrink(plan, fails, runs=150)
    assert fails(small)
    assert len(small.members) == 1
    assert len(small.chaos.faults) + len(small.members[0].deeds) <= 2
    assert len(repr(small)) < len(repr(plan)) or plan == small
    assert eval(repr(small), {**globals(), **vars(_plans)}) == small, "its text is the plan"


def test_the_plainest_plan_handles_each_record_once() -> None:
    report = run(Plan(records=50, partitions=3, members=(MemberPlan(),)))
    assert report.wrong == []
    assert (report.records, report.again) == (50, 0)
    assert not report.survived
