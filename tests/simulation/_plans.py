"""Plans of whole pipelines, as data: how they are drawn from a seed, and made smaller.

A run is a pure function of its plan, so a plan that fails is a test: print it, paste it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from trio_broadway_kafka.testing import Chaos

__all__ = ["Deed", "MemberPlan", "Plan", "make_plan", "shrink"]

DeedKind = Literal["pause", "commit", "look", "drain", "cancel", "kill", "end", "limit"]
"""What happens to a member. The four before the last end it; then it comes back."""

inf: Final = math.inf
"""So that the text of a plan is a plan."""

DURATION: Final = 10.0
"""Seconds within which things go wrong."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that a member's user does, or that happens to its process."""

    at: float
    kind: DeedKind
    target: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPlan:
    """One member of the group: its stages, its options, and what becomes of it."""

    ordering: Literal["key", "partition", "unordered"] = "key"
    concurrency: int = 4
    by_message: bool = True
    batch_size: int = 0  # 0: no batcher
    batch_timeout: float = 0.1
    batch_concurrency: int = 1
    prepares: bool = False
    by_partition: bool = False  # stages of its own for each
    policy: Literal["skip", "retry", "dead letter", "pause"] = "skip"
    failing: float = 0.0  # the part of messages that fail once
    resisting: float = 0.0  # the part of handlers that shield themselves
    work: float = 0.05  # the longest time of a handler, seconds
    commit_interval: float = 0.2
    revoke_timeout: float = 5.0
    drain_timeout: float = 5.0
    close_timeout: float = 2.0
    max_in_flight: int = 100
    deeds: tuple[Deed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A group on a broker."""

    seed: int = 0  # of the scheduler, and of what the handlers do
    skew: float = 0.0
    partitions: int = 1
    records: int = 20
    keys: int = 3
    later: int = 0  # records that are produced while it runs
    output: Literal["none", "produced", "transactional"] = "none"
    poll_interval: float = 0.1
    session_timeout: float = 3.0
    members: tuple[MemberPlan, ...] = (MemberPlan(),)
    chaos: Chaos = field(default_factory=Chaos)


def make_plan(seed: int) -> Plan:
    """The plan of a seed: full load, everything that can go wrong at once."""
    rng = random.Random(f"plan {seed}")
    output = rng.choice(["none", "none", "produced", "transactional"])
    return Plan(
        seed=seed,
        skew=rng.choice([0.0, 0.0, 0.0, 0.05]),
        partitions=rng.randint(1, 4),
        records=rng.choice([5, 30, 100]),
        keys=rng.randint(1, 6),
        later=rng.choice([0, 0, 20]),
        output=output,  # type: ignore[arg-type]
        poll_interval=rng.choice([0.02, 0.1, inf]),
        session_timeout=rng.choice([1.0, 3.0]),
        members=tuple(_make_member(rng) for _ in range(rng.randint(1, 3))),
        chaos=Chaos.from_seed(seed, duration=DURATION),
    )


def _make_member(rng: random.Random) -> MemberPlan:
    by_message = rng.random() < 0.8
    return MemberPlan(
        ordering=rng.choice(["key", "partition", "unordered"]),  # type: ignore[arg-type]
        concurrency=rng.randint(1, 8),
        by_message=by_message,
        batch_size=rng.choice([1, 3, 10]) if not by_message or rng.random() < 0.3 else 0,
        batch_timeout=rng.choice([0.0, 0.05, 0.5]),
        batch_concurrency=rng.randint(1, 2),
        prepares=rng.random() < 0.2,
        by_partition=rng.random() < 0.3,
        policy=rng.choice(["skip", "retry", "dead letter", "pause"]),  # type: ignore[arg-type]
        failing=rng.choice([0.0, 0.0, 0.05, 0.3]),
        resisting=rng.choice([0.0, 0.0, 0.1]),
        work=rng.choice([0.0, 0.05, 0.5]),
        commit_interval=rng.choice([0.0, 0.1, 0.5, inf]),
        revoke_timeout=rng.choice([0.0, 0.3, 5.0]),
        drain_timeout=rng.choice([0.0, 0.3, 5.0]),
        close_timeout=rng.choice([0.0, 0.3, 2.0]),
        max_in_flight=rng.choice([10, 50, 1_000]),
        deeds=tuple(
            sorted(
                (
                    Deed(
                        round(rng.uniform(0, DURATION), 3),
                        rng.choice(
                            [
                                "pause",
                                "commit",
                                "look",
                                "limit",
                                "drain",
                                "cancel",
                                "kill",
                                "end",
                            ]
                        ),
                        rng.randrange(100),
                    )
                    for _ in range(rng.choice([0, 1, 3, 6]))
                ),
                key=lambda deed: deed.at,
            )
        ),
    )


def _without(items: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    """The same, less half of it, or less one."""
    if len(items) > 3:
        yield items[len(items) // 2 :]
        yield items[: len(items) // 2]
    for index in range(len(items)):
        yield items[:index] + items[index + 1 :]


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that are simpler by one step each, the boldest first."""
    if plan.skew:
        yield replace(plan, skew=0.0)
    if len(plan.members) > 1:
        for members in _without(plan.members):
            yield replace(plan, members=members)  # type: ignore[arg-type]
    for faults in _without(plan.chaos.faults):
        yield replace(plan, chaos=replace(plan.chaos, faults=faults))  # type: ignore[arg-type]
    if plan.chaos.latency:
        yield replace(plan, chaos=replace(plan.chaos, latency=0.0))
    if plan.later:
        yield replace(plan, later=0)
    for records in (1, 2, plan.records // 2, plan.records - 1):
        if 0 < records < plan.records:
            yield replace(plan, records=records)
    if plan.partitions > 1:
        yield replace(plan, partitions=1)
        yield replace(plan, partitions=plan.partitions - 1)
    if plan.keys > 1:
        yield replace(plan, keys=1)
    if plan.output != "none":
        yield replace(plan, output="none")
    plainest = MemberPlan()
    for index, member in enumerate(plan.members):
        for deeds in _without(member.deeds):
            yield _with_member(plan, index, replace(member, deeds=deeds))  # type: ignore[arg-type]
        for name in MemberPlan.__dataclass_fields__:
            plain = getattr(plainest, name)
            if name != "deeds" and getattr(member, name) != plain:
                changed = replace(member, **{name: plain})
                if changed.by_message or changed.batch_size:
                    yield _with_member(plan, index, changed)
        if member.concurrency > 1:
            yield _with_member(plan, index, replace(member, concurrency=1))


def _with_member(plan: Plan, index: int, member: MemberPlan) -> Plan:
    members = (*plan.members[:index], member, *plan.members[index + 1 :])
    return replace(plan, members=members)


def shrink(plan: Plan, fails: Callable[[Plan], bool], *, runs: int = 400) -> Plan:
    """Make a plan that fails smaller, step by step, as long as it fails.

    Args:
        plan: for which `fails` is true.
        fails: runs a plan.
        runs: how many may be run.
    """
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(plan):
            if runs <= 0:
                return plan
            runs -= 1
            if fails(smaller):
                plan, progress = smaller, True
                break
    return plan
