"""Which rotations can't be true: the rule, pure, on two flights of one aircraft.

Every flight in the data leaves New York, so before an aircraft can leave again it has to have
flown there and back. From what was measured:

    earliest return = actual departure + air time there + distance / 700 mph back
    minutes short   = earliest return - next actual departure        (impossible if above 0)

- A departure is the scheduled one in UTC plus its delay. Local clock times, which jump at
  midnight and at the change to summer time, are never subtracted.
- The way back is not in the data, and is often quicker than the way out, with the wind. So it
  counts at a ground speed that no way back reaches: of all 327,346 flights with an air time
  one was faster than 651 mph. Time on the ground counts as nothing. Every doubt is in the
  aircraft's favour: what is left can't be true, and one of its two records must be wrong.
- A cancelled flight moved nothing: it is counted, and the next one is compared with the one
  before it. After a flight with no air time (it landed elsewhere) nothing can be said.
- Flights come in the order of their scheduled times, and each is compared with the one before
  it that left. If delays turned the two around, the one that left first counts as the first:
  the rule holds for any two flights of an aircraft.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import NamedTuple

__all__ = ["TOP_SPEED", "Aircraft", "Flight", "Impossible", "minutes_short"]

TOP_SPEED = 700
"""Miles per hour over the ground on the way back."""


class Flight(NamedTuple):
    """A record of the topic, and what the rule needs to know of it; times are UTC.

    Attributes:
        record: a row of the data as JSON, under its columns' names.
        departed: when it really left; None if it was cancelled.
        back: when the aircraft can be back in New York; None if that can't be said.
    """

    record: str
    departed: datetime | None
    back: datetime | None

    @classmethod
    def from_json(cls, record: str) -> Flight:
        """From a record of the topic."""
        row = json.loads(record)
        if row["dep_delay"] is None:
            return cls(record, None, None)
        scheduled = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=row["minute"])
        departed = scheduled + timedelta(minutes=row["dep_delay"])
        if row["air_time"] is None:
            return cls(record, departed, None)
        flying = row["air_time"] + row["distance"] * 60 // TOP_SPEED
        return cls(record, departed, departed + timedelta(minutes=flying))


def minutes_short(one: Flight, other: Flight) -> int | None:
    """How many minutes an aircraft lacks to have flown both, 0 or less if it can have.

    None if that can't be said.
    """
    if one.departed is None or other.departed is None:
        return None
    if other.departed < one.departed:
        one, other = other, one
    if one.back is None or other.departed is None:
        return None
    return (one.back - other.departed) // timedelta(minutes=1)


class Impossible(NamedTuple):
    """Two records that can't both be of one aircraft, in the order of the topic.

    Attributes:
        before: the first.
        after: the second.
        short: minutes that it lacks.
    """

    before: str
    after: str
    short: int


class Aircraft(NamedTuple):
    """What is known of an aircraft after some of its flights.

    Attributes:
        flights: how many.
        cancelled: of them.
        compared: pairs that the rule was applied to.
        unknown: pairs of which it can't be said, for want of an air time.
        last: the last one that left.
    """

    flights: int = 0
    cancelled: int = 0
    compared: int = 0
    unknown: int = 0
    last: Flight | None = None

    def then(self, flight: Flight) -> tuple[Aircraft, Impossible | None]:
        """The aircraft after its next flight, and what can't be true about that."""
        flights, cancelled, compared, unknown, last = self
        if flight.departed is None:
            return Aircraft(flights + 1, cancelled + 1, compared, unknown, last), None
        if last is None:
            return Aircraft(flights + 1, cancelled, compared, unknown, flight), None
        short = minutes_short(last, flight)
        if short is None:
            return Aircraft(flights + 1, cancelled, compared, unknown + 1, flight), None
        found = Impossible(last.record, flight.record, short) if short > 0 else None
        return Aircraft(flights + 1, cancelled, compared + 1, unknown, flight), found
