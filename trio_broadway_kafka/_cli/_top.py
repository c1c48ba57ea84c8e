"""``top``: a dashboard's stream in a terminal."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import trio

from trio_broadway_kafka._cli._common import tables
from trio_broadway_kafka._model._errors import BroadwayKafkaError, ConfigError

__all__ = ["add_to", "snapshots"]


def add_to(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "top",
        help="watch a pipeline in a terminal",
        description="Shows what a pipeline's dashboard shows, until Ctrl-C.",
    )
    parser.add_argument("url", help="the dashboard's, such as http://127.0.0.1:8765/")
    parser.add_argument("--json", action="store_true", help="for scripts: a snapshot a line")
    parser.add_argument("--once", action="store_true", help="show one, and end")
    parser.set_defaults(command=_top, needs_kafka=False)


def snapshots(url: str) -> Iterator[dict[str, Any]]:
    """What the stream tells. Blocks.

    Raises:
        ConfigError: `url` is none.
        BroadwayKafkaError: nobody answers there, or no dashboard does, or it has ended.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no address such as http://127.0.0.1:8765/")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/events", timeout=30) as answer:
            kind = ""
            for line in answer:
                if line.startswith(b"event: "):
                    kind = line[7:].strip().decode()
                elif line.startswith(b"data: ") and kind == "snapshot":
                    yield json.loads(line[6:])
    except urllib.error.HTTPError as error:
        raise BroadwayKafkaError(f"{url}: no dashboard is there ({error})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise BroadwayKafkaError(f"{url}: the dashboard does not answer: {reason}") from None
    raise BroadwayKafkaError(f"{url}: the pipeline has ended")


async def _top(options: argparse.Namespace, kafka: dict[str, object]) -> int:
    show = None if options.json else tables()
    sent, found = trio.open_memory_channel[dict[str, Any]](math.inf)
    failures: list[Exception] = []

    def read() -> None:
        try:
            for one in snapshots(options.url):
                trio.from_thread.run_sync(sent.send_nowait, one)
        except (BroadwayKafkaError, ConfigError) as error:
            failures.append(error)
        trio.from_thread.run_sync(sent.close)

    async with trio.open_nursery() as nursery:
        # It may wait for half a minute in its socket; nobody waits for it.
        nursery.start_soon(lambda: trio.to_thread.run_sync(read, abandon_on_cancel=True))
        before: dict[str, Any] | None = None
        async for one in found:
            if show is None:
                sys.stdout.write(json.dumps(one) + "\n")
                sys.stdout.flush()
            elif before is not None or options.once:
                show.show_top(one, before)
            before = one
            if options.once:
                break
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return 0
