"""What an attacker, or a log's reader, must not get: see docs/guarantees.md."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    DeadLetter,
    FailurePolicy,
    Message,
    PausePartition,
    Retry,
    Skip,
    Stages,
    Stop,
    open_pipeline,
)
from trio_broadway_kafka.instruments import LoggingInstrument
from trio_broadway_kafka.testing import FakeBroker

PACKAGE = Path(__file__).parents[1] / "trio_broadway_kafka"
PAYLOAD = "what-nobody-may-read"

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.name, ast.parse(path.read_text())


def test_nothing_is_unpickled_or_evaluated() -> None:
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [(name, a.name) for a in node.names if a.name in FORBIDDEN_MODULES]
            elif isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES:
                found.append((name, str(node.module)))
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in FORBIDDEN_CALLS
            ):
                found.append((name, node.func.id))
    assert found == []


def test_no_process_is_started_by_a_shell() -> None:
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                pytest.fail(f"{name}:{node.value.lineno} gives shell=")
            if isinstance(node, ast.Attribute) and node.attr in ("system", "popen"):
                pytest.fail(f"{name}:{node.lineno} uses {node.attr}")


def test_servers_of_ours_bind_to_this_machine_only() -> None:
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
                pytest.fail(f"{name}:{node.lineno} binds to every address")


class Mishap(Exception):
    """It has the payload, as exceptions of users may: what they say is theirs."""


@pytest.mark.parametrize(
    "policy",
    [
        Skip(),
        Stop(),
        Retry(attempts=2, wait_initial=0.1, then=Skip()),
        DeadLetter("letters"),
        PausePartition(seconds=0.1),
    ],
    ids=lambda policy: type(policy).__name__,
)
@pytest.mark.parametrize("by", ["message", "batch", "fail"])
async def test_no_payload_is_logged_whatever_fails(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    policy: FailurePolicy,
    by: str,
) -> None:
    broker = FakeBroker(topics={"t": 1, "letters": 1})
    for _ in range(3):
        broker.produce(
            "t", PAYLOAD.encode(), key=PAYLOAD.encode(), headers=[("h", PAYLOAD.encode())]
        )
    attempts = 0

    async def handle(message: Message) -> None:
        nonlocal attempts
        attempts += 1
        message.data = PAYLOAD
        if by == "fail":
            message.fail("not this one")
        elif by == "message" and attempts < 3:
            raise Mishap

    async def handle_batch(batch: Batch) -> None:
        if by == "batch" and attempts < 5:
            raise Mishap
        await trio.lowlevel.checkpoint()

    stages = Stages(
        handle_message=handle,
        on_failure=policy,
        batchers={"default": Batcher(handle_batch=handle_batch, size=2, timeout=0.1)},
    )
    caplog.set_level(logging.DEBUG)
    shown = ""
    try:
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=stages,
            instruments=[LoggingInstrument()],
        ) as pipeline:
            await trio.sleep(3)
            shown = repr(pipeline) + repr(pipeline.statistics())
            broker.lose(broker._cluster.groups[0].members[0].client)  # type: ignore[arg-type]
            await trio.sleep(3)
    except* Exception as group:
        for error in group.exceptions:
            shown += repr(error) + "".join(getattr(error, "__notes__", ()))
    assert PAYLOAD not in caplog.text + shown
