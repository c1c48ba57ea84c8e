"""Every program of docs/testing.md, run as its readers would run it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.docs._blocks import DOCS, blocks, name_of

PAGE = "testing.md"
# Where Kafka's jars are: pytester's tests have a home of their own.
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
INI = "[pytest]\ntrio_mode = true\n"

BLOCKS = [code for _, code in blocks(PAGE)]
# What others import starts with its name.
MODULES = {name: block for block in BLOCKS if (name := name_of(block))}
CONFTESTS = [block for block in BLOCKS if "pytest_plugins" in block]
TESTS = {name[1]: block for block in BLOCKS if (name := re.search(r"def test_(\w+)\(", block))}


def test_every_program_of_the_page_is_one_of_these() -> None:
    assert len(BLOCKS) == len(MODULES) + len(CONFTESTS) + len(TESTS)
    assert len(TESTS) >= 9
    assert INI in (DOCS / PAGE).read_text()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "open_kafka_broker" in block else ())
        for name, block in TESTS.items()
    ],
)
def test_it_passes(
    pytester: pytest.Pytester,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    block = TESTS[name]
    for module, text in MODULES.items():
        pytester.makepyfile(**{module.removesuffix(".py"): text})
    pytester.makeconftest(*CONFTESTS)
    pytester.makeini(INI)
    pytester.makepyfile(test_it=block)
    arguments = ["-W", "error"]
    if "kafka_broker," in block:
        arguments += ["--kafka-bootstrap", request.getfixturevalue("kafka_broker").bootstrap]
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(passed=block.count("def test_"))
