"""What happens in a soak, as data: the same seed, the same deeds at the same times."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["MAX_MEMBERS", "Deed", "Kind", "schedule"]

Kind = Literal["join", "leave", "kill", "stop", "restart broker", "stop broker"]

MAX_MEMBERS: Final = 5

# By how often they come.
_KINDS: tuple[Kind, ...] = (
    *("join",) * 6,
    *("leave",) * 4,
    *("kill",) * 4,
    *("stop",) * 3,
    "restart broker",
    "stop broker",
)


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that happens.

    Attributes:
        after: seconds since the one before.
        kind: to a member, or the broker.
        target: chooses the member among those that run then.
        lasts: seconds, of what is stopped.
    """

    after: float
    kind: Kind
    target: int
    lasts: float


def schedule(seed: int) -> Iterator[Deed]:
    """Deeds without end: one every 2 s on average."""
    rng = random.Random(f"soak {seed}")
    while True:
        yield Deed(
            after=round(rng.uniform(0, 4), 2),
            kind=rng.choice(_KINDS),
            target=rng.randrange(1000),
            # Some shorter than a session, some longer.
            lasts=round(rng.uniform(0.2, 6), 2),
        )
