"""Topics and offsets asked of the brokers by a client that does not consume.

At the end of a log a fetching consumer answers such questions only after 500 ms: its
requests wait behind its fetch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition as Native,
)
from confluent_kafka.admin import (
    AdminClient,
    ListOffsetsResultInfo,  # pyright: ignore[reportPrivateImportUsage]
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]
    TopicDescription,  # pyright: ignore[reportPrivateImportUsage]
)

from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._translate import error_of, failure
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["BEGINNING", "END", "Admin", "at_time"]

BEGINNING: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
END: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]


def at_time(timestamp: int) -> OffsetSpec:
    """The first record at or after a time in ms."""
    spec: OffsetSpec = OffsetSpec.for_timestamp(timestamp)
    return spec


REQUEST_TIMEOUT: Final = 30.0
"""Seconds until a request fails in which no broker answered."""

Offsets = dict[TopicPartition, int]


# The answer for a time beyond the last record.
_NO_SUCH_OFFSET: Final = -1


class Admin:
    """The AdminClient of one client, made when it is first needed. Thread-safe.

    Attributes:
        topic_ids: those of topics that were asked for, as they were told last.
    """

    def __init__(self, config: ClientConfig, reports: Reports) -> None:
        self._config = config
        self._reports = reports
        self._lock = threading.Lock()
        self._client: AdminClient | None = None
        self._closed = False
        self.topic_ids: dict[str, str] = {}

    def connect(self) -> AdminClient:
        """Make the AdminClient. With an ``oauth_cb`` this waits for its token: not in trio."""
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            if self._client is None:
                keys = self._config.admin()
                callbacks = self._reports.callbacks()
                if "oauth_cb" in callbacks:
                    keys["oauth_cb"] = callbacks["oauth_cb"]
                try:
                    self._client = AdminClient(keys)
                except KafkaException as error:
                    where = f"connecting to {self._config.address}"
                    raise failure(error_of(error), where) from None
            return self._client

    def close(self) -> None:
        """Drop the client; its requests end unanswered."""
        with self._lock:
            self._closed = True
            self._client = None

    def create_topics(self, names: Sequence[str], timeout: float) -> None:
        """Make topics with the broker's defaults; those that exist are left alone. Blocks.

        Raises:
            KafkaFailure: the broker refused, naming the topic.
        """
        client = self.connect()  # kept, for without it nobody answers
        futures: dict[str, Future[None]] = client.create_topics(
            [NewTopic(name) for name in names],
            operation_timeout=timeout,
            request_timeout=timeout,
        )
        for name, future in futures.items():
            try:
                future.result()
            except KafkaException as error:
                if error_of(error).name() != "TOPIC_ALREADY_EXISTS":
                    raise failure(error_of(error), f"creating topic {name!r}") from None

    def look_up(self, names: Sequence[str], timeout: float) -> dict[str, KafkaError | None]:
        """Ask whether these topics exist; unlike their metadata this makes none. Blocks.

        Returns:
            The error for each, None for a topic that exists.
        """
        answers = self.describe(names, timeout)
        return {n: a if isinstance(a, KafkaError) else None for n, a in answers.items()}

    def describe(self, names: Collection[str], timeout: float) -> dict[str, str | KafkaError]:
        """Ask for topics' ids. Blocks. Returns the id or the error for each."""
        client = self.connect()  # kept, for without it nobody answers
        futures: dict[str, Future[TopicDescription]] = client.describe_topics(
            TopicCollection(list(names)), request_timeout=timeout
        )
        found: dict[str, str | KafkaError] = {}
        for name, future in futures.items():
            try:
                found[name] = self.topic_ids[name] = str(future.result().topic_id)
            except KafkaException as error:
                found[name] = error_of(error)
        return found

    def offsets(
        self,
        partitions: Iterable[TopicPartition],
        at: OffsetSpec,
        done: Callable[[Offsets | BaseException], object],
    ) -> None:
        """Ask for offsets; `done` is called once, in any thread, with them or an error.

        A time beyond the last record gives -1.
        """
        level = (
            IsolationLevel.READ_COMMITTED
            if self._config.read_committed
            else IsolationLevel.READ_UNCOMMITTED
        )
        client = self.connect()
        futures: dict[Native, Future[ListOffsetsResultInfo]] = client.list_offsets(
            {Native(*place): at for place in partitions},
            isolation_level=level,
            request_timeout=REQUEST_TIMEOUT,
        )

        def look_for_leaders(topics: Collection[str]) -> None:
            # Else librdkafka 2.16 asks with what it knew, and had no other answer than
            # FENCED_LEADER_EPOCH 40 s after a broker's restart.
            client.describe_topics(TopicCollection(list(topics)))

        _Gather(futures, done, look_for_leaders)


class _Gather:
    """Calls `done` once, when all futures have their results."""

    def __init__(
        self,
        futures: dict[Native, Future[ListOffsetsResultInfo]],
        done: Callable[[Offsets | BaseException], object],
        look_for_leaders: Callable[[Collection[str]], None],
    ) -> None:
        self._lock = threading.Lock()
        self._left = len(futures)
        self._offsets: Offsets = {}
        self._error: BaseException | None = None
        self._done = done
        self._look_for_leaders = look_for_leaders
        self._led_elsewhere: set[str] = set()
        for native, future in futures.items():
            place = TopicPartition(native.topic, native.partition)
            future.add_done_callback(lambda f, place=place: self._one(place, f))  # type: ignore[misc]

    def _one(self, place: TopicPartition, future: Future[ListOffsetsResultInfo]) -> None:
        error = future.exception()
        with self._lock:
            if isinstance(error, KafkaException):
                where = f"asking for an offset of {place.topic} [{place.partition}]"
                if "LEADER" in (found := error_of(error)).name():
                    self._led_elsewhere.add(place.topic)
                self._error = self._error or failure(found, where)
            elif error is not None:
                self._error = self._error or error
            elif (offset := future.result().offset) < _NO_SUCH_OFFSET:
                # Seen (-1001) while a broker started.
                self._error = self._error or KafkaFailure(
                    f"{place.topic} [{place.partition}] has no leader that knows its offsets",
                    code="OFFSET_NOT_AVAILABLE",
                    retriable=True,
                )
            else:
                self._offsets[place] = offset
            self._left -= 1
            if self._left:
                return
        if self._led_elsewhere:
            self._look_for_leaders(self._led_elsewhere)
        self._done(self._error or self._offsets)


def unknown_topics(names: Sequence[str], address: str) -> KafkaFailure:
    """The failure for named topics that don't exist."""
    listed = ", ".join(repr(name) for name in names)
    return KafkaFailure(
        f"no topic {listed} at {address}: check the name, make it, or give create_topics=True",
        code="UNKNOWN_TOPIC_OR_PART",
    )
