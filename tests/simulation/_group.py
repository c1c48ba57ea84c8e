"""A small world around whole pipelines: one or two members of a group on a `FakeBroker`.

Each member has the same stages for all partitions, or some of their own for each, in contexts
that are entered and left; with and without ``prepare_messages``, batchers and a rate limit.
Partitions are revoked and lost, the member is paused, resumed, committed, drained, cancelled.
What happens is noted, and what must hold is looked at as it happens or at the end: what went
wrong is a list of sentences.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from trio_broadway_kafka import (
    Batch,
    Batcher,
    FailurePolicy,
    KafkaFailure,
    Message,
    PausePartition,
    Pipeline,
    PipelineStatistics,
    RateLimit,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._offset_map import decode
from trio_broadway_kafka._model._options import Ordering
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient
from trio_broadway_kafka.testing._fake_cluster import AcceptedCommit
from trio_broadway_kafka.testing._scheduler import OutOfSteps, simulate

TICK = 0.01

# Times after which a commit that was asked for is served: a poll's.
POLL = 0.1

# Seconds for which there may be something new to see, and after which nothing comes: longer
# than the session of a member that could not close.
LOOKING = 2.0
PATIENCE = 100.0

ENDING = ("stays", "stays", "drains", "is cancelled", "ends")
ENTERING = ("returns", "suspends", "sleeps", "resists", "swallows")
LEAVING = ("returns", "suspends", "sleeps", "resists", "swallows", "sleeps long")
GOOD = LEAVING[:5]
HANDLING = (*GOOD, "raises", "turns its cancellation into an error")


class Planned(Exception):
    """What contexts and handlers raise where that is to end the pipeline."""


@dataclass(eq=False)
class Epoch:
    """What the model knows of one assignment.

    Attributes:
        base: the offset where it started.
        finished: offsets, and when; those that are skipped too.
        leaving_at: when its context began to be left.
        failed: that did not end well.
    """

    member: Member
    partition: int
    number: int
    base: int
    finished: dict[int, float] = field(default_factory=dict[int, float])
    running: int = 0
    leaving_at: float = math.inf
    failed: bool = False

    def finish(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.finished[message.offset] = trio.current_time()


class EpochsOf(dict[tuple[int, int], Epoch]):
    """The assignments of a member, by partition and epoch; made as they are met."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __missing__(self, place: tuple[int, int]) -> Epoch:
        partition, number = place
        state = self._member.pipeline._partitions[TopicPartition("t", partition)]
        if state.epoch != number:
            self._member.wrong(f"epoch {number} of {partition} has something after its end")
        self[place] = made = Epoch(self._member, partition, number, state.committed or 0)
        return made


class Member:
    """One pipeline, and the client it runs on."""

    def __init__(self, world: World, name: str) -> None:
        rng = world.rng
        self.world = world
        self.name = name
        self.client: FakeClient = world.broker.client()
        self.pipeline: Pipeline
        self.is_open = False
        self.own_stages = rng.random() < 0.8
        orderings: list[Ordering] = ["key", "partition", "unordered", key_of]
        self.orderings = rng.sample(orderings, 2)
        self.epochs = EpochsOf(self)
        self.last_epoch: dict[tuple[int, int], Epoch] = {}  # in which a message started
        self.contexts: dict[int, Epoch] = {}
        self.limit = RateLimit(messages=rng.randint(1, 20), per=TICK * rng.randint(1, 10))
        self.before: PipelineStatistics | None = None
        self.options: dict[str, Any] = {
            "commit_interval": rng.choice([0, TICK, 1.0, math.inf]),
            "revoke_timeout": rng.choice([0.0, 2 * TICK, 30 * TICK, 10.0]),
            "drain_timeout": rng.choice([0.0, 2 * TICK, 30 * TICK, 10.0]),
            "close_timeout": rng.choice([0.0, 10 * TICK, 5.0]),
            "max_in_flight": rng.choice([10, 50, 10_000]),
            "rate_limit": self.limit if rng.random() < 0.3 else None,
        }
        # Whether there is one limit for the whole run, and the messages that took a token.
        self.limited = self.options["rate_limit"] is not None
        self.taken: set[tuple[int, int, int]] = set()

    def __repr__(self) -> str:
        return self.name

    def wrong(self, what: str) -> None:
        self.world.wrong.append(f"{self}: {what}")

    # Stages.

    def epoch(self, partition: int) -> Epoch:
        """The live assignment of a partition."""
        state = self.pipeline._partitions[TopicPartition("t", partition)]
        return self.epochs[partition, state.epoch]

    def stages(self) -> Stages | Any:
        return self.factory if self.own_stages else self.make_stages()

    def factory(
        self, topic: str, partition: int
    ) -> Stages | AbstractAsyncContextManager[Stages]:
        epoch = self.epoch(partition)
        if not self.is_open:
            self.wrong(f"{epoch.number} of {partition} was entered though the block had ended")
        if self.world.rng.random() < 0.3:
            return self.make_stages()
        return self.context(epoch)

    def make_stages(self) -> Stages:
        rng = self.world.rng
        by_message = rng.random() < 0.7
        batchers = {}
        if not by_message or rng.random() < 0.4:
            batchers["default"] = Batcher(
                handle_batch=self.handle_batch,
                size=rng.choice([1, 3, 10]),
                timeout=rng.choice([0.0, TICK, 5 * TICK]),
                concurrency=rng.randint(1, 2),
            )
        return Stages(
            handle_message=self.handler(then_batch=bool(batchers)) if by_message else None,
            prepare_messages=self.prepare if rng.random() < 0.4 else None,
            batchers=batchers,
            ordering=rng.choice(self.orderings),
            concurrency=rng.randint(1, 4),
            on_failure=self.choose,
        )

    def choose(self, message: Message) -> FailurePolicy:
        """What becomes of a failed message."""
        rng = self.world.rng
        what = rng.random()
        if what < 0.2:
            return PausePartition(seconds=rng.choice([0, TICK, 10 * TICK]))
        if what < 0.4:
            wait = rng.choice([TICK, 10 * TICK])
            return Retry(attempts=math.inf, wait_initial=wait, wait_jitter=0)
        self.last_epoch[message.partition, message.offset].finish([message])
        return Skip()

    @asynccontextmanager
    async def context(self, epoch: Epoch) -> AsyncIterator[Stages]:
        world = self.world
        name = f"the context of {epoch.partition} epoch {epoch.number}"
        world.note(f"{self}: {name} is entered")
        if other := self.contexts.get(epoch.partition):
            self.wrong(f"{name} was entered before that of epoch {other.number} was left")
        self.contexts[epoch.partition] = epoch
        try:
            await world.behave(world.rng.choice(ENTERING))
            try:
                yield self.make_stages()
            except BaseException:
                self.begin_to_leave(epoch)
                epoch.failed = True
                await world.behave(world.rng.choice(LEAVING))
                if world.rng.random() < 0.7:
                    raise
            else:
                self.begin_to_leave(epoch)
                epoch.failed = True
                await world.behave(world.rng.choice(LEAVING))
                epoch.failed = False
                world.may_fail("leaving")
        except Planned:
            epoch.failed = True
            raise
        finally:
            if self.contexts.pop(epoch.partition) is not epoch:
                self.wrong(f"{name} was left when it was not open")
            world.note(f"{self}: {name} is left, {'failed' if epoch.failed else 'well'}")

    def begin_to_leave(self, epoch: Epoch) -> None:
        epoch.leaving_at = trio.current_time()
        if epoch.running:
            self.wrong(f"{epoch.running} handlers of {epoch.partition} run as it is left")

    async def prepare(self, messages: list[Message]) -> None:
        epoch = self.epoch(messages[0].partition)
        self.check_start(epoch)
        for message in messages:
            self.last_epoch[message.partition, message.offset] = epoch
            message.data = ("prepared", message.offset)
        if await self.run(epoch, GOOD) and self.world.rng.random() < 0.1:
            raise ValueError

    def handler(self, *, then_batch: bool) -> Any:
        async def handle(message: Message) -> None:
            epoch = self.epoch(message.partition)
            self.last_epoch[message.partition, message.offset] = epoch
            # Another attempt may have begun with preparing it.
            self.check_start(epoch, has_started=message.attempt > 1)
            if message.offset in epoch.finished:
                self.wrong(f"{message!r} starts though it has finished")
            self.take_token(epoch, message)
            if message.data not in (b"v", ("prepared", message.offset)):
                self.wrong(f"{message!r} has the data {message.data!r}")
            if await self.run(epoch, HANDLING) and message.failure is None:
                if self.world.rng.random() < 0.1:
                    message.fail("as planned")
                elif not then_batch:
                    epoch.finish([message])

        return handle

    async def handle_batch(self, batch: Batch) -> None:
        places = [segment.partition for segment, _ in batch._places()]
        states = dict.fromkeys(places)
        epochs = [self.epochs[state.partition, state.epoch] for state in states]
        of = [self.epochs[state.partition, state.epoch] for state in places]
        for epoch in epochs:
            self.check_start(epoch, has_started=True)
            epoch.running += 1
        for state, message in zip(places, batch, strict=True):
            self.take_token(self.epochs[state.partition, state.epoch], message)
        try:
            await self.run(None, GOOD)
        finally:
            for epoch in epochs:
                epoch.running -= 1
        for epoch, message in zip(of, batch, strict=True):
            self.last_epoch[message.partition, message.offset] = epoch
        ending = self.world.rng.choice(["returns", "returns", "raises", "fails"])
        if ending == "raises":
            raise ValueError
        if ending == "fails":
            batch.messages[0].fail("as planned")
        for epoch, message in zip(of, batch, strict=True):
            if message.failure is None:
                epoch.finish([message])

    def check_start(self, epoch: Epoch, *, has_started: bool = False) -> None:
        if self.own_stages and epoch.leaving_at < math.inf:
            self.wrong(f"something of {epoch.partition} starts as its context has been left")
        state = self.pipeline._partitions.get(TopicPartition("t", epoch.partition))
        if not has_started and state in self.pipeline._source.pausing.pauses.policy:
            self.wrong(f"something of {epoch.partition} starts though it is paused")

    def take_token(self, epoch: Epoch, message: Message) -> None:
        """There must have been one; what is handled again after it was cut off needs none."""
        self.taken.add((epoch.partition, epoch.number, message.offset))
        came = trio.current_time() * self.limit.messages / self.limit.per
        if self.limited and len(self.taken) > self.limit.messages + came + 0.01:
            self.wrong(f"{len(self.taken)} were taken at {trio.current_time()}")

    async def run(self, epoch: Epoch | None, manners: tuple[str, ...]) -> bool:
        """Be a handler. Returns whether what it does counts; raises where it fails."""
        world = self.world
        manner = world.rng.choice(manners) if world.rng.random() < 0.5 else "returns"
        if epoch is not None:
            epoch.running += 1
        try:
            if manner == "raises":
                if world.rng.random() < 0.5:
                    await world.behave("suspends")
                raise ValueError
            if manner == "turns its cancellation into an error":
                try:
                    await world.behave("sleeps")
                except trio.Cancelled:
                    raise ValueError from None
            else:
                await world.behave(manner)
            return True
        finally:
            if epoch is not None:
                epoch.running -= 1

    # The run.

    async def live(self) -> None:
        """Open the pipeline, and leave the block one way or another."""
        world = self.world
        rng = world.rng
        self.is_open = True
        try:
            with trio.CancelScope() as scope:
                async with self._open() as self.pipeline, trio.open_nursery() as nursery:
                    nursery.start_soon(self.look)
                    nursery.start_soon(self.meddle)
                    await trio.sleep(rng.random() * 40 * TICK)
                    ending = rng.choice(ENDING)
                    world.note(f"{self} {ending}")
                    if ending == "drains":
                        await self.pipeline.drain()
                        await trio.sleep(rng.random() * 5 * TICK)
                    elif ending == "is cancelled":
                        scope.cancel()
                    elif ending == "stays":
                        await self.catch_up()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                if not isinstance(error, Planned) or not world.failing:
                    self.wrong(f"{error!r} left the block")
        self.is_open = False
        world.note(f"{self} has ended")
        self.check_end()

    def _open(self) -> AbstractAsyncContextManager[Pipeline]:
        return open_pipeline(
            client=self.client, topics=["t"], stages=self.stages(), **self.options
        )

    async def catch_up(self) -> None:
        """Wait until all of the log is committed: others end, or do their part."""
        world = self.world
        with trio.move_on_after(PATIENCE) as scope:
            while not world.is_committed():
                await trio.sleep(10 * TICK)
                with contextlib.suppress(KafkaFailure):  # after a loss
                    await self.pipeline.commit()
        if scope.cancelled_caught:
            self.wrong(f"stalled at {self.pipeline.statistics()}")

    def check_end(self) -> None:
        if self.contexts:
            self.wrong(f"contexts of {[*self.contexts]} are still open")
        for epoch in self.epochs.values():
            if epoch.running:
                self.wrong(f"{epoch.running} handlers of {epoch.partition} go on")

    async def look(self) -> None:
        """Look at the statistics at any moment."""
        rng = self.world.rng
        while trio.current_time() < LOOKING:
            now = self.pipeline.statistics()
            before = self.before
            if now.in_flight != sum(p.in_flight for p in now.partitions):
                self.wrong("in_flight is not the sum of the partitions'")
            if before is not None and (
                now.succeeded < before.succeeded
                or now.failed < before.failed
                or now.skipped < before.skipped
            ):
                self.wrong(f"statistics went back from {before} to {now}")
            if min(now.in_flight, now.queued, now.busy, now.in_flight_bytes) < 0:
                self.wrong(f"negative statistics: {now}")
            self.before = now
            if rng.random() < 0.5:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(rng.random() * 3 * TICK)

    async def meddle(self) -> None:
        """Do what users may do, and what Kafka does."""
        rng = self.world.rng
        for _ in range(rng.choice([0, 2, 5, 10])):
            await trio.sleep(rng.random() * 10 * TICK)
            for _ in range(rng.randrange(4)):
                await trio.lowlevel.checkpoint()
            deed = rng.choice(
                ["revoke", "revoke", "lose", "pause", "commit", "limit", "refuse"]
            )
            self.world.note(f"{self}: {deed}")
            match deed:
                case "revoke" | "lose":
                    self.move(deed)
                case "pause":
                    partition = rng.randrange(self.world.partitions)
                    self.pipeline.pause("t", partition)
                    await trio.sleep(rng.random() * 10 * TICK)
                    self.pipeline.resume("t", partition)
                case "commit":
                    with contextlib.suppress(KafkaFailure):  # after a loss
                        await self.pipeline.commit()
                case "limit":
                    if self.pipeline.rate_limit is not None or rng.random() < 0.5:
                        limit = rng.choice([None, self.limit, RateLimit(messages=1, per=TICK)])
                        self.pipeline.rate_limit = limit
                        self.limited = False
                case "refuse":
                    self.world.broker.fail_next("commit", "REBALANCE_IN_PROGRESS")
        for partition in range(self.world.partitions):
            self.pipeline.resume("t", partition)

    def move(self, how: str) -> None:
        broker, rng = self.world.broker, self.world.rng
        owned = sorted(self.client._member.owned)
        if not owned or self.client._member.fenced:
            return
        chosen = rng.sample(owned, rng.randint(1, len(owned)))
        others = [m.client for m in self.world.members if m.is_open and hasattr(m, "pipeline")]
        to = rng.choice([self.client, *others])
        try:
            (broker.rebalance if how == "revoke" else broker.lose)(self.client, chosen, to=to)
        except ValueError:
            pass  # it is no member yet, or no longer


class World:
    """One run, as its seed has it."""

    def __init__(self, rng: random.Random, *, failing: bool) -> None:
        self.rng = rng
        self.failing = failing
        self.wrong: list[str] = []
        self.trace: list[str] = []
        self.partitions = rng.randint(1, 3)
        self.counts = [rng.randint(0, 40) for _ in range(self.partitions)]
        self.broker = FakeBroker(
            topics={"t": self.partitions}, poll_interval=rng.choice([POLL, math.inf])
        )
        for partition, count in enumerate(self.counts):
            for _ in range(count):
                key = rng.choice([b"K", b"L", None])
                self.broker.produce("t", b"v", key=key, partition=partition)
        self.members = [Member(self, name) for name in ("one", "two")[: rng.randint(1, 2)]]

    def note(self, what: str) -> None:
        self.trace.append(f"{trio.current_time():.4f} {what}")

    def may_fail(self, doing: str) -> None:
        if self.failing and self.rng.random() < 0.1:
            self.note(f"{doing} fails")
            raise Planned(doing)

    async def suspend(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            await trio.lowlevel.checkpoint()
        if self.rng.random() < 0.3:
            await trio.sleep(self.rng.random() * TICK)

    async def behave(self, manner: str) -> None:
        match manner:
            case "suspends":
                await self.suspend()
            case "sleeps":
                await trio.sleep(self.rng.random() * 4 * TICK)
            case "sleeps long":
                await trio.sleep(self.rng.random() * 60 * TICK)
            case "resists":
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.rng.random() * 10 * TICK)
            case "swallows":
                try:
                    await trio.sleep(self.rng.random() * 4 * TICK)
                except trio.Cancelled:
                    pass

    def is_committed(self) -> bool:
        return all(
            (self.broker.committed("t", partition) or 0) >= count
            for partition, count in enumerate(self.counts)
        )

    async def main(self) -> None:
        async with trio.open_nursery() as nursery:
            for member in self.members:
                nursery.start_soon(member.live)
        self.check_commits()

    def check_commits(self) -> None:
        members = {member.client: member for member in self.members}
        last: dict[int, AcceptedCommit] = {}
        told: dict[Epoch, set[int]] = {}  # finished by others, as it was told
        for commit in self.broker.commits:
            member = members[commit.client]  # type: ignore[index]
            name = f"{commit.partition} epoch {commit.epoch} up to {commit.offset}"
            before = last.get(commit.partition)
            place = (commit.partition, commit.epoch)
            epoch = member.epochs.get(place)
            if epoch is None:  # nothing was handled: all was finished before
                epoch = Epoch(member, *place, before.offset if before is not None else 0)
                member.epochs[place] = epoch
            if epoch not in told:
                told[epoch] = _mapped(before)
                if again := told[epoch] & epoch.finished.keys():
                    self.wrong.append(f"{member}: of {name} {again} were handled again")
            last[commit.partition] = commit
            missing = [
                offset
                for offset in (*range(epoch.base, commit.offset), *_mapped(commit))
                if not epoch.finished.get(offset, math.inf) <= commit.time
                and offset not in told[epoch]
            ]
            if missing:
                self.wrong.append(f"{member}: committed {name}, though {missing} were not done")
            if epoch.failed and commit.time > epoch.leaving_at + POLL + 1e-9:
                self.wrong.append(
                    f"{member}: committed {name} at {commit.time}, though leaving had failed, "
                    f"which began at {epoch.leaving_at}"
                )


def _mapped(commit: AcceptedCommit | None) -> set[int]:
    """The offsets that a commit tells of beyond its own."""
    if commit is None or not commit.metadata:
        return set()
    runs = decode(commit.metadata, commit.offset, commit.metadata.split(":")[1])
    return {offset for run in runs for offset in range(*run)}


def key_of(message: Message) -> bytes | None:
    return message.key


def run(seed: int, *, failing: bool) -> World:
    rng = random.Random(f"{failing} {seed}")
    world = World(rng, failing=failing)
    try:
        simulate(world.main, rng, horizon=300.0, steps=300_000)
    except trio.TooSlowError:
        world.wrong.append("it came to a stop")
    except OutOfSteps:
        world.wrong.append("it spins")
    return world
