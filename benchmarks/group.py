"""Several processes of one group: their rate against one's, and what a rebalance costs.

    python benchmarks/group.py [--bootstrap HOST:PORT] [--rounds N] [--only rate rebalance]

- rate: one process and two over the same backlog, with handlers that take 5 and such
  as take 50 µs of CPU. What counts is the time in which all of them are at work.
- rebalance: one process handles 1,000 records a second of 10 partitions; a second one joins
  and, 10 s later, leaves. Printed is for how long no record was handled, of the whole topic and
  of the partition that waited longest, beside what the same process shows undisturbed.

Both under each group protocol; each member is a process that `run_pipeline` runs, and SIGTERM
is what makes it leave.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import trio
from _backlog import PARTITIONS, local_or, make_backlog
from confluent_kafka.admin import AdminClient, NewTopic
from latency import producing

from trio_broadway_kafka import Message, Stages, run_pipeline

PROTOCOLS = ("classic", "consumer")
RECORDS = 4_000_000
WORK = {"5 µs of CPU": 5e-6, "50 µs of CPU": 50e-6}
BUCKET = 0.01  # seconds
SECONDS = 15.0  # of a measurement of the rate: a classic group takes up to 6 to share it out
QUIET, SHARED = 5.0, 10.0  # seconds before a member joins, and until it leaves
SETTLED = 1.0  # seconds after which what follows a join or leave is over, and then some

Handled = Counter[tuple[int, int]]
"""How many records were handled, by partition and bucket of the monotonic clock."""


# A member, in a process of its own.


async def member(bootstrap: str, topic: str, group: str, protocol: str, work: float) -> None:
    """Handle what there is until SIGTERM, then print what was handled when."""
    handled: Handled = Counter()

    async def handle(message: Message) -> None:
        until = time.perf_counter() + work
        handled[message.partition, int(time.monotonic() / BUCKET)] += 1
        while work and time.perf_counter() < until:
            pass

    await run_pipeline(
        kafka={
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "fetch.queue.backoff.ms": 10,
        },
        topics=[topic],
        stages=Stages(handle_message=handle, ordering="key", concurrency=10),
        start_from="earliest",
    )
    json.dump([[*place, count] for place, count in handled.items()], sys.stdout)


class Member:
    """One that runs."""

    def __init__(
        self, bootstrap: str, topic: str, group: str, protocol: str, work: float = 0.0
    ) -> None:
        arguments = ["--member", bootstrap, topic, group, protocol, str(work)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
        )

        self._is_leaving = False

    def leave(self) -> None:
        """Let it drain and end: once, for a second signal would cancel it."""
        if not self._is_leaving:
            self._is_leaving = True
            self._process.send_signal(signal.SIGTERM)

    def handled(self) -> Handled:
        """Let it end, and tell what it handled."""
        self.leave()
        out, _ = self._process.communicate(timeout=60)
        return Counter({(partition, at): count for partition, at, count in json.loads(out)})


# The rate.


def rate_of(members: Sequence[Handled]) -> float:
    """Records a second, while all are at work."""
    if not all(members):
        raise SystemExit("a member had nothing to do: there are too few records")
    begin = max(min(at for _, at in one) for one in members)
    end = min(max(at for _, at in one) for one in members)
    count = sum(n for one in members for (_, at), n in one.items() if begin < at < end)
    return count / ((end - begin - 1) * BUCKET)


def print_rates(bootstrap: str, rounds: int) -> None:
    topic = "group-rate"
    print(f"{RECORDS:,} records of 100 bytes …", flush=True)
    make_backlog(bootstrap, topic, RECORDS)
    print("\n| handlers | protocol | one process | two | ratio |\n|---|---|---|---|---|")
    for name, work in WORK.items():
        for protocol in PROTOCOLS:
            found: dict[int, list[float]] = {1: [], 2: []}
            for number in range(rounds):
                for count, rates in found.items():
                    group = f"group-{os.getpid()}-{time.time_ns()}-{number}"
                    settings = (bootstrap, topic, group, protocol, work)
                    members = [Member(*settings) for _ in range(count)]
                    time.sleep(SECONDS)
                    for one in members:
                        one.leave()
                    rates.append(rate_of([one.handled() for one in members]))
            one_rate, two_rate = (median(rates) for rates in found.values())
            print(
                f"| {name} | {protocol} | {one_rate:,.0f}/s | {two_rate:,.0f}/s "
                f"| {two_rate / one_rate:.2f} |",
                flush=True,
            )


# A rebalance.


def longest_pause(handled: Handled, begin: float, end: float) -> tuple[float, float]:
    """Seconds without a record between two times: of all, and of the worst partition."""
    first, last = int(begin / BUCKET), int(end / BUCKET)
    times = {
        partition: [at for p, at in handled if p == partition and first <= at <= last]
        for partition in range(PARTITIONS)
    }
    of_all = longest_gap([first, last, *(at for one in times.values() for at in one)])
    return of_all, max(longest_gap([first, last, *one]) for one in times.values())


def longest_gap(buckets: list[int]) -> float:
    buckets.sort()
    return max(b - a for a, b in pairwise(buckets)) * BUCKET


def rebalance(bootstrap: str, protocol: str) -> dict[str, tuple[float, float]]:
    """The pauses of one round, by what happened."""
    topic = f"group-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result(30)
    count = int((2 * QUIET + SHARED + 4 * SETTLED) * 1_000) + 10_000
    producer = subprocess.Popen(producing(bootstrap, topic, count))
    try:
        settings = (bootstrap, topic, f"{topic}-group", protocol)
        staying = Member(*settings)
        time.sleep(QUIET)
        # A process starts for some tenths of a second before it joins.
        started = time.monotonic()
        coming = Member(*settings)
        time.sleep(SHARED)
        leaving = time.monotonic()
        coming.leave()
        time.sleep(QUIET)
        total = staying.handled() + coming.handled()
    finally:
        producer.kill()
        producer.wait()
    return {
        "undisturbed": longest_pause(total, started - SETTLED - 0.5, started - 0.5),
        "one joins": longest_pause(total, started, leaving - SETTLED),
        "it leaves": longest_pause(total, leaving - 0.1, leaving + QUIET - SETTLED),
    }


def print_rebalances(bootstrap: str, rounds: int) -> None:
    print("\n| | protocol | nothing handled for | longest of a partition |\n|---|---|---|---|")
    for protocol in PROTOCOLS:
        found = [rebalance(bootstrap, protocol) for _ in range(rounds)]
        for event in found[0]:
            of_all, of_one = (median(one[event][i] for one in found) for i in (0, 1))
            print(f"| {event} | {protocol} | {of_all:.2f} s | {of_one:.2f} s |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--member"]:
        *names, work = sys.argv[2:]
        trio.run(member, *names, float(work))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["rate", "rebalance"])
    options = parser.parse_args()
    wanted = options.only or ["rate", "rebalance"]
    with local_or(options.bootstrap) as bootstrap:
        if "rate" in wanted:
            print_rates(bootstrap, options.rounds)
        if "rebalance" in wanted:
            print_rebalances(bootstrap, options.rounds)


if __name__ == "__main__":
    main()
