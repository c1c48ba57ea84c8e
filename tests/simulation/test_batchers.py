"""The real batchers under seeded schedulers, against a plain model.

Batch handlers that return, suspend, raise, fail some of their messages or resist; revokes and
losses at any moment; with and without a ``handle_message``. In every interleaving: batches of
a key do not overlap and keep the order of their messages, nothing is missing, nothing is
handled again that was settled, and nothing of a partition starts once its drain has ended.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections.abc import Hashable

import pytest
import trio

from tests._records import arrive
from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages
from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._connect import make_lanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka.testing._scheduler import simulate

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))
TICK = 0.001


class World:
    """One run, as its seed has it."""

    def __init__(self, *, by_message: bool, rng: random.Random) -> None:
        self.rng = rng
        self.wrong: list[str] = []
        self.unordered = rng.random() < 0.3
        self.keys = rng.randint(1, 3)
        self.names = ["default", "other"] if by_message and rng.random() < 0.5 else ["default"]
        stages = Stages(
            handle_message=self.handle if by_message else None,
            ordering="unordered" if self.unordered else "partition",
            concurrency=rng.randint(1, 4),
            on_failure=Skip(),
            handle_failed=self.handle_failed,
            batchers={
                name: Batcher(
                    handle_batch=self.handle_batch,
                    size=rng.choice([1, 2, 5, 20]),
                    timeout=rng.choice([0.0, 1.0, 5.0]) * TICK,
                    concurrency=rng.randint(1, 3),
                )
                for name in self.names
            },
        )
        self.lanes = make_lanes(stages, share=1000)
        self.assignment = Assignment(
            stages,
            self.lanes,
            want=lambda: None,
            finished=None,
            clock=itertools.count().__next__,  # each look at it is past due
        )
        self.messages = [rng.randint(1, 40) for _ in range(rng.randint(1, 3))]
        self.states = [PartitionOffsets("t", n, 0) for n in range(len(self.messages))]
        self.assignment.add(self.states)
        self.gone: set[PartitionOffsets] = set()
        self.active: dict[Hashable, Batch] = {}
        self.trace: list[tuple[float, str, str, list[int]]] = []
        self.last: dict[tuple[Hashable, PartitionOffsets], tuple[int, Batch]] = {}

    async def handle(self, message: Message) -> None:
        if self.rng.random() < 0.3:
            await self.suspend()
        message.batcher = self.rng.choice(self.names)
        message.batch_key = message.offset % self.keys
        if self.rng.random() < 0.05:
            message.batch_mode = "flush"

    async def handle_failed(self, messages: list[Message]) -> None:
        if self.rng.random() < 0.5:
            await self.suspend()

    async def suspend(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            await trio.lowlevel.checkpoint()
        if self.rng.random() < 0.3:
            await trio.sleep(self.rng.random() * 3 * TICK)

    async def handle_batch(self, batch: Batch) -> None:
        lane = object() if self.unordered else (batch.batcher, batch.key)
        if lane in self.active:
            self.wrong.append(f"{batch!r} overlaps {self.active[lane]!r}")
        self.active[lane] = batch
        self.check_start(batch, lane)
        try:
            await self.behave(batch)
        finally:
            del self.active[lane]

    def check_start(self, batch: Batch, lane: Hashable) -> None:
        offsets = [message.offset for message in batch]
        self.trace.append((trio.current_time(), batch.batcher, batch.trigger, offsets))
        if not offsets:
            self.wrong.append("an empty batch")
        for message, (segment, index) in zip(batch, batch._places(), strict=True):
            state = segment.partition
            name = f"{state!r} {message.offset}"
            if state in self.gone:
                self.wrong.append(f"{name} started after its partition had gone")
            if segment.flags[index]:
                self.wrong.append(f"{name} started again though it was settled")
            # In order, but for what is left of a batch that was cut off.
            place = (lane, state)
            if not self.unordered:
                offset, last = self.last.get(place, (-1, batch))
                if message.offset < offset and last is not batch:
                    self.wrong.append(f"{name} came after {offset}")
                self.last[place] = (max(message.offset, offset), batch)

    async def behave(self, batch: Batch) -> None:
        match self.rng.choice(["runs through", "suspends", "sleeps", "resists", "nursery"]):
            case "suspends":
                await self.suspend()
            case "sleeps":
                await trio.sleep(self.rng.choice([0.1, 1, 10]) * TICK)
            case "resists":
                with trio.CancelScope(shield=True):
                    await self.suspend()
            case "nursery":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.suspend)
                    await self.suspend()
        ending = self.rng.choice(["returns", "returns", "raises", "fails"])
        if ending == "raises":
            raise ValueError
        if ending == "fails":
            for message in batch:
                if self.rng.random() < 0.5:
                    message.fail("as planned")

    def rest(self, partition: int) -> list[int]:
        state = self.states[partition]
        start = state.position if state.position is not None else state.committed or 0
        return [n for n in range(start, self.messages[partition]) if n % 7 != 3]

    async def feed(self) -> None:
        while True:
            for partition, state in enumerate(self.states):
                rest = self.rest(partition)
                if rest and not state.draining and self.rng.random() < 0.5:
                    segment = arrive(state, rest[: self.rng.randint(1, 15)], self.lanes)
                    self.assignment.received([segment])
            await self.suspend()

    async def make_faults(self) -> None:
        for _ in range(self.rng.choice([0, 1, 3, 6])):
            await trio.sleep(self.rng.random() * 4 * TICK)
            partition = self.rng.randrange(len(self.states))
            state = self.states[partition]
            if self.rng.random() < 0.7:
                timeout = self.rng.choice([0.0, 1.0, 20.0]) * TICK
                await self.assignment.drain(frozenset([state]), timeout)
            else:
                self.assignment.interrupt([state])
            self.gone.add(state)
            committed = state.prefix() or state.committed
            state.live = False
            self.assignment.remove([state])
            new = PartitionOffsets("t", partition, state.epoch + 1, committed)
            self.states[partition] = new
            self.assignment.add([new])

    @property
    def complete(self) -> bool:
        wanted = [[n for n in range(count) if n % 7 != 3] for count in self.messages]
        return all(
            (state.prefix() or state.committed or 0) > offsets[-1]
            for state, offsets in zip(self.states, wanted, strict=True)
            if offsets
        )

    async def main(self) -> None:
        async with trio.open_nursery() as nursery:
            self.assignment.start(nursery)
            nursery.start_soon(self.feed)
            await self.make_faults()
            while not self.complete:  # noqa: ASYNC110 - there is no event: flags are only set
                await trio.sleep(TICK)
            if left := await self.assignment.drain(None, 1.0):
                self.wrong.append(f"{left} were left by the drain")
            nursery.cancel_scope.cancel()
        for name, stage in self.assignment.batchers.stages.items():
            batches = stage.batches
            kept = (batches._open, batches._later, batches.ready, batches.running)
            if any(kept):
                self.wrong.append(f"batcher {name} still has {kept}")


def run(seed: int, *, by_message: bool) -> World:
    rng = random.Random(f"{by_message} {seed}")
    world = World(by_message=by_message, rng=rng)
    try:
        simulate(world.main, rng, horizon=10.0, steps=200_000)
    except trio.TooSlowError:
        world.wrong.append(f"it came to a stop: {[s.prefix() for s in world.states]}")
    return world


@pytest.mark.parametrize("by_message", [True, False], ids=["by message", "whole lists"])
def test_batches_are_kept_in_every_interleaving(
    by_message: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_broadway_kafka")
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 2):
        if wrong := run(seed, by_message=by_message).wrong:
            pytest.fail(f"seed {seed}: {'; '.join(wrong)}", pytrace=False)


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(20):
        once, again = (run(seed, by_message=bool(seed % 2)).trace for _ in range(2))
        assert once == again
