"""What a script of `peers/` is told, and how it is measured. It needs nothing but Python.

A trial begins with the first message that is handled after the warm-up, and ends with the last
one, or when its time is over; then the figures are printed as JSON and the process ends, so
that a script needs nothing but what a program of that peer would have.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from pathlib import Path

SLEEPS = {"slow": lambda: 0.01, "keys": lambda: random.uniform(0, 0.005)}


class Trial:
    """One run of one peer.

    Attributes:
        bootstrap: the broker's address.
        topic: what to read, from its beginning.
        scenario: "nothing" (handlers do nothing), "slow" (10 ms each), "keys" (0 to 5 ms each,
            in the order of keys), "latency" (what is produced now, 1,000 a second).
        at_once: how many handlers may run at once, where the peer offers that.
        variant: which form of the peer.
        group: a group that nobody has used.
        waits: whether handlers take time.
    """

    def __init__(self) -> None:
        self.bootstrap, self.topic, self.scenario, count, warm_up, seconds, *rest = sys.argv[1:]
        self.variant = rest[0] if rest else ""
        self.at_once = {"slow": 1_000, "keys": 100}.get(self.scenario, 10)
        self.group = f"{self.topic}-{os.getpid()}-{time.time_ns()}"
        self.waits = self.scenario in SLEEPS
        self._count = self._left = int(count)
        self._seconds = float(seconds)
        self._warm_up = int(warm_up)
        self._latencies: list[float] = []
        self._has_begun = False

    def seconds(self) -> float:
        """How long a handler takes."""
        return SLEEPS[self.scenario]()

    def note(self, value: bytes | None = None, count: int = 1) -> None:
        """So many messages have been handled."""
        if not self._has_begun:
            self._note_early(count)
            return
        self._left -= count
        if self.scenario == "latency":
            self._latencies.append(time.monotonic() - float(value or b"nan"))
        if self._left <= 0 or (not self._left & 127 and self._is_over()):
            self._end()

    def _note_early(self, count: int) -> None:
        self._warm_up -= count
        if self._warm_up <= 0:
            gc.collect()
            self._cpu = time.process_time()
            self._begun = time.perf_counter()
            self._has_begun = True

    def _is_over(self) -> bool:
        return time.perf_counter() - self._begun > self._seconds

    def _end(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        figures = {
            "messages": self._count - self._left,
            "wall": time.perf_counter() - self._begun,
            "cpu": time.process_time() - self._cpu,
            "rss": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "latencies": sorted(self._latencies),
        }
        os.write(1, f"\n{json.dumps(figures)}\n".encode())
        os._exit(0)
