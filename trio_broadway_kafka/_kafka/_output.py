"""`ConfluentProducer`: a real Kafka as a `KafkaProducer`.

::

    trio's thread                                the producer's thread
    produce  ──  librdkafka's own queue  ──▶
    answers  ◀──  run_sync_soon, one a poll  ──  poll: delivery reports

confluent-kafka's Producer lets `produce` in while another thread polls (measured: 2 µs, at
most 11 ms beside 100,000 reports; a Consumer lets nobody in). Transactions are another
matter, and another thread's: see `_transactions`.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import trio
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._producing import Produced
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._translate import GONE, error_of, failure
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._output_record import OutputRecord

__all__ = ["ConfluentProducer", "send"]

POLL: Final = 0.1
"""Seconds that a poll of the producer may take, and so that stopping may wait."""

AGAIN_AFTER: Final = 0.25
"""Seconds until a record is tried again that found no topic, or no room in the queue."""


def send(
    producer: Producer,
    record: OutputRecord,
    report: Callable[[KafkaError | None, Message], None],
) -> None:
    """Put a record in librdkafka's queue.

    Raises:
        BufferError: the queue is full.
        KafkaException: librdkafka refuses the record.
    """
    options: dict[str, Any] = {}
    if record.partition is not None:
        options["partition"] = record.partition
    if record.headers:
        options["headers"] = list(record.headers)
    producer.produce(record.topic, record.value, record.key, on_delivery=report, **options)


class _Entry:
    """A record on its way.

    Attributes:
        order: of the calls.
        expires_at: when it is given up, on trio's clock.
    """

    __slots__ = ("answered", "expires_at", "order", "record")

    def __init__(
        self, order: int, record: OutputRecord, answered: Produced, expires_at: float
    ) -> None:
        self.order = order
        self.record = record
        self.answered = answered
        self.expires_at = expires_at

    def __lt__(self, other: _Entry) -> bool:
        return self.order < other.order


class ConfluentProducer:
    """An idempotent producer on confluent-kafka. It runs once.

    librdkafka tries again what may pass, in order, until ``delivery_timeout``; but a full
    queue and a topic that was deleted it reports at once: such records are tried again here,
    before the later ones of their topic.

    Args:
        config: the client's, for addresses and secrets.
        keys: librdkafka's, for the producer.
        output: the user's.
        close_timeout: seconds for closing.
    """

    def __init__(
        self, config: ClientConfig, keys: dict[str, Any], output: Output, close_timeout: float
    ) -> None:
        self._config = config
        self._keys = keys
        self._timeout = output.delivery_timeout
        self._close_timeout = close_timeout
        self._reports = Reports(config, self._fail)
        self._reports.opened = True  # what is wrong is logged
        self._producer: Producer | None = None
        self._order = count()
        self._early: deque[_Entry] = deque()  # asked for before `run`
        self._later: dict[str, list[_Entry]] = {}  # by topic, in order
        self._wait_for_later = trio.Event()
        self._reported: list[tuple[_Entry, KafkaError | None]] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._fatal: BaseException | None = None
        self._closing = trio.CancelScope()
        self._stopping = False

    def __repr__(self) -> str:
        return f"<ConfluentProducer, {self._config.address!r}>"

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `KafkaProducer.run`. After `stop`, a close that takes longer than
        ``close_timeout`` is abandoned and logged."""
        self._token = trio.lowlevel.current_trio_token()
        limiter = trio.CapacityLimiter(1)
        with self._closing:
            self._producer = await trio.to_thread.run_sync(
                self._make, abandon_on_cancel=True, limiter=limiter
            )
            task_status.started()
            while self._early:
                self._send(self._early.popleft())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._try_again)
                await trio.to_thread.run_sync(
                    self._poll, self._producer, abandon_on_cancel=True, limiter=limiter
                )
                nursery.cancel_scope.cancel()
        self._stopping = True
        if self._closing.cancelled_caught:
            logger.warning(
                "closing the producer took longer than close_timeout=%g s: left to its own "
                "thread",
                self._close_timeout,
            )

    def _make(self) -> Producer:
        try:
            return Producer({**self._keys, **self._reports.for_producer()})
        except KafkaException as error:
            doing = f"connecting to {self._config.address}"
            raise failure(error_of(error), doing) from None

    def produce(self, record: OutputRecord, answered: Produced) -> None:
        """See `KafkaProducer.produce`."""
        expires_at = trio.current_time() + self._timeout
        entry = _Entry(next(self._order), record, answered, expires_at)
        if self._producer is None or self._early:
            self._early.append(entry)
        elif record.topic in self._later:
            self._later[record.topic].append(entry)
        else:
            self._send(entry)

    async def transact(
        self, records: Sequence[OutputRecord], offsets: Sequence[OffsetCommit]
    ) -> Sequence[OffsetCommit]:
        """Not without a ``transactional_id``.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a producer without a transactional_id has no transactions")

    async def outcome(self) -> bool:
        """There was none."""
        return False

    def stop(self) -> None:
        """See `KafkaProducer.stop`."""
        if not self._stopping:
            self._stopping = True
            self._closing.deadline = trio.current_time() + self._close_timeout

    # -- in trio's thread

    def _send(self, entry: _Entry) -> bool:
        """Put it in librdkafka's queue, or where it waits for that. Whether that is done."""
        assert self._producer is not None
        try:
            send(self._producer, entry.record, partial(self._report, entry))
        except BufferError:
            self._wait(entry)
            return False
        except KafkaException as error:
            return self._refused(entry, error_of(error))
        except Exception as error:  # confluent-kafka refuses a value: for the one who gave it
            entry.answered(self._failure(entry, str(error), "_INVALID_ARG"))
        return True

    def _refused(self, entry: _Entry, error: KafkaError) -> bool:
        """Answer, or let it wait where the topic may come. Whether that is the end of it."""
        if error.name() in GONE and trio.current_time() + AGAIN_AFTER < entry.expires_at:
            self._wait(entry)
            return False
        if self._fatal is None and error.name() == "_FATAL" and self._producer is not None:
            error = self._producer.fatal_error() or error  # type: ignore[attr-defined]
        entry.answered(failure(error, f"producing to {entry.record.topic!r}"))
        return True

    def _failure(self, entry: _Entry, text: str, code: str) -> KafkaFailure:
        return KafkaFailure(f"producing to {entry.record.topic!r}: {text}", code=code)

    def _wait(self, entry: _Entry) -> None:
        insort(self._later.setdefault(entry.record.topic, []), entry)
        self._wait_for_later.set()

    async def _try_again(self) -> None:
        while True:
            await self._wait_for_later.wait()
            self._wait_for_later = trio.Event()
            await trio.sleep(AGAIN_AFTER)
            for topic, entries in [*self._later.items()]:
                del self._later[topic]
                for index, entry in enumerate(entries):
                    if not self._send(entry):  # it waits again, and so do those behind it
                        for behind in entries[index + 1 :]:
                            self._wait(behind)
                        break

    def _answer(self, reported: list[tuple[_Entry, KafkaError | None]]) -> None:
        for entry, error in reported:
            if error is None:
                entry.answered(None)
            else:
                self._refused(entry, error)

    def _note_fatal(self, error: BaseException) -> None:
        self._fatal = self._fatal or error
        logger.error("the producer can't go on: %s", self._config.hide(str(error)))

    # -- in the producer's thread

    def _report(self, entry: _Entry, error: KafkaError | None, message: Message) -> None:
        self._reported.append((entry, error))

    def _poll(self, producer: Producer) -> None:
        """Serve delivery reports until stopped, then forget what is left."""
        while not self._stopping:
            producer.poll(POLL)
            if self._reported:
                reported, self._reported = self._reported, []
                self._reports.well()
                if not self._post(self._answer, reported):
                    break
        # Nobody waits any more. Without it dropping the producer would.
        producer.purge()
        producer.poll(0)

    def _fail(self, error: BaseException) -> None:
        self._post(self._note_fatal, error)

    def _post(self, function: Callable[..., None], *args: object) -> bool:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return False
        return True
