"""What is known from outside of the pipelines: what was produced, handled, and committed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import trio
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message as Record,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from trio_broadway_kafka import Message, Pipeline
from trio_broadway_kafka._model._offset_map import decode
from trio_broadway_kafka.testing._topics import create_topic

__all__ = [
    "PATIENCE",
    "Facts",
    "Log",
    "MemberProcess",
    "librdkafka_threads",
    "our_threads",
    "owned",
    "prefix_end",
    "show",
    "until",
    "wait_gone",
    "wait_partitions",
]

PATIENCE: Final = 30.0
"""Seconds within which whatever is waited for must come."""

_CHECKOUT: Final = Path(__file__).parents[2]

T = TypeVar("T")


def show(text: str) -> None:
    """Write a figure or a seed: pytest shows it of tests that fail, and of all with -s."""
    sys.stdout.write(f"\n{text}\n")


async def until(
    condition: Callable[[], T], *, within: float = PATIENCE, every: float = 0.005
) -> T:
    """Wait until `condition` holds, and return what it returned."""
    deadline = trio.current_time() + within
    while not (found := condition()):
        if trio.current_time() > deadline:
            pytest.fail(f"not within {within} s: {_describe(condition)}")
        await trio.sleep(every)
    return found


def _describe(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(condition)


def owned(pipeline: Pipeline) -> dict[int, int]:
    """The partitions that a pipeline has, and their epochs."""
    return {p.partition: p.epoch for p in pipeline.statistics().partitions}


async def wait_partitions(count: int, *pipelines: Pipeline) -> list[dict[int, int]]:
    """Wait until each has `count` partitions, none of them that of another."""

    def shared() -> bool:
        have = [owned(pipeline) for pipeline in pipelines]
        together = {partition for one in have for partition in one}
        return all(len(one) == count for one in have) and len(together) == count * len(have)

    await until(shared)
    return [owned(pipeline) for pipeline in pipelines]


class Facts:
    """One topic and one group.

    Args:
        bootstrap: Kafka's address.
        protocol: ``"classic"`` or ``"consumer"``.
    """

    def __init__(self, bootstrap: str, topic: str, group: str, protocol: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.group = group
        self.protocol = protocol
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        # Never joins. The AdminClient can be asked for offsets too, but in librdkafka 2.16
        # that ends the process while the group's coordinator is not ready.
        self._reader = self._make_reader()
        self._limiter = trio.CapacityLimiter(1)

    def _make_reader(self) -> Consumer:
        return Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": self.group, "log_level": 0}
        )

    def close(self) -> None:
        self._reader.close()

    def tell(self, case: str, figures: str) -> None:
        """Show the figures of a case."""
        show(f"case {case} ({self.protocol}): {figures}")

    async def make_topic(
        self, partitions: int = 1, *, topic: str | None = None, **config: str
    ) -> str:
        """Make the topic or another, with properties, whose dots are underscores. Returns its
        name."""
        name = topic or self.topic
        properties = {key.replace("_", "."): value for key, value in config.items()}
        await trio.to_thread.run_sync(
            lambda: create_topic(
                self.bootstrap, name, partitions=partitions, config=properties, timeout=PATIENCE
            )
        )
        return name

    @property
    def kafka(self) -> dict[str, object]:
        """What a member needs to join the group."""
        settings: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "group.id": self.group,
            "group.protocol": self.protocol,
        }
        if self.protocol == "classic":
            # A member hears of a rebalance with its next heartbeat: by default in up to 3 s.
            settings["heartbeat.interval.ms"] = 250
        return settings

    async def short_session(self, seconds: float) -> dict[str, object]:
        """`kafka`, with a session that ends that long after the last heartbeat.

        Skips the test on a broker that does not permit it; the local one does.
        """
        milliseconds = int(seconds * 1000)
        if self.protocol == "classic":
            minimum = int(await self._broker_setting("group.min.session.timeout.ms"))
            if minimum > milliseconds:
                pytest.skip(f"group.min.session.timeout.ms={minimum}")
            return {**self.kafka, "session.timeout.ms": milliseconds}
        minimum = int(await self._broker_setting("group.consumer.min.session.timeout.ms"))
        if minimum > milliseconds:
            pytest.skip(f"group.consumer.min.session.timeout.ms={minimum}")
        entry = ConfigEntry(
            "consumer.session.timeout.ms",
            str(milliseconds),
            incremental_operation=AlterConfigOpType.SET,
        )
        group = ConfigResource(ResourceType.GROUP, self.group, incremental_configs=[entry])
        await self._answers(lambda: self.admin.incremental_alter_configs([group]))
        return self.kafka

    async def _broker_setting(self, name: str) -> str:
        brokers = (await trio.to_thread.run_sync(self.admin.list_topics)).brokers
        resource = ConfigResource(ResourceType.BROKER, str(min(brokers)))
        [found] = await self._answers(lambda: self.admin.describe_configs([resource]))
        return str(found[name].value)

    async def produce(
        self, partition: int, count: int, *, keys: int = 0, topic: str | None = None
    ) -> None:
        """Append records; with `keys`, that many of them are used in turn."""
        await trio.to_thread.run_sync(
            self.produce_now, partition, count, keys, topic or self.topic
        )

    async def produce_pairs(
        self, records: Sequence[tuple[int, bytes | None, bytes | None]]
    ) -> None:
        """Append records, each of a partition, a key and a value."""

        def produce() -> None:
            producer = Producer({
                "bootstrap.servers": self.bootstrap,
                "queue.buffering.max.messages": max(len(records), 1),
                "log_level": 0,
            })  # fmt: skip
            for partition, key, value in records:
                producer.produce(self.topic, value, key, partition)
            assert producer.flush(PATIENCE) == 0

        await trio.to_thread.run_sync(produce)

    def produce_now(self, partition: int, count: int, keys: int, topic: str) -> None:
        failed: list[object] = []

        def delivered(error: object, record: Record) -> None:
            if error is not None:
                failed.append(error)

        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "queue.buffering.max.messages": max(count, 1),
                "linger.ms": 1,
            }
        )
        for number in range(count):
            producer.produce(
                topic,
                b"%d-%d" % (partition, number),
                key=b"key-%d" % (number % keys) if keys else None,
                partition=partition,
                on_delivery=delivered,
            )
        assert producer.flush(PATIENCE) == 0
        assert failed == []

    async def read(self, topic: str, partitions: int) -> list[Record]:
        """All records of committed transactions; of each partition in order."""
        return await trio.to_thread.run_sync(self._read, topic, partitions)

    def _read(self, topic: str, partitions: int) -> list[Record]:
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap,
            "group.id": f"{self.group}-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "log_level": 0,
        })  # fmt: skip
        found: list[Record] = []
        left = set(range(partitions))
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in sorted(left)])
        while left:
            for record in consumer.consume(10_000, timeout=1.0):
                if (error := record.error()) is None:
                    found.append(record)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(record.partition())
        consumer.close()
        return found

    async def committed(self) -> dict[int, int]:
        """The group's committed offsets, of partitions that have one."""
        return {p.partition: p.offset for p in await self._ask_committed()}

    async def finished_beyond(self, partition: int = 0) -> list[tuple[int, int]]:
        """The runs of offsets that the committed metadata of a partition tell of."""
        [found] = [p for p in await self._ask_committed() if p.partition == partition]
        text = found.metadata or ""
        return decode(text, found.offset, text.split(":")[1]) if text else []

    async def _ask_committed(self) -> list[TopicPartition]:
        return await trio.to_thread.run_sync(self._committed, limiter=self._limiter)

    def _committed(self) -> list[TopicPartition]:
        # Who is killed in a transaction leaves its offsets unsettled for a minute.
        deadline = time.monotonic() + 4 * PATIENCE
        while True:
            try:
                metadata = self._reader.list_topics(self.topic, timeout=PATIENCE)
                asked = [
                    TopicPartition(self.topic, number)
                    for number in metadata.topics[self.topic].partitions
                ]
                found = self._reader.committed(asked, timeout=PATIENCE / 4)
                return [p for p in found if p.offset >= 0]
            except KafkaException as error:
                if error.args[0].name() == "_TIMED_OUT" and time.monotonic() < deadline:
                    # After a broker's restart it may have lost the coordinator for good.
                    self._reader.close()
                    self._reader = self._make_reader()
                    continue
                # As when the broker has just been started.
                if "COORDINATOR" not in error.args[0].name() or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    async def members(self) -> list[str]:
        """The group's members, by the id that the broker gave them."""
        try:
            [group] = await self._answers(
                lambda: self.admin.describe_consumer_groups([self.group])
            )
        except KafkaException as error:
            if error.args[0].name() == "GROUP_ID_NOT_FOUND":
                return []
            raise
        return [member.member_id for member in group.members]

    async def ends(self, partitions: int = 1) -> dict[int, int]:
        """The ends of the topic's partitions, behind control records too."""
        asked = {
            TopicPartition(self.topic, number): OffsetSpec.latest()
            for number in range(partitions)
        }
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                found = await self._answers(
                    lambda: self.admin.list_offsets(
                        asked,
                        isolation_level=IsolationLevel.READ_UNCOMMITTED,
                        request_timeout=PATIENCE,
                    )
                )
            except KafkaException as error:
                # As when the broker has been started anew.
                if "LEADER" not in error.args[0].name() or time.monotonic() > deadline:
                    raise
                # Else librdkafka would ask with what it knew for ever.
                await trio.to_thread.run_sync(lambda: self.admin.list_topics(timeout=PATIENCE))
                await trio.sleep(0.1)
            else:
                return {number: one.offset for number, one in enumerate(found)}

    async def _answers(self, ask: Callable[[], Mapping[Any, Any]]) -> list[Any]:
        return await trio.to_thread.run_sync(
            lambda: [future.result() for future in ask().values()]
        )

    async def wait_committed(
        self, expected: Mapping[int, int], *, within: float = PATIENCE
    ) -> None:
        """Wait until exactly these offsets are committed."""
        deadline = trio.current_time() + within
        while (found := await self.committed()) != dict(expected):
            if trio.current_time() > deadline:
                pytest.fail(f"after {within} s {found} is committed, not {dict(expected)}")
            await trio.sleep(0.01)

    @asynccontextmanager
    async def watch_committed(self) -> AsyncIterator[list[dict[int, int]]]:
        """Look at what is committed all the time, and check that it never goes back.

        Gives the list of what was seen, each different from the one before.
        """
        seen: list[dict[int, int]] = [await self.committed()]

        async def look() -> None:
            while True:
                now = await self.committed()
                if now != seen[-1]:
                    seen.append(now)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            yield seen
            nursery.cancel_scope.cancel()
        for before, after in itertools.pairwise(seen):
            for partition, offset in before.items():
                assert after[partition] >= offset, f"went back: {before} to {after}"


class Log:
    """What handlers did, in the order in which they did it.

    Attributes:
        started, finished, cancelled: (member, partition, offset).
    """

    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []
        self.finished: list[tuple[str, int, int]] = []
        self.cancelled: list[tuple[str, int, int]] = []

    def handler(
        self, work: Callable[[Message], Any], *, member: str = ""
    ) -> Callable[[Message], Any]:
        """A handler that awaits ``work(message)`` and writes down what becomes of it."""

        async def handle(message: Message) -> None:
            entry = (member, message.partition, message.offset)
            self.started.append(entry)
            try:
                await work(message)
            except trio.Cancelled:
                self.cancelled.append(entry)
                raise
            self.finished.append(entry)

        return handle

    @property
    def places(self) -> list[tuple[int, int]]:
        """(partition, offset) of what was finished, each time that it was."""
        return [(partition, offset) for _, partition, offset in self.finished]

    def offsets(self, partition: int, *, member: str | None = None) -> list[int]:
        """What was finished of a partition."""
        return [
            offset
            for name, number, offset in self.finished
            if number == partition and member in (None, name)
        ]


def prefix_end(start: int, finished: Iterable[int]) -> int:
    """The offset after the longest contiguous run of `finished` from `start` on."""
    done = set(finished)
    while start in done:
        start += 1
    return start


class MemberProcess:
    """A member that runs in a process of its own (see ``_member.py``)."""

    def __init__(self, process: subprocess.Popen[bytes], events: Path, stderr: Path) -> None:
        self._process = process
        self._events = events
        self._stderr = stderr
        self._position = 0
        self._seen: dict[str, list[tuple[int, int]]] = defaultdict(list)

    @classmethod
    @asynccontextmanager
    async def start(
        cls, facts: Facts, folder: Path, *, name: str = "member", **options: object
    ) -> AsyncIterator[MemberProcess]:
        """Start one; `options` are those of ``_member.py``. It is killed at the end."""
        events, stderr = folder / f"{name}.events", folder / f"{name}.stderr"
        events.touch()
        settings = {"kafka": facts.kafka, "topic": facts.topic, "events": str(events)}
        command = [
            sys.executable, "-m", "tests.broker._member", json.dumps({**settings, **options})
        ]  # fmt: skip
        with stderr.open("wb") as file:
            process = subprocess.Popen(command, cwd=_CHECKOUT, stderr=file)  # noqa: ASYNC220
        member = cls(process, events, stderr)
        try:
            yield member
        except BaseException:
            show(f"{name} wrote:\n{member.stderr}")
            raise
        finally:
            if process.poll() is None:
                member.signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    def events(self, kind: str) -> list[tuple[int, int]]:
        """(partition, offset) of the events of a kind so far: start, end, cancelled."""
        with self._events.open("rb") as file:
            file.seek(self._position)
            lines, _, _ = file.read().rpartition(b"\n")
        if lines:
            self._position += len(lines) + 1
            for line in lines.decode().split("\n"):
                found, partition, offset = line.split()
                self._seen[found].append((int(partition), int(offset)))
        return self._seen[kind]

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def wait(self, *, within: float = PATIENCE) -> int:
        """Wait until it has ended, and return its exit code."""
        await until(lambda: self._process.poll() is not None, within=within)
        return self._process.returncode


def our_threads() -> list[str]:
    """The threads of Python that are at something of this library's, by name.

    trio names its threads after what they do; idle ones it keeps for a while.
    """
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and not thread.name.startswith("Trio thread")
        and "trio_broadway_kafka" in thread.name + repr(thread)
    ]


def librdkafka_threads() -> set[int]:
    """The threads of librdkafka in this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text().startswith("rdk:"):
                found.add(int(task.name))
        except OSError:
            pass  # it has just ended
    return found


def wait_gone(threads: Callable[[], Iterable[object]], *, within: float) -> list[object]:
    """Give threads that have ended the moment until the system no longer lists them."""
    deadline = time.monotonic() + within
    while (left := list(threads())) and time.monotonic() < deadline:
        os.sched_yield()
    return left
