"""What goes wrong by itself on a `FakeBroker`: a plan as data, and its carrying out.

A plan is a pure value: the same one makes the same trouble, may be written into a test, and
made smaller until it is the least that shows what is wrong.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from trio_broadway_kafka.testing._fake_cluster import Cluster
    from trio_broadway_kafka.testing._fake_failures import Operation
    from trio_broadway_kafka.testing._fake_group import Group, Member

__all__ = ["Chaos", "ChaosRun", "Fault", "FaultKind"]

FaultKind = Literal[
    "revoke",
    "lose",
    "freeze",
    "outage",
    "slow",
    "gap",
    "commit",
    "fetch",
    "produce",
    "transaction",
]

# What a broker may answer and a client bears. One that ends a pipeline is no trouble that it
# could survive: `FakeBroker.fail_next` is for those.
_CODES: dict[str, tuple[str, ...]] = {
    "commit": (
        "REBALANCE_IN_PROGRESS",
        "NOT_COORDINATOR",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "ILLEGAL_GENERATION",
        "REQUEST_TIMED_OUT",
    ),
    "fetch": ("NOT_LEADER_FOR_PARTITION", "_TRANSPORT", "UNKNOWN_LEADER_EPOCH"),
    "produce": ("NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT"),
    "transaction": ("NOT_COORDINATOR", "COORDINATOR_LOAD_IN_PROGRESS"),
}

# Kinds by how often they come. Moves of partitions are what most is to go wrong with.
_KINDS: tuple[FaultKind, ...] = (
    *("revoke",) * 4,
    *("lose",) * 2,
    *("commit",) * 3,
    "freeze",
    "outage",
    "slow",
    "gap",
    "fetch",
    "produce",
    "transaction",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at: seconds after the first client has joined.
        kind: "revoke" and "lose" (partitions of a member move), "freeze" (a member stands
            still), "outage" (the broker answers nobody), "slow" (each request takes a second
            more), "gap" (offsets without a record), or a request that fails for now:
            "commit", "fetch", "produce", "transaction".
        target: chooses the member, the partitions and the error, whatever there is then.
        lasts: seconds, of a "freeze", an "outage" and what is "slow".
    """

    at: float
    kind: FaultKind
    target: int = 0
    lasts: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind must be one of {get_args(FaultKind)}, not {self.kind!r}")
        if not 0 <= self.at < math.inf or not 0 <= self.lasts < math.inf:
            raise ValueError(f"at and lasts must be finite and not negative: {self!r}")
        if self.target < 0:
            raise ValueError(f"target must not be negative, not {self.target!r}")


@dataclass(frozen=True, slots=True)
class Chaos:
    """What goes wrong on a broker, and when.

    Attributes:
        faults: in any order.
        latency: each request takes up to so many seconds.
        seed: of the latencies.
    """

    faults: tuple[Fault, ...] = ()
    latency: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.latency < math.inf:
            raise ValueError(f"latency must be finite and not negative, not {self.latency!r}")

    @classmethod
    def from_seed(cls, seed: int, *, duration: float = 30.0) -> Chaos:
        """Plan up to twelve faults within `duration` seconds; what lasts, lasts up to a fifth.

        The same seed gives the same plan, in every process.
        """
        rng = random.Random(f"chaos {seed}")
        faults = [
            Fault(
                at=round(rng.uniform(0, duration), 3),
                kind=rng.choice(_KINDS),
                target=rng.randrange(1000),
                lasts=round(rng.uniform(0, duration / 5), 3),
            )
            for _ in range(rng.choice([0, 1, 2, 4, 8, 12]))
        ]
        faults.sort(key=lambda fault: fault.at)
        return cls(tuple(faults), rng.choice([0.0, 0.001, 0.05, 0.5]), seed)


class ChaosRun:
    """A plan being carried out on a cluster: by whoever waits for the cluster when it is due.

    Attributes:
        happened: how many faults of each kind have had something to act on.
    """

    def __init__(self, plan: Chaos, cluster: Cluster) -> None:
        self.happened: Counter[str] = Counter()
        self._plan = plan
        self._cluster = cluster
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._began = False
        self._slow = 0  # how many of those are under way
        self._outages = 0

    def begin(self, now: float) -> None:
        """The first client has come: times count from now. Called again, it does nothing."""
        if self._began:
            return
        self._began = True
        for fault in self._plan.faults:
            self._at(now + fault.at, partial(self._make, fault, now + fault.at))

    def latency(self, operation: Operation, sent_at: float) -> float:
        """Seconds that a request takes, always the same for the same request."""
        seconds = 1.0 if self._slow else 0.0
        if self._plan.latency:
            name = f"{self._plan.seed} {operation} {sent_at:.6f}"
            seconds += self._plan.latency * zlib.crc32(name.encode()) / 2**32
        return seconds

    @property
    def next_at(self) -> float:
        """When the next thing is due, inf if nothing is."""
        return self._due[0][0] if self._due else math.inf

    def carry_out(self, now: float) -> None:
        """Do what is due."""
        while self.next_at <= now:
            _, _, deed = heapq.heappop(self._due)
            deed()
            self._cluster.changed()

    def _at(self, time: float, deed: Callable[[], object]) -> None:
        heapq.heappush(self._due, (time, next(self._numbers), deed))

    def _make(self, fault: Fault, now: float) -> None:
        match fault.kind:
            case "revoke" | "lose":
                has_happened = self._move(fault)
            case "freeze":
                has_happened = self._freeze(fault, now)
            case "outage":
                self._outages += 1
                self._cluster.running = False
                self._at(now + fault.lasts, self._end_outage)
                has_happened = True
            case "slow":
                self._slow += 1
                self._at(now + fault.lasts, self._end_slow)
                has_happened = True
            case "gap":
                logs = [log for logs in self._cluster.topics.values() for log in logs]
                if has_happened := bool(logs):
                    logs[fault.target % len(logs)].skip(1 + fault.target % 3)
            case _:
                codes = _CODES[fault.kind]
                code = codes[fault.target % len(codes)]
                self._cluster.failures.add(fault.kind, code, 1 + fault.target % 3)
                has_happened = True
        self.happened[fault.kind] += has_happened

    def _end_outage(self) -> None:
        self._outages -= 1
        self._cluster.running = not self._outages

    def _end_slow(self) -> None:
        self._slow -= 1

    def _members(self) -> list[tuple[Group, Member]]:
        return [
            (group, member)
            for group in self._cluster.groups
            for member in group.members
            if not member.fenced
        ]

    def _move(self, fault: Fault) -> bool:
        owners = [(group, member) for group, member in self._members() if member.owned]
        if not owners or not self._cluster.running:
            return False
        group, member = owners[fault.target % len(owners)]
        owned = sorted(member.owned)
        count = 1 + fault.target % len(owned)
        chosen = [owned[(fault.target + index) % len(owned)] for index in range(count)]
        # A member gets what it has asked for only.
        takers = [other for other in group.members if other.topics == member.topics]
        group.move(chosen, member, takers[fault.target % len(takers)])
        if fault.kind == "lose":
            group.take_away(member, chosen)
        return True

    def _freeze(self, fault: Fault, now: float) -> bool:
        members = [
            member for _, member in self._members() if member.client not in self._cluster.frozen
        ]
        if not members:
            return False
        member = members[fault.target % len(members)]
        self._cluster.freeze(member, now)
        self._at(now + fault.lasts, lambda: self._cluster.frozen.discard(member.client))
        return True
