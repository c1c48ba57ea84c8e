"""What the pipeline has found out, kept in SQLite from one start to the next.

A batch is acknowledged only after what was found in it is saved, so the group's committed
offset is never ahead of what is saved. It may be behind it: after a crash some records come
again. So the offset is saved in the same transaction, and a record that is not beyond it
changes nothing.

- One file for each partition. A partition has one owner at a time, so members do not wait for
  each other's locks, and what is known of an aircraft goes with its partition to a new owner.
- Nothing is kept in memory between two batches: another member may have written meanwhile.
- Not saved apart from the batches ("save every second"): a commit could come before the save.
- Saved means that it outlives the process, not a power cut (``synchronous=NORMAL``): the same
  as Kafka, which does not wait for its disk either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from examples.flights.rotations import Aircraft, Flight, Impossible

__all__ = ["Findings", "PartitionState", "Seen", "States", "findings"]

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS aircraft (
    tailnum TEXT PRIMARY KEY, offset INTEGER NOT NULL,
    flights INTEGER NOT NULL, cancelled INTEGER NOT NULL,
    compared INTEGER NOT NULL, unknown INTEGER NOT NULL,
    last TEXT  -- the record of the last flight that left
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS impossible (
    offset INTEGER PRIMARY KEY,
    before TEXT NOT NULL, after TEXT NOT NULL, short INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS nameless (offset INTEGER PRIMARY KEY);
"""


class Seen(NamedTuple):
    """A flight as it came.

    Attributes:
        offset: of its record.
        tailnum: of its aircraft; None if it has none.
        flight: what it was.
    """

    offset: int
    tailnum: str | None
    flight: Flight


class States:
    """What is known from all partitions. Close it at the end.

    Args:
        folder: where their files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[int, PartitionState] = {}

    def of(self, partition: int) -> PartitionState:
        """What is known from a partition; its file is opened when it is first asked for."""
        state = self._states.get(partition)
        if state is None:
            state = self._states[partition] = PartitionState(self._folder, partition)
        return state

    def close(self) -> None:
        """Close the files."""
        for state in self._states.values():
            state.close()


class PartitionState:
    """What is known from one partition.

    Args:
        folder: where the partitions' files are.
        partition: its number.
    """

    def __init__(self, folder: Path, partition: int) -> None:
        # One batch of a partition at a time, though not always in the same thread.
        self._db = sqlite3.connect(
            folder / f"partition-{partition}.sqlite", check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def save(self, seen: Iterable[Seen]) -> int:
        """Follow the aircraft through these flights, and save it: all of it or nothing.

        Args:
            seen: the flights of one aircraft are in the order of their offsets.

        Returns:
            How many were new. The rest were saved before, and change nothing.
        """
        nameless: list[tuple[int]] = []
        impossible: list[tuple[object, ...]] = []
        known: dict[str, tuple[int, Aircraft]] = {}
        changed: set[str] = set()
        new = 0
        with self._db:
            # Before anything is read: what is read must still be so when it is written.
            self._db.execute("BEGIN IMMEDIATE")
            for offset, tailnum, flight in seen:
                if tailnum is None:  # there is nobody to follow
                    nameless.append((offset,))
                    continue
                saved, aircraft = known.get(tailnum) or self._aircraft(tailnum)
                if offset > saved:
                    saved = offset
                    aircraft, found = aircraft.then(flight)
                    if found is not None:
                        impossible.append((offset, *found))
                    changed.add(tailnum)
                    new += 1
                known[tailnum] = saved, aircraft
            self._db.executemany(
                "INSERT OR REPLACE INTO aircraft VALUES (?, ?, ?, ?, ?, ?, ?)",
                (_row(tailnum, *known[tailnum]) for tailnum in changed),
            )
            self._db.executemany("INSERT INTO impossible VALUES (?, ?, ?, ?)", impossible)
            added = self._db.executemany("INSERT OR IGNORE INTO nameless VALUES (?)", nameless)
            return new + max(added.rowcount, 0)

    def _aircraft(self, tailnum: str) -> tuple[int, Aircraft]:
        """The offset of the aircraft's last record that is saved (-1 if none), and it."""
        found = self._db.execute(
            "SELECT offset, flights, cancelled, compared, unknown, last "
            "FROM aircraft WHERE tailnum = ?",
            (tailnum,),
        ).fetchone()
        if found is None:
            return -1, Aircraft()
        offset, *counts, last = found
        aircraft = Aircraft(*counts)
        if last is not None:
            aircraft = aircraft._replace(last=Flight.from_json(last))
        return offset, aircraft


def _row(tailnum: str, offset: int, aircraft: Aircraft) -> tuple[object, ...]:
    *counts, last = aircraft
    return tailnum, offset, *counts, last and last.record


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that is saved, over all starts.

    Attributes:
        aircraft: how many were seen.
        flights: of theirs.
        nameless: flights without a tail number.
        cancelled: flights of known aircraft that never left.
        compared: pairs of flights that the rule was applied to.
        unknown: pairs of which it can't be said, for want of an air time.
        impossible: how many rotations can't be true.
        worst: the worst of them, at most ten.
    """

    aircraft: int = 0
    flights: int = 0
    nameless: int = 0
    cancelled: int = 0
    compared: int = 0
    unknown: int = 0
    impossible: int = 0
    worst: tuple[Impossible, ...] = ()

    @property
    def records(self) -> int:
        """Records that all this is from, each counted once however often it came."""
        return self.flights + self.nameless


def findings(folder: Path) -> Findings:
    """Add up what the partitions' files hold."""
    sums = [0] * 7
    worst: list[Impossible] = []
    for db in _files(folder):
        counts = db.execute(
            "SELECT count(*), total(flights), (SELECT count(*) FROM nameless), "
            "total(cancelled), total(compared), total(unknown), "
            "(SELECT count(*) FROM impossible) FROM aircraft"
        ).fetchone()
        sums = [total + int(count) for total, count in zip(sums, counts, strict=True)]
        rows = db.execute(
            "SELECT before, after, short FROM impossible ORDER BY short DESC, after LIMIT 10"
        )
        worst += [Impossible(*row) for row in rows]
    worst.sort(key=lambda found: (-found.short, found.after))
    aircraft, flights, nameless, cancelled, compared, unknown, impossible = sums
    return Findings(
        aircraft=aircraft,
        flights=flights,
        nameless=nameless,
        cancelled=cancelled,
        compared=compared,
        unknown=unknown,
        impossible=impossible,
        worst=tuple(worst[:10]),
    )


def _files(folder: Path) -> Iterator[sqlite3.Connection]:
    for path in sorted(folder.glob("partition-*.sqlite")):
        with closing(sqlite3.connect(path)) as db:
            yield db
