"""What people see: tables, a letter, a progress bar. Needs rich: the extra ``cli``."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from trio_broadway_kafka._kafka._groups import GroupLag, PartitionLag
from trio_broadway_kafka.dead_letters import Letter, Redriven

__all__ = ["progress", "show_lag", "show_letter", "show_list", "show_redriven", "show_top"]

COLUMNS = ("LETTER", "FAILED AT", "FROM", "EXCEPTION", "TRIES", "REPLAYS")
NUMBERS = ("TRIES", "REPLAYS")
REASON = COLUMNS.index("EXCEPTION")  # gets what is left of the width, and so much at least:
LEAST = 20
GAP = 2

# Columns where the output is no terminal, which has its own.
WIDTH = 200


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


@contextmanager
def progress(doing: str) -> Generator[Callable[[int, int], None]]:
    """A bar on stderr, which is gone at the end. Gives what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield tell


def show_list(
    topic: str, letters: Sequence[Letter], count: int, kinds: Mapping[tuple[str, str], int]
) -> None:
    """The letters, and how many there are of each kind: exception and topic."""
    console = _console()
    if not count:
        console.print(f"No dead letters to send back in {topic}.")
        return
    rows = [
        (
            Text(f"{letter.partition}@{letter.offset}"),
            Text(_time(letter.failed_at)),
            _origin(letter),
            _reason(letter),
            Text(_number(letter.attempts)),
            Text(str(letter.replays)),
        )
        for letter in sorted(letters, key=lambda letter: (letter.partition, letter.offset))
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    left = console.width
    for index, name in enumerate(COLUMNS):
        side: Literal["left", "right"] = "right" if name in NUMBERS else "left"
        table.add_column(name, no_wrap=True, justify=side)
        if index != REASON:
            left -= max(len(name), *(len(row[index]) for row in rows)) + GAP
    for row in rows:
        row[REASON].truncate(max(left, LEAST), overflow="ellipsis")
        table.add_row(*row)
    console.print(table)
    if count > len(letters):
        console.print(f"... and {count - len(letters):,} more")
    console.print()
    summary = Table(box=None, pad_edge=False, show_header=False)
    summary.add_column(justify="right")
    for (kind, came_from), number in sorted(kinds.items(), key=lambda item: -item[1]):
        summary.add_row(f"{number:,}", Text(kind), Text(f"from {came_from}"))
    console.print(summary)


def show_letter(letter: Letter) -> None:
    """All there is to know of a letter."""
    console = _console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("letter", f"{letter.topic} {letter.partition}@{letter.offset}")
    table.add_row("failed at", _time(letter.failed_at))
    table.add_row("from", _origin(letter))
    table.add_row("produced at", _time(letter.produced_at))
    table.add_row("group", Text(letter.group or "-"))
    table.add_row("exception", _reason(letter))
    table.add_row("tries", _number(letter.attempts))
    table.add_row("replays", str(letter.replays))
    table.add_row("key", Text(_payload(letter.key)))
    for name, value in letter.headers:
        table.add_row("header", Text(f"{name}: {_payload(value)}"))
    console.print(table)
    console.print()
    console.print(Text(_payload(letter.value, pretty=True)), soft_wrap=True)


def show_redriven(result: Redriven, *, dry_run: bool) -> None:
    """What a redrive has done, and what it has left."""
    console = _console()
    verb = "Would send back" if dry_run else "Sent back"
    console.print(f"{verb} {_letters(result.count)}.")
    for topic, count in sorted(result.sent.items()):
        console.print(Text(f"{count:>9,}  to {topic}"))
    for count, why in (
        (result.not_meant, "not of the kind asked for"),
        (result.at_limit, "sent back often enough before (--max-replays)"),
        (result.without_origin, "that do not say where they came from"),
    ):
        if count:
            console.print(f"{count:>9,}  left: {why}")
    if result.is_full:
        console.print(
            "It ended early: letters that are left are scattered among those sent back, and "
            "no more of that can be remembered. Send back what is left first."
        )


def _letters(count: int) -> str:
    return f"{count:,} letter" + ("" if count == 1 else "s")


def _time(time: datetime | None) -> str:
    return "-" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _number(number: int | None) -> str:
    return "-" if number is None else str(number)


def _origin(letter: Letter) -> Text:
    if letter.came_from is None:
        return Text("-")
    topic, partition, offset = letter.came_from
    return Text(f"{topic} {partition}@{offset}")


def _reason(letter: Letter) -> Text:
    text = letter.exception_type or "-"
    if letter.exception_message:
        first, *more = letter.exception_message.splitlines() or [""]
        text += f": {first}" + (" ..." if more else "")
    return Text(text)


def _payload(value: bytes | None, *, pretty: bool = False) -> str:
    """Bytes as people read them: JSON in lines, text, or as Python writes bytes."""
    if value is None:
        return "none"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return repr(value)
    if not text.isprintable() and not pretty:
        return repr(value)
    if pretty:
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except ValueError:
            # What would move the cursor is shown, not done.
            lines = text.splitlines()
            return "\n".join(line if line.isprintable() else repr(line) for line in lines)
    return text


def show_lag(found: GroupLag, *, before: GroupLag | None, seconds: float, clear: bool) -> None:
    """A group's partitions, those that lag most first; with an earlier look the pace too.

    Args:
        found: the group now.
        before: the group some time ago.
        seconds: how long ago.
        clear: whether to wipe the screen before, if it is one.
    """
    console = _console()
    if clear and console.is_terminal:
        console.clear()
    members = f"{found.members} member{'' if found.members == 1 else 's'}"
    state = found.state.lower().replace("_", " ")
    console.print(
        Text.assemble((found.group, "bold"), f": {state}, {found.protocol} protocol, {members}")
    )
    if not found.partitions:
        console.print("It has no partitions and no offsets.")
        return
    earlier = {}
    if before is not None:
        earlier = {(one.topic, one.partition): one for one in before.partitions}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "PARTITION",
        "COMMITTED",
        "END",
        "LAG",
        *(("PER S", "CLEAR IN") * bool(before)),
    ):
        side: Literal["left", "right"] = "left" if name == "PARTITION" else "right"
        table.add_column(name, no_wrap=True, justify=side)
    table.add_column("MEMBER", overflow="ellipsis", no_wrap=True)
    for one in sorted(found.partitions, key=lambda one: (-one.lag, one.topic, one.partition)):
        pace = _pace(one, earlier.get((one.topic, one.partition)), seconds)
        table.add_row(
            Text(f"{one.topic}/{one.partition}"),
            "-" if one.committed is None else f"{one.committed:,}",
            f"{one.end:,}",
            Text(f"{one.lag:,}", style="bold" if one.lag else ""),
            *(pace if before else ()),
            Text(one.member or "-", style="" if one.member else "yellow"),
        )
    console.print(table)
    count = len(found.partitions)
    console.print(f"{found.lag:,} behind in {count} partition{'' if count == 1 else 's'}.")


def _pace(now: PartitionLag, before: PartitionLag | None, seconds: float) -> tuple[str, str]:
    """How many are committed a second, and when nothing lags any more, if that is to be."""
    if before is None or seconds <= 0 or now.committed is None:
        return "-", "-"
    done = (now.committed - (before.committed or before.begin)) / seconds
    shrinks = (before.lag - now.lag) / seconds
    if not now.lag:
        return f"{done:,.0f}", ""
    return f"{done:,.0f}", _for(now.lag / shrinks) if shrinks > 0 else "never"


def _for(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def show_top(now: dict[str, Any], before: dict[str, Any] | None) -> None:
    """A pipeline as its dashboard tells of it; with an earlier look the rates too."""
    console = _console()
    if console.is_terminal:
        console.clear()
    seconds = 0.0 if before is None else now["at"] - before["at"]

    def rate(name: str) -> str:
        if before is None or seconds <= 0:
            return "-"
        return f"{(now['counts'][name] - before['counts'][name]) / seconds:,.0f}"

    ready = now["ready"]
    verdict = ("ready", "green") if ready["ok"] else (f"not ready: {ready['reason']}", "red")
    topics = ", ".join(now["topics"])
    console.print(
        Text.assemble((now["name"], "bold"), f": {now['state']}, ", verdict, f", {topics}")
    )
    counts = now["counts"]
    lag = sum(one["lag"] or 0 for one in now["partitions"])
    console.print(
        f"{rate('succeeded')} messages/s, lag {lag:,}, {counts['in_flight']:,} in flight, "
        f"{counts['failed']:,} failures, "
        f"at most {now['again_after_crash']:,} again after a crash"
    )
    console.print()
    stages = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("STAGE", "AT WORK", "BUSY", "PRESSED", "P50", "P99"):
        stages.add_column(name, no_wrap=True, justify="left" if name == "STAGE" else "right")
    earlier = {} if before is None else {one["name"]: one for one in before["stages"]}
    for stage in now["stages"]:
        handling = stage["handling"]
        stages.add_row(
            Text(stage["name"]),
            f"{stage['busy']} of {stage['concurrency']}",
            *_shares(stage, earlier.get(stage["name"])),
            _duration(handling["p50"]),
            _duration(handling["p99"]),
        )
    console.print(stages)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("PARTITION", "LAG", "BEHIND", "IN FLIGHT", "UNCOMMITTED", "HELD BY"):
        is_text = name in ("PARTITION", "HELD BY")
        table.add_column(name, no_wrap=True, justify="left" if is_text else "right")
    most = sorted(now["partitions"], key=lambda one: (-(one["lag"] or 0), -one["in_flight"]))
    room = max(5, console.height - len(now["stages"]) - 8) if console.is_terminal else len(most)
    for one in most[:room]:
        blocker = one.get("blocker")
        held = ", ".join(one["paused"]) or "-"
        if blocker is not None:
            held = f"{blocker['offset']} {blocker['doing']} in {blocker['stage']}"
            held += f", attempt {blocker['attempt']}" if blocker["attempt"] > 1 else ""
        table.add_row(
            Text(f"{one['topic']}/{one['partition']}"),
            "-" if one["lag"] is None else f"{one['lag']:,}",
            _duration(one["lag_s"]) if one["lag"] else "",
            f"{one['in_flight']:,}",
            f"{one['uncommitted']:,}",
            Text(held),
        )
    console.print(table)
    if len(most) > room:
        console.print(f"... and {len(most) - room} more")


def _shares(now: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, str]:
    """How much of their time a stage's tasks were busy, and back-pressured."""
    names = ("busy_s", "backpressured_s", "idle_s")
    spent = [now[name] - (0 if before is None else before[name]) for name in names]
    total = sum(spent)
    if total <= 0:
        return "-", "-"
    return f"{spent[0] / total:.0%}", f"{spent[1] / total:.0%}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else _for(seconds)
