"""``broker``: a local Apache Kafka."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["add_to", "become"]


def add_to(commands: Any) -> None:
    """Add the command to those of the command line."""
    commands.add_parser(
        "broker",
        help="run a local Apache Kafka until Ctrl-C",
        add_help=False,  # it has its own: see `become`
    )


def become(arguments: Sequence[str]) -> None:
    """Become the program that runs it: the test kit is nothing that the commands load."""
    command = [sys.executable, "-m", "trio_broadway_kafka.testing", *arguments]
    os.execv(sys.executable, command)
