"""Members of one group side by side: one process is one member.

The parent starts each as ``python -m examples.flights --member ...`` and reads its progress
from its output, a line of JSON at a time. It asks a member to end by closing its input; that
happens too if the parent dies, so no member outlives it. A Ctrl-C in the terminal reaches the
parent alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from examples.flights.report import Progress

__all__ = ["run_members", "stop_at_end_of_input", "tell"]

_CHECKOUT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 10.0  # seconds; a pipeline's close_timeout is 5


async def run_members(
    count: int,
    arguments: Sequence[str],
    *,
    show: Callable[[Sequence[Progress]], Awaitable[None]],
    until: Callable[[], Awaitable[None]],
) -> list[Progress]:
    """Run members until something is done, then let them end well.

    Args:
        count: how many.
        arguments: of each.
        show: a task that shows the progress of all, which changes in place.
        until: what is waited for.

    Returns:
        What each has done in the end.

    Raises:
        ExceptionGroup: of a subprocess.CalledProcessError: a member failed.
    """
    members = [Progress() for _ in range(count)]
    async with trio.open_nursery() as showing:
        showing.start_soon(show, members)
        async with trio.open_nursery() as nursery:
            processes = []
            for index in range(count):
                start = partial(
                    trio.run_process,
                    [sys.executable, "-m", "examples.flights", "--member", *arguments],
                    cwd=_CHECKOUT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    deliver_cancel=_end_soon,
                )
                process: trio.Process = await nursery.start(start)
                processes.append(process)
                nursery.start_soon(_listen, process, members, index)
            await until()
            for process in processes:
                assert process.stdin is not None
                await process.stdin.aclose()
        showing.cancel_scope.cancel()
    return members


async def _end_soon(process: trio.Process) -> None:
    """A member's second request to end: it cancels its handlers, commits and leaves."""
    process.terminate()
    await trio.sleep(_PATIENCE)
    process.kill()


async def _listen(process: trio.Process, members: list[Progress], index: int) -> None:
    assert process.stdout is not None
    rest = b""
    async for data in process.stdout:
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            members[index] = Progress(*json.loads(lines[-1]))


# In the member's own process.


def tell(progress: Progress) -> None:
    """Tell the parent how far this member is."""
    # Not by print: what it could not write would be tried again when Python ends.
    with suppress(BrokenPipeError):  # no parent: the end of our input says so too
        os.write(sys.stdout.fileno(), f"{json.dumps(progress)}\n".encode())


async def stop_at_end_of_input(stop: trio.Event) -> None:
    """Set the event when the parent wants us to end, or is no more."""
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stream:
        async for _ in stream:
            pass
    stop.set()
