"""What has to hold of every case, and the line of figures that it ends with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from tests.broker._facts import Facts, show

__all__ = ["check_lanes", "settle", "watch_commits"]

Place = tuple[int, int]
"""A partition and an offset."""


def settle(
    case: int,
    protocol: str,
    produced: Mapping[int, int],
    finished: Iterable[Place],
    *,
    faults: str,
    at_most: int,
) -> int:
    """Check that nothing is lost, and how much was handled again; show the figures.

    Args:
        case: its number in the list of what must survive.
        protocol: of the group.
        produced: by partition, how many records, from offset 0 on.
        finished: each time that a handler ended well.
        faults: what was done.
        at_most: how many times a record may have been finished again, together.

    Returns:
        How many times that was.
    """
    times = Counter(finished)
    wanted = {(p, offset) for p, count in produced.items() for offset in range(count)}
    lost = wanted - times.keys()
    again = times.total() - len(times)
    show(
        f"case {case} ({protocol}): {len(wanted):,} records, {faults}; {again:,} handled again "
        f"(at most {at_most:,} may be), lost {len(lost)}"
    )
    assert not lost, f"lost: {sorted(lost)[:10]}"
    assert times.keys() == wanted, "what was never there"
    assert again <= at_most, f"{again} were handled again"
    return again


def check_lanes(started: Sequence[Place], keys: int, again: int) -> None:
    """In one member each lane goes forward; it goes back only where it begins again."""
    disorder = 0
    last: dict[Place, int] = {}
    for partition, offset in started:
        lane = (partition, offset % keys)
        disorder += offset <= last.get(lane, -1)
        last[lane] = offset
    assert disorder <= again, f"{disorder} times a lane went back"


@asynccontextmanager
async def watch_commits(
    facts: Facts, finished: Callable[[], Iterable[Sequence[tuple[object, ...]]]]
) -> AsyncIterator[dict[int, int]]:
    """Look all the time whether something is committed past a record that is not finished,
    and whether a committed offset goes back. Gives what is committed, as last seen.

    Args:
        facts: of the group.
        finished: lists of what handlers have noted as done so far, each ending in partition
            and offset; both the lists and what they hold only grow. Handlers note it before
            they end, so what is read after an answer of the broker's is complete.
    """
    reached: dict[int, int] = {}
    done: dict[int, set[int]] = defaultdict(set)
    positions: Counter[int] = Counter()

    async def look() -> None:
        committed = await facts.committed()
        for number, entries in enumerate(finished()):
            for *_, partition, offset in entries[positions[number] :]:
                done[partition].add(offset)  # type: ignore[index,arg-type]
                positions[number] += 1
        for partition, offset in committed.items():
            before = reached.get(partition, 0)
            assert offset >= before, f"{partition} went back from {before} to {offset}"
            missing = [o for o in range(before, offset) if o not in done[partition]]
            assert not missing, f"{offset} of {partition} is committed without {missing[:10]}"
            reached[partition] = offset

    async def keep_looking() -> None:
        while True:
            await look()
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_looking)
        yield reached
        nursery.cancel_scope.cancel()
    await look()
