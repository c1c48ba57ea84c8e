"""``lag``: how far a consumer group is behind, whoever its members are."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any, Final

import trio

from trio_broadway_kafka._cli._common import add_connection, tables
from trio_broadway_kafka._kafka._groups import GroupLag, GroupLags
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["add_to"]

WATCH_EVERY: Final = 5.0


def add_to(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "lag",
        help="how far a consumer group is behind",
        description="What a group has committed beside the ends of its partitions, as Kafka "
        "tells it: of any group, with or without members.",
    )
    parser.add_argument("group", help="the group's id")
    parser.add_argument(
        "--topic", action="append", default=[], help="only this one; may be given several times"
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=WATCH_EVERY,
        metavar="SECONDS",
        help=f"again and again, with the pace and the time to clear (default: {WATCH_EVERY:g})",
    )
    parser.add_argument("--json", action="store_true", help="for scripts: an object a line")
    add_connection(parser)
    parser.set_defaults(command=_lag)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 on")
    return seconds


async def _lag(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    show = None if options.json else tables()
    lags = GroupLags(kafka, options.group)
    before: tuple[float, GroupLag] | None = None
    give_up_at = time.monotonic() + 15.0
    while True:
        try:
            found = await lags.ask(options.topic)
        except KafkaFailure as failure:
            # Who watches waits out all that passes, once there was an answer; at first a
            # coordinator may still be loading.
            loading = "COORDINATOR" in failure.code and time.monotonic() < give_up_at
            if not (failure.retriable and (before is not None or loading)):
                raise
            if before is None:
                await trio.sleep(0.5)
                continue
            sys.stderr.write(f"{failure}\n")
        else:
            now = time.monotonic()
            if show is None:
                print_json(found)
            else:
                show.show_lag(
                    found,
                    before=None if before is None else before[1],
                    seconds=0.0 if before is None else now - before[0],
                    clear=options.watch is not None,
                )
            before = (now, found)
        if options.watch is None:
            return 0
        await trio.sleep(options.watch)


def print_json(found: GroupLag) -> None:
    """A line for scripts."""
    sys.stdout.write(json.dumps({**dataclasses.asdict(found), "lag": found.lag}) + "\n")
    sys.stdout.flush()
