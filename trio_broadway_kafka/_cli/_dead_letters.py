"""``dead-letters list``, ``show`` and ``redrive``."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from trio_broadway_kafka._cli._common import add_connection, tables
from trio_broadway_kafka.dead_letters import Letter, Place, Redriven, Selection, read, redrive

__all__ = ["add_to", "as_json", "time_of"]

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


SHOWN: Final = 100
"""Letters that a table shows unless told otherwise."""


def add_to(commands: Any) -> None:
    """Add the commands to those of the command line."""
    parser = commands.add_parser(
        "dead-letters",
        help="list, show and send back dead letters",
        description="What DeadLetter(topic) has sent to a topic, and has not been sent back.",
    )
    kinds = parser.add_subparsers(required=True, metavar="list | show | redrive")

    listing = kinds.add_parser("list", help="the letters of a topic, and a count of each kind")
    listing.add_argument("topic", help="the dead-letter topic")
    listing.add_argument(
        "--max",
        type=_count,
        metavar="N",
        help="show the first N only (default: 100, with --json all); all are counted",
    )
    _add_selection(listing)
    _add_common(listing)
    listing.set_defaults(command=_list)

    showing = kinds.add_parser("show", help="one letter with its key, value and headers")
    showing.add_argument("topic", help="the dead-letter topic")
    showing.add_argument(
        "place", type=_place, metavar="PARTITION@OFFSET", help="as list shows it: 0@42"
    )
    _add_common(showing)
    showing.set_defaults(command=_show)

    redriving = kinds.add_parser(
        "redrive",
        help="send letters back to the topics they came from",
        description="Each letter goes back to its topic by its key, and is acknowledged once "
        "it is delivered: the next redrive passes it over. What is left here stays for a later "
        "one. Ctrl-C acknowledges what was delivered.",
    )
    redriving.add_argument("topic", help="the dead-letter topic")
    redriving.add_argument("--max", type=_count, metavar="N", help="at most N")
    redriving.add_argument("--dry-run", action="store_true", help="only say what would go")
    redriving.add_argument(
        "--max-replays",
        type=_count,
        default=3,
        metavar="N",
        help="leave what has been sent back N times, which would go round for ever (default: "
        "%(default)s)",
    )
    _add_selection(redriving)
    _add_common(redriving)
    redriving.set_defaults(command=_redrive)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        type=time_of,
        metavar="TIME",
        help="those that failed since then: 30m, 12h, 7d, or as 2026-11-30T08:00+01:00",
    )
    parser.add_argument(
        "--exception",
        action="append",
        default=[],
        metavar="TYPE",
        help="those of this type: ValueError, app.errors.*; may be given several times",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_connection(parser)
    parser.add_argument(
        "--group", help="remembers what was sent back (default: <topic>-redrive)"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _place(text: str) -> Place:
    if not (found := re.fullmatch(r"([0-9]+)@([0-9]+)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no place such as 0@42")
    return Place(int(found[1]), int(found[2]))


def time_of(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime:
    """A time as users write it: how long ago, or as of ISO 8601 (here, without a zone).

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text):
        try:
            return now() - timedelta(seconds=float(found[1]) * UNITS[found[2]])
        except OverflowError:
            pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: give 30m, 12h, 7d, or one such as 2026-11-30T08:00+01:00"
        ) from None


def _kafka(options: argparse.Namespace, kafka: dict[str, object]) -> dict[str, object]:
    return kafka if options.group is None else {**kafka, "group.id": options.group}


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(since=options.since, exception_types=options.exception)


def as_json(letter: Letter, *, with_payload: bool) -> dict[str, object]:
    """A letter for scripts; bytes that are no text come as ``{"base64": ...}``."""
    found: dict[str, object] = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name in (field.name for field in dataclasses.fields(letter))
        if name not in ("key", "value", "headers")
        for value in [getattr(letter, name)]
    }
    if with_payload:
        found["key"], found["value"] = _text(letter.key), _text(letter.value)
        found["headers"] = [[name, _text(value)] for name, value in letter.headers]
    return found


def _text(value: bytes | None) -> object:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _bar(options: argparse.Namespace, doing: str) -> AbstractContextManager[Any]:
    """A progress bar on a terminal, else nothing."""
    if options.json or not sys.stderr.isatty():
        return nullcontext(lambda *_: None)
    bar: AbstractContextManager[Any] = tables().progress(doing)
    return bar


def _check_output(options: argparse.Namespace) -> None:
    """Find out at once, not at the end, that something is missing."""
    if not options.json:
        tables()


async def _list(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    _check_output(options)
    most = options.max or (math.inf if options.json else SHOWN)
    letters: list[Letter] = []
    kinds: dict[tuple[str, str], int] = {}
    count = 0
    with _bar(options, "reading") as tell:
        async with read(
            options.topic,
            kafka=_kafka(options, kafka),
            selection=_selection(options),
            progress=tell,
        ) as found:
            async for letter in found:
                count += 1
                came_from = letter.came_from[0] if letter.came_from else "?"
                kind = (letter.exception_type or "?", came_from)
                kinds[kind] = kinds.get(kind, 0) + 1
                if count <= most:
                    if options.json:
                        _print_json(as_json(letter, with_payload=False))
                    else:
                        letters.append(letter)
    if not options.json:
        tables().show_list(options.topic, letters, count, kinds)
    return 0


async def _show(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    _check_output(options)
    async with read(options.topic, kafka=_kafka(options, kafka), place=options.place) as found:
        async for letter in found:
            if options.json:
                _print_json(as_json(letter, with_payload=True))
            else:
                tables().show_letter(letter)
            return 0
    place = f"{options.topic} {options.place.partition}@{options.place.offset}"
    sys.stderr.write(f"there is no letter at {place}\n")
    return 1


async def _redrive(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    _check_output(options)
    result = Redriven()

    def note(now: Redriven) -> None:
        nonlocal result
        result = now
        tell(now.read, now.total)

    try:
        with _bar(options, "looking" if options.dry_run else "sending back") as tell:
            result = await redrive(
                options.topic,
                kafka=_kafka(options, kafka),
                selection=_selection(options),
                max_count=options.max or math.inf,
                max_replays=options.max_replays,
                dry_run=options.dry_run,
                progress=note,
            )
    finally:  # after Ctrl-C or a failure too
        if options.json:
            _print_json({"dry_run": options.dry_run, **dataclasses.asdict(result)})
        else:
            tables().show_redriven(result, dry_run=options.dry_run)
    return 0
