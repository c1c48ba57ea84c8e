"""What a message costs, counted: instructions of ours, which no busy machine changes.

`benchmarks/pipeline.py` measures the time. This fails when a message of a handler that does
nothing takes a quarter more of them: as if the CPU ratio fell below 0.8 of what it was. Then
measure, and put the new figure down if it is worth that.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from statistics import median
from types import CodeType, FrameType
from typing import Any

import pytest
import trio
import trio.testing

import trio_broadway_kafka
from trio_broadway_kafka import Batch, Batcher, Message, Stages, _assignment, open_pipeline
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._scheduler import seeded_scheduler

OURS = str(Path(trio_broadway_kafka.__file__).parent)
FAKES = str(Path(OURS, "testing"))

# Instructions for each message, of Python 3.11, 3.12 and 3.13.
RECORDED = {
    "batches": (10.0, 9.0, 5.8),
    "unordered": (58.0, 56.2, 48.7),
    "partition": (58.4, 56.6, 48.7),
    "key": (92.3, 91.5, 83.8),
}


async def handle(message: Message) -> None: ...


async def handle_batch(batch: Batch) -> None:
    batch.raw_values()


def stages_of(variant: str) -> Stages:
    if variant == "batches":
        return Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=1000)})
    return Stages(handle_message=handle, ordering=variant, concurrency=10)  # type: ignore[arg-type]


def usual_instructions(variant: str, messages: int) -> float:
    """With some orders of turns there is one turn of the loop more, or less."""
    return median(instructions(variant, messages, seed) for seed in range(3))


def instructions(variant: str, messages: int, seed: int) -> int:
    """How many of ours a pipeline executes that handles so many messages."""
    broker = FakeBroker(topics={"t": 4})
    for number in range(messages):
        broker.produce("t", b"v", key=b"%d" % number, partition=number % 4)
    count = 0
    is_ours: dict[CodeType, bool] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        code = frame.f_code
        if code not in is_ours:
            name = code.co_filename
            is_ours[code] = name.startswith(OURS) and not name.startswith(FAKES)
        if not is_ours[code]:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    async def main() -> None:
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=stages_of(variant), commit_interval=10
        ) as pipeline:
            await pipeline.wait_assigned()
            await pipeline.wait_caught_up()

    before = sys.gettrace()
    with seeded_scheduler(random.Random(seed)):
        sys.settrace(trace)
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        finally:
            sys.settrace(before)
    return count


@pytest.mark.parametrize("variant", RECORDED)
def test_a_message_costs_no_more_instructions(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_assignment, "pace", lambda: 0.0)  # no turns for others in between
    few, many = usual_instructions(variant, 2_000), usual_instructions(variant, 6_000)
    each = (many - few) / 4_000
    recorded = RECORDED[variant][min(sys.version_info.minor, 13) - 11]
    assert each < recorded / 0.8, f"{each:.1f} instructions a message, not {recorded}"
    assert each > recorded * 0.8, f"{each:.1f} only: put that down in place of {recorded}"
