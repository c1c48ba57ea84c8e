"""``python -m examples.flights``: a year of flights through Kafka and a pipeline.

What a program owes its user: options, signals, errors in a sentence. `demo` has the rest.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio
from confluent_kafka import KafkaException

from examples.flights.data import FLIGHTS, NoData
from examples.flights.demo import demo, member
from examples.flights.report import LogLines, Screen
from examples.flights.topic import ProducingFailed, WrongTopic
from trio_broadway_kafka import BroadwayKafkaError

_FOLDER: Final = Path(__file__).parents[2] / ".demo"


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights",
        description="Follow every aircraft that left New York in 2013 through its flights, and "
        "find the rotations that can't be true. Ctrl-C ends it well; the next start goes on "
        "where it stopped.",
    )
    add = parser.add_argument
    add("--bootstrap", metavar="HOST:PORT", help="your Kafka; else a local one is started")
    add("--members", type=_count, default=1, metavar="N", help="processes that share the work")
    add("--flights", type=_count, default=FLIGHTS, metavar="N", help="only the year's first N")
    add("--work", type=float, default=0.0, metavar="SECONDS", help="that each takes besides")
    add("--topic", default="flights-demo", metavar="NAME", help="default: %(default)s")
    add(
        "--folder",
        type=Path,
        default=_FOLDER,
        metavar="PATH",
        help="where what is found is kept, and the local Kafka's data (default: .demo here)",
    )
    add("--reset", action="store_true", help="start anew: forget what was found and committed")
    # What a parent tells its member.
    add("--member", action="store_true", help=argparse.SUPPRESS)
    add("--group", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


async def run_until_signal(options: argparse.Namespace, screen: Screen) -> None:
    """The first signal ends it well, the second at once."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, received, stop, nursery.cancel_scope, screen)
            if options.member:
                await member(options, stop)
            else:
                await demo(options, screen, stop)
            nursery.cancel_scope.cancel()


async def _obey(
    received: AsyncIterator[int], stop: trio.Event, scope: trio.CancelScope, screen: Screen
) -> None:
    async for _ in received:
        if stop.is_set():
            scope.cancel()
        else:
            screen.above("Ending well; a second signal ends it at once ...")
            stop.set()


def main() -> None:
    """Run it."""
    options = read_options()
    # A member's output is for its parent.
    screen = Screen(sys.stderr if options.member else sys.stdout)
    logging.basicConfig(format="%(levelname)s %(message)s", handlers=[LogLines(screen)])
    # Not an exit in each clause: of two, a traceback would come.
    complaints: list[str] = []
    try:
        trio.run(run_until_signal, options, screen)
    except* (BroadwayKafkaError, NoData, ProducingFailed, WrongTopic) as group:
        complaints += [f"{type(error).__name__}: {error}" for error in _leaves(group)]
    except* KafkaException as group:
        kafka = options.bootstrap or "the local one"
        complaints += [f"Kafka ({kafka}): {e.args[0].str()}" for e in _leaves(group)]
    except* subprocess.CalledProcessError:
        complaints.append("A member failed, and the others have ended. What it says is above.")
    if complaints:
        sys.exit("\n".join(complaints))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
