"""What the demo shows: lines that change while it runs, and a table at the end.

Plain text and a few control codes: a reader needs to know no library for it, and the demo to
install none. Without a terminal the lines appear one below the other, every few seconds.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TextIO
from zoneinfo import ZoneInfo

from examples.flights.rotations import Flight, Impossible
from examples.flights.state import Findings
from examples.flights.topic import PARTITIONS

__all__ = ["LogLines", "Progress", "ProgressLines", "Screen", "seconds", "summary"]

_NEW_YORK: Final = ZoneInfo("America/New_York")
_PLAIN_INTERVAL: Final = 2.0  # seconds between lines where they don't change in place
_MAX_WIDTH: Final = 100


class Screen:
    """Lines that stay, and below them lines that change.

    Args:
        out: where they go.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._changes = out.isatty() and os.environ.get("TERM") != "dumb"
        self._lines: list[str] = []
        self._plain_next = 0.0
        fine = (out.encoding or "").lower().startswith("utf")
        self._full, self._empty = ("━", "╌") if fine else ("#", "-")

    @property
    def width(self) -> int:
        """Columns to use."""
        return min(shutil.get_terminal_size().columns - 1, _MAX_WIDTH)

    def say(self, text: str = "") -> None:
        """Print lines that stay; those that were changing stay above as they are."""
        self._lines = []
        print(text, file=self._out, flush=True)

    def above(self, text: str) -> None:
        """Print lines that stay, above those that are changing."""
        lines = self._lines
        self._erase()
        print(text, file=self._out, flush=True)
        if lines:
            self._draw(lines)

    def show(self, lines: Sequence[str], *, last: bool = False) -> None:
        """Show lines in place of those shown before.

        Args:
            lines: the lines.
            last: they are final: show them where lines don't change in place, too.
        """
        if self._changes:
            self._erase()
            self._draw([line[: shutil.get_terminal_size().columns - 1] for line in lines])
        elif last or time.monotonic() >= self._plain_next:
            self._plain_next = time.monotonic() + _PLAIN_INTERVAL
            print("\n".join(lines), file=self._out, flush=True)

    def bar(self, done: int, total: int, columns: int) -> str:
        """How much of it is done."""
        full = columns * done // total if total else columns
        return self._full * full + self._empty * (columns - full)

    def _erase(self) -> None:
        if self._lines:
            self._out.write(f"\r\x1b[{len(self._lines)}A\x1b[J")
        self._lines = []

    def _draw(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()


class LogLines(logging.Handler):
    """Puts what is logged above the lines that change."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        self._screen.above(self.format(record))


class Progress(NamedTuple):
    """How far a member is; it crosses processes as JSON.

    Attributes:
        handled: records since it started, each counted once.
        again: records that had been handled before.
        started: when it got its first partitions (`time.monotonic`).
        latest: when it handled its last record.
        partitions: how many it has; None before it was given any, and after it has left.
        committed: records of these that are committed (offsets begin at 0, without gaps).
    """

    handled: int = 0
    again: int = 0
    started: float = 0.0
    latest: float = 0.0
    partitions: int | None = None
    committed: int = 0


def seconds(members: Sequence[Progress]) -> float:
    """From the first partitions that any of them got to the last record."""
    at_work = [member for member in members if member.handled]
    if not at_work:
        return 0.0
    return max(member.latest for member in at_work) - min(m.started for m in at_work)


class ProgressLines:
    """The lines that change.

    Args:
        screen: where they are shown.
        total: records that there are.
        before: of them, what was done by earlier starts.
    """

    def __init__(self, screen: Screen, total: int, *, before: int = 0) -> None:
        self._screen = screen
        self._total = total
        self._before = before
        self._rates: dict[int, _Rate] = {}

    def show_produced(self, done: int, *, last: bool = False) -> None:
        """Show how many records are in the topic."""
        rate = "" if last else self._rate(0, done)
        self._screen.show([self._bar("produced", done, rate)], last=last)

    def show_handled(self, members: Sequence[Progress], *, last: bool = False) -> None:
        """Show how far each member is, and all together."""
        handled = sum(member.handled for member in members)
        if last:
            total = self._bar("handled", self._before + handled, "")
            lines = [f"member {n}  {m.handled:>7,} handled" for n, m in enumerate(members, 1)]
        else:
            held = sum(member.partitions or 0 for member in members)
            numbers = self._rate(0, handled)
            if held == PARTITIONS:  # not while some are on their way from one to another
                lag = self._total - sum(member.committed for member in members)
                numbers += f"  lag {lag:>7,}"
            elif not held:
                numbers = "joining"
            total = self._bar("handled", self._before + handled, numbers)
            lines = [self._member(n, m) for n, m in enumerate(members, 1)]
        self._screen.show([total, *lines] if len(members) > 1 else [total], last=last)

    def _bar(self, title: str, done: int, numbers: str) -> str:
        bar = self._screen.bar(done, self._total, max(8, min(40, self._screen.width - 56)))
        return f"{title:<9}{bar} {done:>9,} of {self._total:,}  {numbers}".rstrip()

    def _member(self, number: int, member: Progress) -> str:
        if member.partitions is None:
            return f"member {number}  waits for partitions"
        return (
            f"member {number}  {member.partitions:>2} partitions  {member.handled:>7,} handled"
            f"  {self._rate(number, member.handled)}"
        )

    def _rate(self, number: int, done: int) -> str:
        return f"{self._rates.setdefault(number, _Rate())(done):>7,.0f}/s"


class _Rate:
    """Records a second, over the last two seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, done: int) -> float:
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > 2.0:
            self._seen.popleft()
        then, before = self._seen[0]
        return (done - before) / (now - then) if now > then else 0.0


def summary(
    *,
    members: Sequence[Progress],
    committed: int,
    total: int,
    found: Findings,
) -> str:
    """The table at the end.

    Args:
        members: what they did since this start.
        committed: records that Kafka knows the group to have committed.
        total: records in the topic.
        found: what is saved, over all starts.
    """
    handled = sum(member.handled for member in members)
    again = sum(member.again for member in members)
    took = seconds(members)
    speed = f" in {took:.1f} s, {handled / took:,.0f}/s" if took else ""
    rows = [("Records", f"{handled:,} handled by this start{speed}")]
    if again:
        rows.append(("", f"{again:,} that came again, which changed nothing"))
    if len(members) > 1:
        shares = (f"{number}: {member.handled:,}" for number, member in enumerate(members, 1))
        rows.append(("Members", "   ".join(shares)))
    rows += [
        ("Committed", f"{committed:,} of {total:,}, lag {total - committed:,}"),
        ("Flights", f"{found.flights:,} of {found.aircraft:,} aircraft"),
        ("", f"{found.nameless:,} without a tail number: nobody to follow"),
        ("Rotations", f"{found.compared:,} compared; {found.unknown:,} more can't be judged"),
        ("Impossible", f"{found.impossible:,}: left again before it can have been back"),
    ]
    lines = [f"{title:<12}{text}" for title, text in rows]
    if found.worst:
        title = "The worst" if len(found.worst) < 10 else "The ten worst"
        lines += [
            "",
            f"{title} (one record of the two must be wrong; times are New York's)",
            "",
        ]
        left = f"{'left New York':<21}{'flew':<9}"
        lines.append(f"{'':<8}{left}{left}short by")
        lines += map(worst_line, found.worst)
    return "\n".join(lines)


def worst_line(found: Impossible) -> str:
    """``N707TW  17 Mar 09:57 JFK-SFO 388 min  17 Mar 10:32 JFK-LAX 350 min  575 min``."""
    flights = sorted((found.before, found.after), key=_departed)
    tailnum = json.loads(found.before)["tailnum"]
    return f"{tailnum:<8}{''.join(map(_flight, flights))}{found.short:>4} min"


def _flight(record: str) -> str:
    row = json.loads(record)
    when = _departed(record).astimezone(_NEW_YORK)
    air_time = "?" if row["air_time"] is None else row["air_time"]
    return f"{when:%d %b %H:%M} {row['origin']}-{row['dest']} {air_time:>3} min  "


def _departed(record: str) -> datetime:
    return Flight.from_json(record).departed or datetime.min.replace(tzinfo=UTC)
