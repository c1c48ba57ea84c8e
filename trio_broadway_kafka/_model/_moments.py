"""Where reading starts and ends, as users say it: by a name or by a time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Literal

from trio_broadway_kafka._model._errors import ConfigError

__all__ = [
    "StartFrom",
    "StopAtOption",
    "check_start_from",
    "check_stop_at",
    "milliseconds",
]

StartFrom = Literal["committed", "earliest", "latest"] | datetime
StopAtOption = Literal["end"] | datetime

_STARTS = ("committed", "earliest", "latest")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(when: datetime) -> int:
    """The first timestamp of a record, in ms since 1970, that is not before `when`.

    Never negative: Kafka has other meanings for -1 and -2.
    """
    return max(0, math.ceil((when - _EPOCH) / timedelta(milliseconds=1)))


def check_start_from(start_from: object) -> None:
    """Check the option of this name.

    Raises:
        ConfigError: it is neither one of the names nor a datetime with a time zone.
    """
    if isinstance(start_from, datetime):
        _check_aware("start_from", start_from)
    elif start_from not in _STARTS:
        raise ConfigError(
            "start_from must be 'committed', 'earliest', 'latest' or a datetime with a time "
            f"zone, not {start_from!r}"
        )


def check_stop_at(stop_at: object) -> None:
    """Check the option of this name.

    Raises:
        ConfigError: it is neither None, nor "end", nor a datetime with a time zone.
    """
    if isinstance(stop_at, datetime):
        _check_aware("stop_at", stop_at)
    elif stop_at is not None and stop_at != "end":
        raise ConfigError(
            f"stop_at must be None, 'end' or a datetime with a time zone, not {stop_at!r}"
        )


def _check_aware(option: str, when: datetime) -> None:
    if when.utcoffset() is None:
        raise ConfigError(
            f"{option}={when!r} has no time zone, so it names no moment: write "
            f"{option}=datetime(..., tzinfo=UTC), or .astimezone() for this machine's zone"
        )
