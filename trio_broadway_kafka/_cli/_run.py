"""``run``: a pipeline of a module's as a program."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._open import Opening
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka._run import run_opening

__all__ = ["add_to", "opening_of"]

PORT: Final = 8765

CANCELLED: Final = 130


def add_to(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "run",
        help="run a pipeline until a signal",
        description="Runs what a function returns: open_pipeline(...), not entered. The first "
        "Ctrl-C or SIGTERM drains: what has started is finished and committed. The second "
        "cancels its handlers at once.",
        epilog="Exit codes: 0 drained, or where stop_at says; 1 the pipeline failed; 2 the "
        "command line or a pipeline's option is wrong; 130 a second signal cancelled it.",
    )
    parser.add_argument(
        "function",
        metavar="MODULE:FUNCTION",
        help="such as app.orders:pipeline; modules of this folder are found",
    )
    parser.add_argument(
        "--dashboard",
        nargs="?",
        type=int,
        const=PORT,
        metavar="PORT",
        help=f"serve its page and probes at 127.0.0.1 (default port: {PORT}, 0 for any)",
    )
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="default: %(default)s",
    )
    parser.set_defaults(command=_run, takes_signals=True)


def opening_of(text: str) -> Opening:
    """What the function returns.

    Raises:
        ConfigError: there is no such function, or it returns something else.
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"{text!r} is no MODULE:FUNCTION, such as app.orders:pipeline")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that it imports
        raise ConfigError(f"there is no module {module_name!r} here or installed") from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"{module_name} has no {name!r}") from None
    if not callable(found):
        raise ConfigError(f"{text} is no function but a {type(found).__name__}")
    opening = found()
    if hasattr(opening, "close") and hasattr(opening, "send"):
        opening.close()  # a coroutine that nobody awaits would warn
        raise ConfigError(
            f"{text} is an async function: write def, and return open_pipeline(...)"
        )
    if not isinstance(opening, Opening):
        raise ConfigError(
            f"{text} returned a {type(opening).__name__}: it must return open_pipeline(...), "
            "not entered"
        )
    return opening


def _dashboard(port: int, pipeline: Pipeline) -> AbstractAsyncContextManager[object]:
    try:
        from trio_broadway_kafka.dashboard import open_dashboard
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise ConfigError(
            "for --dashboard: pip install 'trio-broadway-kafka[dashboard]'"
        ) from None
    return open_dashboard(pipeline, port=port)


async def _run(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    logging.getLogger().setLevel(options.log_level)
    opening = opening_of(options.function)
    beside = None if options.dashboard is None else partial(_dashboard, options.dashboard)
    cancelled = await run_opening(opening, beside=beside)
    return CANCELLED if cancelled else 0
