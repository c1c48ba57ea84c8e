"""Reading the letters of a topic that have not been sent back yet."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

from trio_broadway_kafka._kafka._client import KafkaClient, Session
from trio_broadway_kafka.dead_letters._letter import ALL, Letter, Selection
from trio_broadway_kafka.dead_letters._reader import Place, Reader, client_of, reading

__all__ = ["Letters", "read"]


class Letters:
    """What `read` gives: letters, one after another."""

    def __init__(
        self,
        reader: Reader,
        selection: Selection,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._reader = reader
        self._selection = selection
        self._progress = progress
        self._here: deque[Letter] = deque()

    def __aiter__(self) -> Letters:
        return self

    async def __anext__(self) -> Letter:
        """The next letter.

        Raises:
            KafkaFailure: Kafka can't be read any more.
        """
        while not self._here:
            found = await self._reader.next()
            if self._progress is not None:
                self._progress(self._reader.passed, self._reader.total)
            if not found:
                raise StopAsyncIteration
            letters = (one.letter for one in found)
            self._here.extend(letter for letter in letters if self._selection.takes(letter))
        return self._here.popleft()


@asynccontextmanager
async def read(
    topic: str,
    *,
    kafka: Mapping[str, object] | None = None,
    selection: Selection = ALL,
    place: Place | None = None,
    progress: Callable[[int, int], object] | None = None,
    open_timeout: float = 30.0,
    client: KafkaClient | None = None,
) -> AsyncGenerator[Letters]:
    """Read the letters of a topic that have not been sent back yet, up to where it ends now.

    ::

        async with dead_letters.read("orders-dead", kafka=...) as letters:
            async for letter in letters:
                print(letter, letter.exception_type)

    Nothing is committed. While others redrive the topic, only what is of the partitions that
    come to this reader is read.

    Args:
        topic: the dead-letter topic.
        kafka: librdkafka's settings; ``bootstrap.servers`` is needed. ``group.id`` is the
            group that redrives: ``<topic>-redrive`` unless given.
        selection: which letters.
        place: only the letter that is there, whether or not it was sent back.
        progress: called now and then with how many of how many offsets have been read.
        open_timeout: seconds within which the broker must answer.
        client: in place of `kafka`, for tests.

    Raises:
        ConfigError: an option is wrong.
        ExceptionGroup: of `KafkaFailure`.
    """
    session = Session(
        topics=(topic,),
        open_timeout=open_timeout,
        start_from="committed" if place is None else "earliest",
    )
    chosen = client_of(kafka, client, topic, session)
    async with reading(chosen, topic, session, place) as reader:
        yield Letters(reader, selection, progress)
