"""Whole pipelines of one group under seeded schedulers, against a plain model.

Stages for all partitions, and for each in contexts that are slow, resist or swallow what
cancels them; with prepare_messages and a rate limit; revokes, losses, pauses, refused commits,
drains and cancellations at any moment. In every interleaving: nothing is committed past an
unfinished message, nor once leaving a context has failed; a partition's contexts are never
open twice, and each is left before the block ends; nothing starts in one that is being left;
statistics never raise or go back; all is committed in the end.
"""

from __future__ import annotations

import logging
import os

import pytest

from tests.simulation._group import run

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))


@pytest.fixture(autouse=True)
def without_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Each planned failure is logged."""
    caplog.set_level(logging.CRITICAL, "trio_broadway_kafka")


@pytest.mark.parametrize("failing", [False, True], ids=["to the end", "leaving may fail"])
def test_a_group_keeps_its_promises_in_every_interleaving(failing: bool) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 10):
        if wrong := run(seed, failing=failing).wrong:
            pytest.fail(f"seed {seed}: {'; '.join(wrong)}", pytrace=False)


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(20):
        once, again = (run(seed, failing=bool(seed % 2)).trace for _ in range(2))
        assert once == again
