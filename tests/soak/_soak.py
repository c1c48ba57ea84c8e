"""A group on a real Kafka for minutes or days: members and the broker come, go and halt.

Records are copied from topic to topic in transactions, in batches or one by one, by slow
handlers of which some fail; what fails for good goes to a topic for dead letters.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
from confluent_kafka import Message as Record, Producer

from tests.broker._facts import Facts, MemberProcess, until
from tests.soak._schedule import MAX_MEMBERS, Deed, schedule
from trio_broadway_kafka.testing import KafkaBroker

__all__ = ["Soak", "Totals"]

PARTITIONS: Final = 8
KEYS: Final = 10  # of each partition
SESSION: Final = 4.0  # seconds
TO_END: Final = 300.0  # seconds within which all must be done in the end
MIB: Final = 2**20
SETTLED: Final = 20.0  # seconds of a process's life before its memory is looked at


@dataclass
class Totals:
    """What came of it."""

    deeds: Counter[str] = field(default_factory=Counter[str])
    produced: int = 0
    copied: int = 0
    dead: int = 0
    lost: int = 0
    twice: int = 0
    disordered: int = 0
    handled: int = 0
    processes: int = 0
    largest: float = 0.0  # MiB
    growth: float = 0.0  # MiB, of a process after its first minute
    wrong: list[str] = field(default_factory=list[str])


class _Member:
    """A process that runs."""

    def __init__(self, name: str, process: MemberProcess, stack: AsyncExitStack) -> None:
        self.name = name
        self.process = process
        self.stack = stack
        self.since = time.monotonic()
        self.settled_at: float | None = None  # MiB
        self.is_stopped = False


class Soak:
    """One soak.

    Args:
        broker: of this machine, to be restarted and stopped.
        protocol: of the group.
        seed: of what happens.
        seconds: how long; then all that was produced has to be done.
        rate: records a second.
        folder: for the members' files.
        tell: is given a line now and then.
    """

    def __init__(
        self,
        broker: KafkaBroker,
        protocol: str,
        *,
        seed: int,
        seconds: float,
        rate: int,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.totals = Totals()
        self._broker = broker
        self._seed = seed
        self._seconds = seconds
        self._rate = rate
        self._folder = folder
        self._tell = tell
        topic = f"soak-{seed}-{protocol}"
        self._facts = Facts(broker.bootstrap, topic, f"{topic}-group", protocol)
        self._kafka: dict[str, object] = {}
        self._members: dict[str, _Member] = {}
        self._leaving: set[str] = set()
        self._delivered: dict[bytes, tuple[bytes, int]] = {}  # value: key and number in it
        self._of_key: Counter[bytes] = Counter()
        self._names = [f"m{number}" for number in range(MAX_MEMBERS)]

    @property
    def _topics(self) -> tuple[str, str]:
        return f"{self._facts.topic}-copies", f"{self._facts.topic}-letters"

    async def run(self) -> Totals:
        """Run it, and count."""
        await self._facts.make_topic(PARTITIONS)
        for topic in self._topics:
            await self._facts.make_topic(PARTITIONS, topic=topic)
        self._kafka = await self._facts.short_session(SESSION)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_memory)
                nursery.start_soon(self._report)
                with trio.move_on_after(self._seconds):
                    async with trio.open_nursery() as work:
                        work.start_soon(self._produce)
                        for _ in range(3):
                            await self._join()
                        work.start_soon(self._happen, nursery)
                self._tell("nothing more happens: what is left is being done")
                await self._end()
                nursery.cancel_scope.cancel()
            await self._check()
        finally:
            with trio.CancelScope(shield=True):
                for member in [*self._members.values()]:
                    await member.stack.aclose()
            self._facts.close()
        return self.totals

    # Records.

    async def _produce(self) -> None:
        """Produce at the rate until cancelled, and then wait for the deliveries."""
        producer = Producer({
            "bootstrap.servers": self._facts.bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "log_level": 0,
        })  # fmt: skip
        number = 0
        began = trio.current_time()
        try:
            while True:
                await trio.sleep(0.05)
                due = int((trio.current_time() - began) * self._rate)
                while number < due:
                    partition = number % PARTITIONS
                    key = b"key-%d-%d" % (partition, number // PARTITIONS % KEYS)
                    value = b"%d" % number
                    self._delivered[value] = key, self._of_key[key]
                    self._of_key[key] += 1
                    producer.produce(
                        self._facts.topic, value, key, partition, on_delivery=self._delivery
                    )
                    number += 1
                producer.poll(0)
        finally:
            with trio.CancelScope(shield=True):
                left = await trio.to_thread.run_sync(producer.flush, 120)
                if left:
                    self.totals.wrong.append(f"{left} records could not be produced")

    def _delivery(self, error: object, record: Record) -> None:
        if error is not None:
            self.totals.wrong.append(f"a record could not be produced: {error}")
        else:
            self.totals.produced += 1

    # Members.

    async def _join(self) -> bool:
        free = [
            name
            for name in self._names
            if name not in self._members and name not in self._leaving
        ]
        if not free:
            return False
        name = free[0]
        self.totals.processes += 1
        folder = self._folder / f"{self.totals.processes}"
        folder.mkdir()
        copies, letters = self._topics
        # Each name does it in a way of its own.
        number = self._names.index(name)
        options: dict[str, Any] = {
            "kafka": self._kafka,
            "work": 0.005,
            "jitter": 0.02,
            "to": copies,
            "output": {
                "transactional_id": f"{self._facts.topic}-{name}",
                "transaction_interval": 0.2,
            },
            "failing": 0.01,
            "letters": letters,
            "options": {"max_in_flight": 2_000, "revoke_timeout": 5},
            "stages": {"concurrency": 20, "ordering": ["key", "partition"][number % 2]},
        }
        if number % 3 == 2:
            options["batch"] = 20
        stack = AsyncExitStack()
        process = await stack.enter_async_context(
            MemberProcess.start(self._facts, folder, name=name, **options)
        )
        self._members[name] = _Member(name, process, stack)
        return True

    def _running(self) -> list[_Member]:
        return [member for member in self._members.values() if not member.is_stopped]

    async def _happen(self, nursery: trio.Nursery) -> None:
        for deed in schedule(self._seed):
            await trio.sleep(deed.after)
            if await self._do(deed, nursery):
                self.totals.deeds[deed.kind] += 1

    async def _do(self, deed: Deed, nursery: trio.Nursery) -> bool:
        """Returns whether there was something to do it to."""
        match deed.kind:
            case "join":
                return await self._join()
            case "restart broker":
                await trio.to_thread.run_sync(self._broker.restart)
                return True
            case "stop broker":
                self._broker.pause()
                try:
                    await trio.sleep(deed.lasts)
                finally:  # the time may be over
                    self._broker.resume()
                return True
        running = self._running()
        if len(running) < 2:
            return False  # somebody has to work
        member = running[deed.target % len(running)]
        match deed.kind:
            case "leave":
                nursery.start_soon(self._leave, member)
            case "kill":
                member.process.signal(signal.SIGKILL)
                await self._close(member)
            case _:
                nursery.start_soon(self._stop, member, deed.lasts)
        return True

    async def _leave(self, member: _Member) -> None:
        """It drains, and ends well; a second one of its name waits for that."""
        del self._members[member.name]
        self._leaving.add(member.name)
        member.process.signal(signal.SIGTERM)
        code = await member.process.wait(within=90)
        # Python had not come to its first line that listens for signals.
        had_begun = bool(member.process.stderr)
        if code != 0 and (had_begun or code != -signal.SIGTERM):
            self._note_end(member, code)
        self.totals.handled += len(member.process.events("end"))
        await member.stack.aclose()
        self._leaving.discard(member.name)

    async def _stop(self, member: _Member, lasts: float) -> None:
        member.is_stopped = True
        member.process.signal(signal.SIGSTOP)
        await trio.sleep(lasts)
        if member.process.is_running:
            member.process.signal(signal.SIGCONT)
        member.is_stopped = False

    async def _close(self, member: _Member) -> None:
        self._members.pop(member.name, None)
        self.totals.handled += len(member.process.events("end"))
        await member.stack.aclose()

    def _note_end(self, member: _Member, code: int) -> None:
        if "nobody knows whether the last transaction" in member.process.stderr:
            # It can't go on, and says so: whoever supervises it starts another one.
            self.totals.deeds["gave up"] += 1
            return
        self.totals.wrong.append(
            f"{member.name} ended with {code}: {member.process.stderr[-1500:]}"
        )

    # Looking.

    async def _watch_memory(self) -> None:
        """Memory of each process, and whether it is still there."""
        while True:
            await trio.sleep(1)
            for member in [*self._members.values()]:
                if not member.process.is_running:
                    self._note_end(member, await member.process.wait())
                    await self._close(member)
                    continue
                if not sys.platform.startswith("linux"):
                    continue
                try:
                    pages = Path(f"/proc/{member.process.pid}/statm").read_text().split()[1]  # noqa: ASYNC240
                except (OSError, IndexError):
                    continue
                now = int(pages) * 4096 / MIB
                self.totals.largest = max(self.totals.largest, now)
                if time.monotonic() - member.since > SETTLED:
                    if member.settled_at is None:
                        member.settled_at = now
                    self.totals.growth = max(self.totals.growth, now - member.settled_at)

    async def _report(self) -> None:
        began = trio.current_time()
        while True:
            await trio.sleep(10)
            deeds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.totals.deeds.items()))
            self._tell(
                f"{trio.current_time() - began:5.0f} s: {self.totals.produced:,} produced, "
                f"{len(self._members)} members; {deeds}"
            )

    # The end.

    async def _end(self) -> None:
        for member in self._members.values():
            member.process.signal(signal.SIGCONT)
        self._broker.resume()
        if not self._members:
            await self._join()
        ends = await self._facts.ends(PARTITIONS)
        await self._facts.wait_committed(ends, within=TO_END)
        for member in [*self._members.values()]:
            await self._leave(member)
        await until(lambda: not self._leaving, within=90)

    async def _check(self) -> None:
        """Each record is copied once or is a dead letter, and those of a key are in order."""
        totals = self.totals
        copies, letters = self._topics
        copied = await self._facts.read(copies, PARTITIONS)
        dead = await self._facts.read(letters, PARTITIONS)
        times = Counter(record.value() for record in [*copied, *dead])
        totals.copied, totals.dead = len(copied), len(dead)
        totals.lost = len(self._delivered.keys() - times.keys())
        totals.twice = sum(count > 1 for count in times.values())
        last: dict[bytes, int] = {}
        for record in copied:
            key, number = self._delivered[record.value() or b""]
            totals.disordered += number < last.get(key, -1)
            last[key] = number
