"""Whole pipelines on a `FakeBroker`, run from a plan and watched at every step by a model.

The model knows what was produced, what handlers did and when, and reads what the broker
accepted. What goes wrong is a list of sentences: an exception in an instrument of trio's would
be logged, and the run would pass.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.simulation._plans import Deed, MemberPlan, Plan
from trio_broadway_kafka import (
    Batch,
    Batcher,
    DeadLetter,
    FailurePolicy,
    FencedError,
    KafkaFailure,
    Message,
    Output,
    PausePartition,
    Pipeline,
    RateLimit,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._offset_map import decode
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka.testing import FakeBroker, OutOfSteps, simulate
from trio_broadway_kafka.testing._fake_cluster import AcceptedCommit
from trio_broadway_kafka.testing._scheduler import Skewed

__all__ = ["Report", "run"]

Place = tuple[int, int]

PATIENCE = 100.0  # virtual seconds until all must be committed
LOOK_EVERY = 16  # steps between two looks at the statistics


@dataclass
class Report:
    """What came of a run.

    Attributes:
        wrong: sentences; none if all held.
        survived: faults and deeds, by kind.
        records: how many were to be handled.
        again: how many times one was finished again.
        trace: what happened, in order: the same for the same plan.
    """

    wrong: list[str] = field(default_factory=list[str])
    survived: Counter[str] = field(default_factory=Counter[str])
    records: int = 0
    again: int = 0
    trace: list[str] = field(default_factory=list[str])


class Mishap(Exception):
    """What the handlers raise."""


class World(trio.abc.Instrument):
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.report = Report()
        self.rng: random.Random = Skewed(f"run {plan.seed}", plan.skew)
        topics = {"t": plan.partitions, "out": 1, "letters": 1}
        self.broker = FakeBroker(
            topics=topics,
            poll_interval=plan.poll_interval,
            session_timeout=plan.session_timeout,
            chaos=plan.chaos,
        )
        for number in range(plan.records):
            self.produce(number)
        self.members = [
            Member(self, number, member) for number, member in enumerate(plan.members)
        ]
        self.finished: dict[Place, float] = {}  # when it first was
        self.handled: Counter[Place] = Counter()
        self.failed_once: set[Place] = set()
        self.committed: Counter[int] = Counter()
        self.seen_commits = 0
        self.steps = 0

    def produce(self, number: int) -> None:
        key = b"%d" % (number % self.plan.keys)
        self.broker.produce(
            "t", b"%d" % number, key=key, partition=number % self.plan.partitions
        )

    def wrong(self, what: str) -> None:
        if len(self.report.wrong) < 20:
            self.report.wrong.append(f"{self.note(what)}")

    def note(self, what: str) -> str:
        line = f"{trio.current_time():.4f} {what}"
        self.report.trace.append(line)
        return line

    # At every step.

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        try:
            self.steps += 1
            self.look_at_commits()
            if not self.steps % LOOK_EVERY:
                for member in self.members:
                    member.look()
        except Exception as error:  # it would be logged, and the run would pass
            self.wrong(f"the model itself: {error!r}")

    def look_at_commits(self) -> None:
        commits = self.broker._cluster.commits
        while self.seen_commits < len(commits):
            commit = commits[self.seen_commits]
            self.seen_commits += 1
            if commit.topic == "t":
                self.check(commit)

    def check(self, commit: AcceptedCommit) -> None:
        """Nothing is committed past a record that nobody has finished, nor goes back."""
        partition, offset = commit.partition, commit.offset
        self.note(f"committed {partition} at {offset} {commit.metadata[:12]!r}")
        before = self.committed[partition]
        if offset < before:
            self.wrong(f"the offset of {partition} went back from {before} to {offset}")
        self.committed[partition] = max(offset, before)
        mapped: set[int] = set()
        if commit.metadata:
            runs = decode(commit.metadata, offset, commit.metadata.split(":")[1])
            mapped = {one for run in runs for one in range(*run)}
        for record in self.broker._cluster.topics["t"][partition].records:
            one = record.offset()
            if (before <= one < offset or one in mapped) and (
                partition,
                one,
            ) not in self.finished:
                self.wrong(f"{partition} at {offset} tells of {one}, which nobody has finished")

    def finish(self, messages: Iterable[Message]) -> None:
        now = trio.current_time()
        for message in messages:
            place = (message.partition, message.offset)
            self.finished.setdefault(place, now)
            self.handled[place] += 1

    # At the end.

    async def main(self) -> None:
        async with trio.open_nursery() as nursery:
            for member in self.members:
                nursery.start_soon(member.live)
            nursery.start_soon(self.produce_later)

    async def produce_later(self) -> None:
        for number in range(self.plan.later):
            await trio.sleep(0.1)
            self.produce(self.plan.records + number)

    def is_done(self) -> bool:
        logs = self.broker._cluster.topics["t"]
        produced = sum(len(log.records) for log in logs)
        return produced == self.plan.records + self.plan.later and all(
            not log.records
            or (self.broker.committed("t", number) or 0) > log.records[-1].offset()
            for number, log in enumerate(logs)
        )

    def check_end(self) -> None:
        report = self.report
        wanted = {
            (number, record.offset())
            for number, log in enumerate(self.broker._cluster.topics["t"])
            for record in log.records
        }
        report.records = len(wanted)
        if lost := wanted - self.finished.keys():
            self.report.wrong.append(f"lost: {sorted(lost)[:5]}")
        report.again = self.handled.total() - len(self.handled)
        report.survived.update(self.broker.faults)
        if self.plan.output != "none":
            self.check_outputs()

    def check_outputs(self) -> None:
        """What was produced: once under transactions, at least once without."""
        times = Counter(record.value() for record in self.broker.records("out"))
        values = {b"%d" % n for n in range(self.plan.records + self.plan.later)}
        if times.keys() - values:
            self.report.wrong.append(f"never there: {times.keys() - values}")
        if lost := values - times.keys() - self.without_output:
            self.report.wrong.append(f"without an output: {sorted(lost)[:5]}")
        twice = {value for value, count in times.items() if count > 1}
        if self.plan.output == "transactional" and twice:
            self.report.wrong.append(f"there twice: {sorted(twice)[:5]}")  # type: ignore[type-var]

    @property
    def without_output(self) -> set[bytes]:
        """What was skipped or set aside, by one member or another."""
        records = {
            (number, record.offset()): record.value() or b""
            for number, log in enumerate(self.broker._cluster.topics["t"])
            for record in log.records
        }
        return {records[place] for place in self.skipped}

    skipped: set[Place]


class Member:
    """A member of the group: one process after another, as its deeds have it."""

    def __init__(self, world: World, number: int, plan: MemberPlan) -> None:
        self.world = world
        self.number = number
        self.plan = plan
        self.pipeline: Pipeline | None = None
        self.lanes: dict[Any, int] = {}  # what is handled in a lane now
        self.partitions: Mapping[TopicPartition, PartitionOffsets] = {}  # its assignments
        self.last: dict[Any, int] = {}  # what was started in a lane of an epoch

    def __repr__(self) -> str:
        return f"member {self.number}"

    def look(self) -> None:
        """What holds of its statistics at every moment."""
        if self.pipeline is None:
            return
        now = self.pipeline.statistics()
        if now.in_flight > self.plan.max_in_flight:
            self.world.wrong(f"{self}: {now.in_flight} in flight")
        if min(now.in_flight, now.queued, now.busy, now.in_flight_bytes) < 0:
            self.world.wrong(f"{self}: negative statistics: {now}")

    # Stages.

    def stages(self) -> Any:
        if not self.plan.by_partition:
            return self.make_stages()

        @asynccontextmanager
        async def context(topic: str, partition: int) -> Any:
            await self.work(0.1)
            yield self.make_stages()
            await self.work(0.1)

        return context

    def make_stages(self) -> Stages:
        plan = self.plan
        batchers = {}
        if plan.batch_size:
            batchers["default"] = Batcher(
                handle_batch=self.handle_batch,
                size=plan.batch_size,
                timeout=plan.batch_timeout,
                concurrency=plan.batch_concurrency,
            )
        return Stages(
            handle_message=self.handle if plan.by_message else None,
            prepare_messages=self.prepare if plan.prepares else None,
            batchers=batchers,
            ordering=plan.ordering,
            concurrency=plan.concurrency,
            on_failure=self.choose,
        )

    async def work(self, longest: float) -> None:
        rng = self.world.rng
        with trio.CancelScope(shield=rng.random() < self.plan.resisting):
            if longest and rng.random() < 0.8:
                await trio.sleep(rng.random() * longest)
            else:
                for _ in range(rng.randrange(4)):
                    await trio.lowlevel.checkpoint()

    async def prepare(self, messages: list[Message]) -> None:
        await self.work(self.plan.work / 4)

    def lane_of(self, message: Message) -> Any:
        # Of an assignment: one that comes back does not wait for handlers that resisted.
        assigned = self.partitions[TopicPartition("t", message.partition)]
        match self.plan.ordering:
            case "key":
                return (assigned, message.key)
            case "partition":
                return assigned
            case _:
                return (assigned, message.offset)

    async def handle(self, message: Message) -> None:
        world = self.world
        lane = self.lane_of(message)
        if (other := self.lanes.get(lane)) is not None:
            world.wrong(f"{self}: {message!r} overlaps {other}")
        self.lanes[lane] = message.offset
        world.note(f"{self}: {message.partition}/{message.offset} starts")
        try:
            await self.work(self.plan.work)
            self.fail_once([message])
            self.produce(message)
            if not self.plan.batch_size:
                world.note(f"{self}: {message.partition}/{message.offset} is done")
                world.finish([message])
        finally:
            if self.lanes.get(lane) == message.offset:
                del self.lanes[lane]

    def fail_once(self, messages: Iterable[Message]) -> None:
        """A message fails the first time, if it does: later ones may go well."""
        world = self.world
        for message in messages:
            place = (message.partition, message.offset)
            chance = random.Random(f"{world.plan.seed} {place}").random()
            if chance < self.plan.failing and place not in world.failed_once:
                world.failed_once.add(place)
                raise Mishap

    def produce(self, message: Message) -> None:
        if self.world.plan.output != "none":
            message.produce("out", value=message.value, partition=0)

    async def handle_batch(self, batch: Batch) -> None:
        await self.work(self.plan.work)
        if not self.plan.by_message:
            self.fail_once(batch.messages)
            for message in batch.messages:
                self.produce(message)
        self.world.finish(batch.messages)

    def choose(self, message: Message) -> FailurePolicy:
        place = (message.partition, message.offset)
        match self.plan.policy:
            case "retry":
                return Retry(attempts=10, wait_initial=0.05, wait_jitter=0)
            case "pause":
                return PausePartition(seconds=0.2)
            case "dead letter":
                self.world.finish([message])
                self.world.skipped.add(place)
                return DeadLetter("letters")
            case _:
                self.world.finish([message])
                self.world.skipped.add(place)
                return Skip()

    # The run.

    async def live(self) -> None:
        """One process after another."""
        deeds = [*self.plan.deeds]
        life = 0
        while True:
            life += 1
            self.lanes.clear()
            ended = await self.be_a_process(deeds, life)
            if ended == "done":
                return
            self.world.report.survived[ended] += 1
            await trio.sleep(self.world.rng.random())

    async def be_a_process(self, deeds: list[Deed], life: int) -> str:
        plan, world = self.plan, self.world
        client = world.broker.client()
        output = None
        if world.plan.output == "transactional":
            output = Output(transactional_id=f"{self}", transaction_interval=0.1)
        world.note(f"{self}: process {life}")
        how = "failed"
        try:
            with trio.CancelScope() as scope:
                opening = open_pipeline(
                    client=client,
                    topics=["t"],
                    stages=self.stages(),
                    output=output,
                    commit_interval=plan.commit_interval,
                    revoke_timeout=plan.revoke_timeout,
                    drain_timeout=plan.drain_timeout,
                    close_timeout=plan.close_timeout,
                    max_in_flight=plan.max_in_flight,
                )
                self.partitions = opening.pipeline._partitions
                async with opening as pipeline:
                    self.pipeline = pipeline
                    how = await self.suffer(deeds, pipeline)
                    world.note(f"{self}: {how}")
                    if how == "kill":
                        with contextlib.suppress(ValueError):  # no member at the moment
                            world.broker.freeze(client)
                    if how in ("kill", "cancel"):
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
        except* KafkaFailure as group:
            how = self.look_at_failures(group)
        self.pipeline = None
        return how

    def look_at_failures(self, group: BaseExceptionGroup[KafkaFailure]) -> str:
        """What may end a pipeline: what can't be survived by it, and is by the next one."""
        for error in group.exceptions:
            if not isinstance(error, FencedError) and not getattr(error, "retriable", False):
                self.world.wrong(f"{self} ended: {error!r}")
        return "failed"

    async def suffer(self, deeds: list[Deed], pipeline: Pipeline) -> str:
        """What is planned; then wait until all is done."""
        world = self.world
        while deeds:
            deed = deeds.pop(0)
            await trio.sleep_until(deed.at)
            match deed.kind:
                case "pause":
                    partition = deed.target % world.plan.partitions
                    pipeline.pause("t", partition)
                    await trio.sleep(deed.target / 100)
                    pipeline.resume("t", partition)
                case "commit":
                    with contextlib.suppress(KafkaFailure), trio.move_on_after(5):
                        await pipeline.commit()
                case "look":
                    pipeline.statistics()
                case "limit":
                    pipeline.rate_limit = RateLimit(messages=1 + deed.target)
                case "drain":
                    await pipeline.drain(timeout=deed.target / 50)
                    return "drain"
                case "cancel" | "kill" | "end":
                    return deed.kind
        pipeline.rate_limit = None
        with trio.move_on_after(PATIENCE) as patience:
            while not world.is_done():
                await trio.sleep(0.25)
                with contextlib.suppress(KafkaFailure), trio.move_on_after(5):
                    await pipeline.commit()
        if patience.cancelled_caught:
            world.wrong(f"{self}: stalled at {pipeline.statistics()}")
        return "done"


def run(plan: Plan) -> Report:
    """Run a plan: a pure function of it."""
    world = World(plan)
    world.skipped = set()
    report = world.report
    try:
        simulate(
            world.main, world.rng, horizon=5 * PATIENCE, steps=1_000_000, instruments=[world]
        )
    except trio.TooSlowError:
        report.wrong.append("it came to a stop")
    except OutOfSteps:
        report.wrong.append("it spins")
    except Exception as error:
        report.wrong.append(f"it ended with {error!r}")
    world.check_end()
    return report
