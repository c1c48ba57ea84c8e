"""A process that ends Kafka's processes when the Python that started them is gone.

Run as a script with a folder as its argument. It reads lines from its standard input, which
the starting process holds open: ``+PID`` is a process to watch over, ``-PID`` one that has
ended. At the end of the input, however the starting process came to its end (SIGKILL
included), what is left is killed and the folder is removed. It imports nothing of ours: it
is one of many processes and has to be small.

Linux's PR_SET_PDEATHSIG would do without the process, but it fires when the *thread* that
started the broker ends, and trio's worker threads do not live long.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def watch(folder: str) -> None:
    """Keep count of the processes until the input ends, then clean up."""
    alive: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            alive.add(pid)
        else:
            alive.discard(pid)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Files of a process that is only just ending may still appear while we remove.
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(sys.argv[1])
