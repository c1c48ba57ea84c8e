"""What a client asks of Kafka beside consuming, and waiting for answers from other threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

import trio
from confluent_kafka.admin import OffsetSpec  # pyright: ignore[reportPrivateImportUsage]

from trio_broadway_kafka._kafka._admin import BEGINNING, END, Admin, at_time
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._kafka._commits import ask_committed
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._feeder import Command
from trio_broadway_kafka._kafka._topics import Topics
from trio_broadway_kafka._model._moments import milliseconds

__all__ = ["Questions", "Waiter"]

T = TypeVar("T")


class Waiter(Generic[T]):
    """An answer that comes once, or an exception in its place."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self._result: T | BaseException | None = None

    def settle(self, result: T | BaseException) -> None:
        """Take the answer, in trio's thread; only the first one counts."""
        if not self.event.is_set():
            self._result = result
            self.event.set()

    def outcome(self) -> T:
        """The answer, or raise what came in its place."""
        if isinstance(self._result, BaseException):
            raise self._result
        return cast(T, self._result)


class Questions:
    """The part of a client that asks; it neither reads nor commits."""

    def __init__(self, config: ClientConfig, admin: Admin) -> None:
        self._admin = admin
        self._topics = Topics(config, admin)
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._waiters: set[Waiter[object]] = set()
        self._closed = False

    def _post(self, function: Callable[..., None], *args: object) -> bool:
        raise NotImplementedError

    def _is_running(self) -> bool:
        raise NotImplementedError

    async def end_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `KafkaClient.end_offsets`. May be called before `run`."""
        return await self._offsets(partitions, END)

    async def begin_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `KafkaClient.begin_offsets`. May be called before `run`."""
        return await self._offsets(partitions, BEGINNING)

    async def offsets_at(
        self, partitions: Sequence[TopicPartition], when: datetime
    ) -> dict[TopicPartition, int | None]:
        """See `KafkaClient.offsets_at`. May be called before `run`."""
        found = await self._offsets(partitions, at_time(milliseconds(when)))
        return {place: offset if offset >= 0 else None for place, offset in found.items()}

    async def committed_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int | None]:
        """See `KafkaClient.committed_offsets`."""
        self._check_open()
        if not self._is_running():
            raise RuntimeError("the client does not run yet")
        waiter: Waiter[dict[TopicPartition, int | None]] = Waiter()
        question = tuple(partitions), partial(self._post, waiter.settle)
        self._commands.put(
            lambda feeder: feeder.ask(lambda consumer, _: ask_committed(consumer, question))
        )
        return await self._wait(waiter)

    async def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """See `KafkaClient.partitions`. May be called before `run`."""
        return await self._in_thread(partial(self._topics.partitions, topics))

    async def _offsets(
        self, partitions: Sequence[TopicPartition], at: OffsetSpec
    ) -> dict[TopicPartition, int]:
        self._token = trio.lowlevel.current_trio_token()
        await self._in_thread(self._admin.connect)
        if not partitions:
            return {}
        waiter: Waiter[dict[TopicPartition, int]] = Waiter()
        self._admin.offsets(partitions, at, partial(self._post, waiter.settle))
        return await self._wait(waiter)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        self._check_open()
        result = await trio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
        self._check_open()
        return result

    async def _wait(self, waiter: Waiter[T]) -> T:
        self._waiters.add(waiter)  # type: ignore[arg-type]
        try:
            await waiter.event.wait()
        finally:
            self._waiters.discard(waiter)
        return waiter.outcome()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the client is closed")
