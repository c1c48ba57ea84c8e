"""The commands, what they have in common, and how they end.

Exit codes: 0 done; 1 it failed, or what was asked for is not there; 2 the command line is
wrong; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from trio_broadway_kafka._cli import _broker, _dead_letters, _doctor, _lag, _run, _top
from trio_broadway_kafka._model._errors import BroadwayKafkaError, ConfigError

__all__ = ["connection", "main"]

PROGRAM: Final = "python -m trio_broadway_kafka"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["broker"]:
        _broker.become(given[1:])
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Tools for pipelines of trio_broadway_kafka."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _run.add_to(commands)
    _lag.add_to(commands)
    _top.add_to(commands)
    _doctor.add_to(commands)
    _dead_letters.add_to(commands)
    _broker.add_to(commands)
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    command: Callable[[argparse.Namespace, dict[str, object]], Awaitable[int]] = options.command
    try:
        if getattr(options, "takes_signals", False):
            return trio.run(command, options, {})
        kafka = {}
        if getattr(options, "needs_kafka", True):
            kafka = connection(options.bootstrap, options.config)
        return trio.run(_until_interrupted, command, options, kafka)
    except ConfigError as error:
        return _fail(2, str(error))
    except BroadwayKafkaError as error:
        return _fail(1, str(error))
    except BaseExceptionGroup as group:
        if group.split(BrokenPipeError)[1] is None:  # as with | head
            # What is still to be flushed at exit would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        ours, others = group.split(BroadwayKafkaError)
        if others is not None or ours is None:
            raise
        code = 2 if ours.split(ConfigError)[1] is None else 1
        return _fail(code, *dict.fromkeys(map(str, _leaves(ours))))


def connection(bootstrap: str | None, file: Path | None) -> dict[str, object]:
    """Take librdkafka's settings from the command line.

    Args:
        bootstrap: brokers' addresses.
        file: lines of ``key=value``; ``#`` begins a comment.

    Raises:
        ConfigError: the file can't be read, or no address is given.
    """
    kafka: dict[str, object] = {}
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} can't be read: {error}") from None
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            key, equals, value = text.partition("=")
            if not equals:  # without the line, which may be half of a secret
                raise ConfigError(f"{file}, line {number}: expected key=value")
            kafka[key.strip()] = value.strip()
    if bootstrap is not None:
        kafka["bootstrap.servers"] = bootstrap
    if "bootstrap.servers" not in kafka:
        raise ConfigError("give --bootstrap HOST:PORT, or bootstrap.servers in --config FILE")
    return kafka


async def _until_interrupted(
    command: Callable[[argparse.Namespace, dict[str, object]], Awaitable[int]],
    options: argparse.Namespace,
    kafka: dict[str, object],
) -> int:
    """Run a command; Ctrl-C and SIGTERM cancel it, so that it ends in order."""
    code = 0
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                nonlocal code
                code = await command(options, kafka)
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            async for _ in signals:
                interrupted = True
                nursery.cancel_scope.cancel()
    return 130 if interrupted else code


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _fail(code: int, *texts: str) -> int:
    for text in texts:
        sys.stderr.write(f"{PROGRAM}: {text}\n")
    return code
