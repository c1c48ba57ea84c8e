"""What the commands have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

from trio_broadway_kafka._model._errors import ConfigError

__all__ = ["add_connection", "tables"]


def add_connection(parser: argparse.ArgumentParser) -> None:
    """How to reach Kafka."""
    parser.add_argument("--bootstrap", metavar="HOST:PORT,...", help="Kafka's address")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="librdkafka's settings, a key=value a line; secrets belong there",
    )


def tables() -> ModuleType:
    """What people see.

    Raises:
        ConfigError: rich is not there.
    """
    try:
        from trio_broadway_kafka._cli import _tables
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ConfigError(
            "for tables and bars: pip install 'trio-broadway-kafka[cli]'; for scripts: --json"
        ) from None
    return _tables
