"""Where reading starts, as users say it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._moments import check_start_from, check_stop_at, milliseconds


@pytest.mark.parametrize(
    ("when", "timestamp"),
    [
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1000),
        (datetime(2026, 11, 24, 21, 30, 0, 123_000, tzinfo=UTC), 1_795_555_800_123),
        # A record of the millisecond in which it lies is before it.
        (datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC), 1001),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        # Not -1 and -2, which are the end and the beginning to Kafka.
        (datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), 0),
        (datetime(1, 1, 1, tzinfo=UTC), 0),
    ],
)
def test_a_time_is_the_first_millisecond_not_before_it(when: datetime, timestamp: int) -> None:
    assert milliseconds(when) == timestamp


@pytest.mark.parametrize(
    "start_from", ["committed", "earliest", "latest", datetime(2026, 1, 1, tzinfo=UTC)]
)
def test_a_start_is_a_name_or_a_moment(start_from: object) -> None:
    check_start_from(start_from)


@pytest.mark.parametrize("start_from", ["newest", "", 0, None, "2026-01-01T00:00:00Z", []])
def test_anything_else_is_refused(start_from: object) -> None:
    with pytest.raises(
        ConfigError, match="'earliest', 'latest' or a datetime with a time zone"
    ):
        check_start_from(start_from)


def test_a_time_without_a_zone_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(ConfigError, match=r"start_from=.*no time zone.*tzinfo=UTC"):
        check_start_from(datetime(2026, 1, 1))


@pytest.mark.parametrize("stop_at", [None, "end", datetime(2026, 1, 1, tzinfo=UTC)])
def test_a_stop_is_nowhere_the_end_or_a_moment(stop_at: object) -> None:
    check_stop_at(stop_at)


@pytest.mark.parametrize("stop_at", ["latest", "", 0, datetime(2026, 1, 1)])
def test_any_other_stop_is_refused(stop_at: object) -> None:
    with pytest.raises(ConfigError, match="stop_at"):
        check_stop_at(stop_at)
