"""``doctor``: what keeps a pipeline from its records."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from contextlib import aclosing
from typing import Any, Final

from trio_broadway_kafka._cli._common import add_connection
from trio_broadway_kafka._kafka._doctor import examine

__all__ = ["add_to"]

MARKS: Final = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}
COLORS: Final = {"ok": "32", "warning": "33", "problem": "31"}


def add_to(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "doctor",
        help="what keeps a pipeline from its records",
        description="Looks whether the brokers can be reached by the addresses that they name, "
        "whether the group and the topics may be used, which group protocols there are, and "
        "whether clocks agree. Changes nothing. Exit code 1 if there is a problem.",
    )
    parser.add_argument("--group", help="look at this group")
    parser.add_argument(
        "--topic", action="append", default=[], help="and at this topic; several times"
    )
    parser.add_argument("--json", action="store_true", help="for scripts: an object a line")
    add_connection(parser)
    parser.set_defaults(command=_doctor)


async def _doctor(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    in_color = sys.stdout.isatty()
    problems = 0
    async with aclosing(
        examine(kafka, group=options.group, topics=dict.fromkeys(options.topic))
    ) as findings:
        async for one in findings:
            problems += one.status == "problem"
            if options.json:
                line = json.dumps(dataclasses.asdict(one), ensure_ascii=False)
            else:
                mark = f"{MARKS[one.status]:<8}"
                if in_color:
                    mark = f"\x1b[{COLORS[one.status]}m{mark}\x1b[0m"
                line = f"{mark} {one.about:<9} {one.found}"
                if one.advice:
                    line += f"\n{'':19}{one.advice}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    if not options.json:
        words = {0: "No problem was found.", 1: "One problem."}
        sys.stdout.write(words.get(problems, f"{problems} problems.") + "\n")
    return 1 if problems else 0
