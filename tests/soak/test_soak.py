"""A soak of some seconds, and that its seed makes the same happen again."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak._schedule import schedule


def test_the_same_seed_has_the_same_deeds_and_all_kinds_come() -> None:
    once, again = (list(itertools.islice(schedule(7), 200)) for _ in range(2))
    assert once == again
    assert once != list(itertools.islice(schedule(8), 200))
    assert len({deed.kind for deed in once}) == 6
    assert 300 < sum(deed.after for deed in once) < 500, "one every 2 s"


@pytest.mark.faults
def test_its_end_is_a_table_with_nothing_lost_nor_twice() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.soak",
            "--minutes", "0.25", "--protocol", "consumer", "--seed", "3", "--rate", "200",
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("seed 3: --seed 3 makes the same happen again")
    figures = dict(re.findall(r"^  ([a-z ]+?) {2,}([\d,]+)", done.stdout, re.MULTILINE))
    assert figures["lost"] == figures["there twice"] == figures["out of order"] == "0"
    assert int(figures["records"].replace(",", "")) > 1_000
    assert "seed 3: all is well" in done.stdout
