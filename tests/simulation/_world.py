"""A small world around the real processors: a log to read, faults, and a model that watches.

A `Plan` is data, and a run is a pure function of it: `run(plan)` returns what went wrong, as
sentences (nothing: an empty list). Violations are noted, not raised: an exception in a
handler would be the handler's own.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

import trio
import trio.testing

from tests._records import Record, arrive
from trio_broadway_kafka import Message, Retry, Skip, Stages
from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._connect import make_lanes
from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka.testing._scheduler import simulate

# How a handler may behave, and what of it the model has to know: whether an end by a
# cancellation is possible at all.
MANNERS = (
    "returns",
    "suspends",
    "sleeps",
    "raises",
    "suspends, raises",
    "fails",
    "suspends, fails",
    "shields itself",
    "swallows its cancellation",
    "turns its cancellation into an error",
    "has a nursery",
)
FAULTS = ("revoke", "lose", "interrupt", "hold", "truncate", "share")
ORDERINGS = ("key", "partition", "unordered", "function")

TICK = 0.001


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens in a run."""

    seed: int
    ordering: str
    concurrency: int
    keys: tuple[bytes | None, ...]
    messages: tuple[int, ...]  # by partition
    largest_segment: int
    share: int
    suspending: float  # the part of handlers that do anything but return
    manners: tuple[str, ...]
    faults: tuple[tuple[str, float, int], ...]  # kind, time, partition or processor
    cancelled_at: float | None
    settling: float = 0.0  # the part of failures that handle_failed suspends for
    retrying: float = 0.0  # the part of failures that are tried again


def make_plan(seed: int, ordering: str) -> Plan:
    rng = random.Random(f"{ordering} {seed}")
    partitions = rng.randint(1, 3)
    faults = sorted(
        (rng.uniform(0, 15 * TICK), rng.choice(FAULTS), rng.randrange(8))
        for _ in range(rng.choice([0, 1, 3, 6, 10]))
    )
    return Plan(
        seed=seed,
        ordering=ordering,
        concurrency=rng.randint(1, 8),
        keys=tuple(rng.choices([b"K", b"L", b"M", b"N", None], k=rng.randint(1, 9))),
        messages=tuple(rng.randint(1, 50) for _ in range(partitions)),
        largest_segment=rng.choice([1, 3, 10, 30]),
        share=rng.choice([1, 2, 5, 1000]),
        suspending=rng.choice([0.1, 0.5, 1.0]),
        manners=tuple(rng.sample(MANNERS, rng.randint(1, len(MANNERS)))),
        faults=tuple((kind, time, target) for time, kind, target in faults),
        cancelled_at=rng.uniform(0, 10 * TICK) if rng.random() < 0.3 else None,
        settling=rng.choice([0.0, 0.5, 1.0]),
        retrying=rng.choice([0.0, 0.5, 0.9]),
    )


class World:
    """One run of a plan."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self.plan = plan
        self.rng = rng
        self.wrong: list[str] = []
        self.trace: list[str] = []
        ordering = plan.ordering
        stages = Stages(
            handle_message=self.handle,
            handle_failed=self.handle_failed if plan.settling else None,
            ordering=function_lane if ordering == "function" else ordering,  # type: ignore[arg-type]
            concurrency=plan.concurrency,
            on_failure=self.choose if plan.retrying else Skip(),
        )
        self.lanes = make_lanes(stages, share=plan.share)
        self.assignment = Assignment(
            stages,
            self.lanes,
            want=self.want,
            finished=None,
            # It is made before `simulate`, which sets what paces those made in it.
            clock=itertools.count().__next__,
        )
        self.states = [PartitionOffsets("t", n, 0) for n in range(len(plan.messages))]
        self.assignment.add(self.states)
        self.cancelled = False
        self.revoking: set[int] = set()
        self.held: set[PartitionOffsets] = set()
        # The model: what arrived by assignment, and what has become of it.
        self.arrived: dict[PartitionOffsets, list[Record]] = {s: [] for s in self.states}
        self.finished: set[Record] = set()
        self.cut_off: set[Record] = set()
        self.active: dict[Hashable, Record] = {}

    # The log.

    def first_offset(self, partition: int) -> int:
        return partition * 1000

    def offsets_from(self, partition: int, position: int | None) -> list[int]:
        """The offsets of the log that are still to be read; every seventh is a gap."""
        first = self.first_offset(partition)
        last = first + self.plan.messages[partition]
        start = first if position is None else position
        return [offset for offset in range(start, last) if offset % 7]

    def key_of(self, offset: int) -> bytes | None:
        return self.plan.keys[offset % len(self.plan.keys)]

    async def feed(self) -> None:
        """Deliver what is to be read, in segments of random sizes at random moments."""
        while True:
            for partition, state in enumerate(self.states):
                position = state.committed if state.position is None else state.position
                rest = self.offsets_from(partition, position)
                if not rest or state.draining or self.rng.random() < 0.5:
                    continue
                count = self.rng.randint(1, self.plan.largest_segment)
                segment = arrive(state, rest[:count], self.lanes, key=self.key_of)
                records = list(segment.items)
                segment.put_back(records)
                self.arrived[state] += [raw for raw, _ in records]
                self.assignment.received([segment])
            if self.rng.random() < 0.5:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(TICK * self.rng.random())

    def want(self) -> None:
        """As the source does: what was held may be let go as more is wanted."""
        for state in [*self.held]:
            if self.rng.random() < 0.7:
                self.let_go(state)

    def let_go(self, state: PartitionOffsets) -> None:
        self.held.discard(state)
        assert not isinstance(self.lanes, PartitionLanes)
        self.lanes.let_go(state)

    # Handlers.

    def lane_of(self, raw: Record) -> Hashable:
        match self.plan.ordering:
            case "key":
                return (raw.partition(), raw.key())
            case "partition":
                return raw.partition()
            case "function":
                return raw.key()
            case _:
                return raw

    async def handle(self, message: Message) -> None:
        raw: Record = message._record  # type: ignore[assignment]
        self.check_start(raw)
        lane = self.lane_of(raw)
        self.active[lane] = raw
        ended = "finished"
        try:
            await self.behave(message)
        except Exception:
            raise
        except BaseException:
            ended = "cut off"
            raise
        finally:
            if self.active.get(lane) is raw:
                del self.active[lane]
            self.trace.append(f"{raw.state!r} {raw.offset()} {ended}")
            (self.finished if ended == "finished" else self.cut_off).add(raw)

    async def handle_failed(self, messages: list[Message]) -> None:
        """Comes with no step in between, so that the lane has been held all the time."""
        (message,) = messages
        raw: Record = message._record  # type: ignore[assignment]
        lane = self.lane_of(raw)
        if (other := self.active.get(lane)) is not None:
            self.wrong.append(f"{raw.offset()} is settled while {other.offset()} is handled")
        self.active[lane] = raw
        self.finished.discard(raw)
        settled = self.cut_off
        try:
            if self.rng.random() < self.plan.settling:
                await self.suspend()
            settled = self.finished
        finally:
            if self.active.get(lane) is raw:
                del self.active[lane]
            settled.add(raw)
            self.trace.append(f"{raw.state!r} {raw.offset()} settled: {raw in self.finished}")

    def choose(self, message: Message) -> Retry | Skip:
        """Comes with no step after the handler: the lane has been held all the time."""
        if self.rng.random() > self.plan.retrying:
            return Skip()
        raw: Record = message._record  # type: ignore[assignment]
        self.finished.discard(raw)
        self.cut_off.add(raw)
        self.trace.append(f"{raw.state!r} {raw.offset()} is to be tried again")
        wait = self.rng.random() * 3 * TICK
        return Retry(attempts=math.inf, wait_initial=wait, wait_exp_base=1, wait_jitter=0)

    def check_start(self, raw: Record) -> None:
        name = f"{raw.state!r} {raw.offset()}"
        self.trace.append(f"{name} starts")
        lane = self.lane_of(raw)
        if raw.state.draining:
            self.wrong.append(f"{name} started though its partition was being drained")
        if trio.current_effective_deadline() == -math.inf and not self.cancelled:
            self.wrong.append(f"{name} started in a scope that was cancelled")
        if raw in self.finished:
            self.wrong.append(f"{name} started again though it had finished")
        if (other := self.active.get(lane)) is not None:
            self.wrong.append(f"{name} overlaps {other.state!r} {other.offset()}")
        for other in self.arrived[raw.state]:
            if other is raw:
                break
            if other not in self.finished and self.lane_of(other) == lane:
                self.wrong.append(f"{name} started before {other.offset()} had finished")

    async def behave(self, message: Message) -> None:
        rng = self.rng
        if rng.random() > self.plan.suspending:
            return
        manner = rng.choice(self.plan.manners)
        if manner.startswith(("suspends", "shields")):
            with trio.CancelScope(shield=manner.startswith("shields")):
                await self.suspend()
        if manner == "sleeps":
            await trio.sleep(rng.choice([0.1, 1, 10]) * TICK)
        if manner.endswith("raises"):
            raise ValueError
        if manner.endswith("fails"):
            message.fail("as planned")
        if "its cancellation" in manner:
            try:
                await self.suspend()
            except trio.Cancelled:
                if "error" in manner:
                    raise ValueError from None
                if rng.random() < 0.5:
                    with trio.CancelScope(shield=True):
                        await self.suspend()
        if manner == "has a nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.suspend)
                await self.suspend()

    async def suspend(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            await trio.lowlevel.checkpoint()
        if self.rng.random() < 0.3:
            await trio.sleep(self.rng.random() * 3 * TICK)

    # Faults.

    async def make_faults(self) -> None:
        async with trio.open_nursery() as nursery:
            for kind, time, target in self.plan.faults:
                nursery.start_soon(self.make_fault, kind, time, target)

    async def make_fault(self, kind: str, time: float, target: int) -> None:
        await trio.sleep(time)
        for _ in range(self.rng.randrange(4)):
            await trio.lowlevel.checkpoint()
        partition = target % len(self.states)
        state = self.states[partition]
        self.trace.append(f"{kind} {target}")
        match kind:
            case "revoke" if partition not in self.revoking:
                await self.revoke(partition, state)
            case "lose" if partition not in self.revoking:
                self.assignment.interrupt([state])
                self.begin_epoch(partition, state)
            case "interrupt":
                processors = self.assignment.processors.all
                if busy := [one for one in processors if one.segment is not None]:
                    busy[target % len(busy)].interrupt()
            case "hold" if not isinstance(self.lanes, PartitionLanes) and not state.draining:
                self.lanes.hold(state)
                self.held.add(state)
                await trio.sleep(5 * TICK)
                if state in self.held:
                    self.let_go(state)
                    self.assignment.processors.wake()
            case "truncate" if not state.draining:
                self.truncate(state, self.rng.randint(0, 5))
            case "share" if isinstance(self.lanes, KeyedLanes):
                self.assignment.set_share(self.rng.choice([1, 2, 5, 1000]))

    async def revoke(self, partition: int, state: PartitionOffsets) -> None:
        self.revoking.add(partition)
        await self.assignment.drain(frozenset([state]), self.rng.choice([0.0, 1.0, 3.0]) * TICK)
        self.begin_epoch(partition, state)
        self.revoking.discard(partition)

    def begin_epoch(self, partition: int, old: PartitionOffsets) -> None:
        committed = old.prefix() or old.committed
        old.live = False
        self.assignment.remove([old])
        self.held.discard(old)
        new = PartitionOffsets("t", partition, old.epoch + 1, committed)
        self.states[partition] = new
        self.arrived[new] = []
        self.assignment.add([new])

    def truncate(self, state: PartitionOffsets, keep: int) -> None:
        before = state.received
        self.lanes.truncate(state, keep)
        arrived = self.arrived[state]
        for raw in arrived[state.received :]:
            if raw in self.finished or raw in self.active.values():
                self.wrong.append(f"{raw.offset()} was forgotten though it had started")
        assert before == len(arrived)
        del arrived[state.received :]

    # The run.

    async def watch_for_idlers(self) -> None:
        """Whenever all tasks wait, no processor may be idle that could do something."""
        processors = self.assignment.processors
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if processors.running < self.plan.concurrency and processors.has_work():
                self.wrong.append("a processor is idle though there is work")
                return
            await trio.sleep(self.rng.random() * TICK)

    @property
    def complete(self) -> bool:
        for partition, state in enumerate(self.states):
            rest = self.offsets_from(partition, state.committed)
            if rest and state.prefix() != rest[-1] + 1:
                return False
        return not self.revoking

    async def main(self) -> None:
        plan = self.plan
        async with trio.open_nursery() as nursery:
            self.assignment.start(nursery)
            nursery.start_soon(self.feed)
            nursery.start_soon(self.watch_for_idlers)
            if plan.cancelled_at is not None:
                nursery.start_soon(self.make_faults)
                await trio.sleep(plan.cancelled_at)
                for _ in range(self.rng.randrange(4)):
                    await trio.lowlevel.checkpoint()
                self.trace.append("cancelled")
                self.cancelled = True
                nursery.cancel_scope.cancel()
                return
            await self.make_faults()
            while not self.complete:  # noqa: ASYNC110 - there is no event: flags are only set
                await trio.sleep(TICK)
            await self.assignment.drain(None, 1.0)
            nursery.cancel_scope.cancel()
        self.check_end()

    def check_end(self) -> None:
        for state in self.states:
            missing = [r.offset() for r in self.arrived[state] if r not in self.finished]
            if missing or state.unfinished or state.parked:
                self.wrong.append(
                    f"of {state!r} {missing} are missing, {state.unfinished} count as "
                    f"unfinished and {state.parked} as parked"
                )
        if self.active:
            self.wrong.append(f"{len(self.active)} handlers have not ended")
        for busy in getattr(self.lanes, "_busy", {}).values():
            if busy:
                self.wrong.append(f"lanes {[*busy]} are still busy")
        if self.lanes.retries or self.lanes.waiting:
            self.wrong.append("messages still wait for another attempt")
        if getattr(self.lanes, "hot", None) is not None:
            self.wrong.append("a lane is still hot")


def function_lane(message: Message) -> Hashable:
    return message.key


def run(plan: Plan) -> list[str]:
    """What went wrong in a run of this plan."""
    return run_traced(plan)[0]


def run_traced(plan: Plan) -> tuple[list[str], list[str]]:
    """What went wrong, and all that happened."""
    rng = random.Random(plan.seed)
    world = World(plan, rng)
    try:
        simulate(world.main, rng, horizon=10.0, steps=200_000)
    except trio.TooSlowError:
        missing = {
            state: [r.offset() for r in world.arrived[state] if r not in world.finished]
            for state in world.states
        }
        world.wrong.append(f"it came to a stop; not finished: {missing}")
    return world.wrong, world.trace


def shrink(plan: Plan) -> Plan:
    """A smaller plan that goes wrong too."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(plan):
            if run(candidate):
                plan, smaller = candidate, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    for n in range(len(plan.faults)):
        yield replace(plan, faults=plan.faults[:n] + plan.faults[n + 1 :])
    if len(plan.messages) > 1:
        for n in range(len(plan.messages)):
            yield replace(plan, messages=plan.messages[:n] + plan.messages[n + 1 :])
    for n, count in enumerate(plan.messages):
        for fewer in {count // 2, count - 1} - {0, count}:
            yield replace(plan, messages=(*plan.messages[:n], fewer, *plan.messages[n + 1 :]))
    if len(plan.manners) > 1:
        for n in range(len(plan.manners)):
            yield replace(plan, manners=plan.manners[:n] + plan.manners[n + 1 :])
    if len(plan.keys) > 1:
        yield replace(plan, keys=plan.keys[: len(plan.keys) // 2])
    if plan.concurrency > 1:
        yield replace(plan, concurrency=plan.concurrency - 1)
    if plan.cancelled_at is not None:
        yield replace(plan, cancelled_at=None)
    if plan.settling:
        yield replace(plan, settling=0.0)
