"""``python -m tests.simulation``, as ``nox -s simulate`` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_ends_with_a_table_of_what_was_survived() -> None:
    done = simulate("--seeds", "8", "--first", "100", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^survived +times$", done.stdout, re.MULTILINE)
    assert re.search(r"^revoke +\d+$", done.stdout, re.MULTILINE)
    assert re.search(r"^8 plans, [\d,]+ records, [\d,]+ handled again, 0 plans failed", done.stdout, re.MULTILINE)  # noqa: E501  # fmt: skip


def test_numbers_that_make_no_sense_are_refused() -> None:
    done = simulate("--seeds", "0")
    assert done.returncode == 2
    assert "--seeds and --jobs must be at least 1" in done.stderr
