"""docs/guarantees.md names tests that are there, and every case of what must survive."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs._blocks import DOCS

TEXT = (DOCS / "guarantees.md").read_text()
TESTS = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))


def test_each_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 40
    missing = {name for name in named if not re.search(rf"def {name}\(", TESTS)}
    assert missing == set()


def test_each_file_that_is_named_is_there() -> None:
    root = Path(__file__).parents[2]
    for name in re.findall(r"`(tests/[\w/]+(?:\.py)?)/?`", TEXT):
        assert (root / name).exists(), name


def test_every_case_has_its_line() -> None:
    assert [int(number) for number in re.findall(r"^\| (\d+) ", TEXT, re.MULTILINE)] == [
        *range(1, 31)
    ]


def test_every_test_of_a_case_is_named() -> None:
    here = Path(__file__).parents[1] / "faults"
    for path in here.glob("test_*.py"):
        if path.name == "test_proxy.py":
            continue
        for name in re.findall(r"^async def (test_\w+)\(", path.read_text(), re.MULTILINE):
            known = {
                "test_tls_a_password_and_permissions_let_in_who_has_them",
                "test_a_static_member_comes_back_to_its_partitions_without_a_rebalance",
            }
            assert name in TEXT or name in known, name
