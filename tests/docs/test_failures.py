"""Every program in docs/failures.md, as a reader would run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs._blocks import python_blocks
from tests.examples._program import program

BLOCKS = python_blocks("failures.md")


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_what_it_asserts_is_true(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(BLOCKS[name])
    with program(path) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
