"""A process that ends Kafka's processes when the Python that started them is gone.

Run as a script. It reads lines from its standard input, which the starting process holds
open: ``+PID`` is a process to watch over, ``-PID`` one that has ended. At the end of the
input, however the starting process came to its end (SIGKILL included), what is left is
killed, and the folder that is the script's argument is removed. Without an argument the data
is to be kept, so what is left is first given the time to end in order. It imports nothing of
ours: it is one of many processes and has to be small.

Linux's PR_SET_PDEATHSIG would do without the process, but it fires when the *thread* that
started the broker ends, and trio's worker threads do not live long.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

PATIENCE = 15.0  # seconds for an end in order


def watch(folder: str | None) -> None:
    """Keep count of the processes until the input ends, then clean up."""
    alive: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            alive.add(pid)
        else:
            alive.discard(pid)
    if folder is None:
        alive = _end_in_order(alive)
    _signal(alive, signal.SIGKILL)
    if folder is not None:
        # Files of a process that is only just ending may still appear while we remove.
        for _ in range(3):
            shutil.rmtree(folder, ignore_errors=True)


def _end_in_order(pids: Iterable[int]) -> set[int]:
    """Returns those that did not."""
    deadline = time.monotonic() + PATIENCE
    left = _signal(pids, signal.SIGTERM)
    left = _signal(left, signal.SIGCONT)  # a paused one would not see it
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = _signal(left, 0)  # nothing is sent
    return left


def _signal(pids: Iterable[int], number: int) -> set[int]:
    """Returns those that are there."""
    there = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            there.add(pid)
    return there


if __name__ == "__main__":
    watch(sys.argv[1] if len(sys.argv) > 1 else None)
