"""`Transactor`: one of librdkafka's producers, and the thread that makes its transactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, NoReturn

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition as Native,
)

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._job import GivenUp, Job
from trio_broadway_kafka._kafka._output import send
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._translate import FENCED, PASSING, error_of, failure
from trio_broadway_kafka._model._errors import FencedError, KafkaFailure
from trio_broadway_kafka._model._output_record import OutputRecord

__all__ = ["Transactor"]

CALL: Final = 1.0
"""Seconds that one call may take, and so that giving up may wait; it is made again."""

IDLE: Final = 0.5
"""Seconds between polls while there are no transactions, for errors and tokens."""


class Transactor:
    """Its methods are called in its thread, one after another.

    Args:
        config: the client's, for addresses and secrets.
        keys: librdkafka's, for the producer.
        name: the ``transactional_id``.
        reports: where it reports its errors.
        post: calls a function in trio's thread, soon.

    Attributes:
        jobs: what is to be done; None is the end.
        closed: set when nobody waits any more.
        hangs: whether its last transaction could not be ended.
        failed: why there will be no other one.
    """

    def __init__(
        self,
        config: ClientConfig,
        keys: dict[str, Any],
        name: str,
        reports: Reports,
        post: Callable[[Callable[[], object]], object],
    ) -> None:
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.closed: threading.Event = threading.Event()
        self.hangs: bool = False
        self.failed: KafkaFailure | None = None
        self._config = config
        self._keys = keys
        self._name = name
        self._reports = reports
        self._post = post
        self._producer: Producer
        # Of the transaction under way.
        self._undelivered: KafkaError | None = None

    def open(self, timeout: float) -> None:
        """Take over the ``transactional_id``, within so many seconds.

        Raises:
            KafkaFailure: that could not be.
        """
        doing = f"taking over transactional_id {self._name!r}"
        try:
            self._producer = producer = Producer({**self._keys, **self._reports.for_producer()})
        except KafkaException as error:
            raise failure(error_of(error), f"connecting to {self._config.address}") from None
        until = time.monotonic() + timeout
        while True:
            try:
                producer.init_transactions(min(CALL, max(until - time.monotonic(), 0.01)))
                return
            except KafkaException as exception:
                refused = error_of(exception)
            if (refusal := self._reports.refusal()) is not None:
                raise refusal
            late = time.monotonic() >= until
            if not refused.retriable() or late or self.closed.is_set():
                raise failure((late and self._reports.trouble) or refused, doing)
            producer.poll(0)

    def serve(self) -> None:
        """Do the jobs, until their end or until closed."""
        while not self.closed.is_set():
            try:
                job = self.jobs.get(timeout=IDLE)
            except Empty:
                self._producer.poll(0)
                continue
            if job is None:
                break
            try:
                if not job.given_up:
                    job.call(job)
            except BaseException as error:
                job.error = error
            self._post(job.done.set)

    def transact(
        self,
        job: Job,
        records: Sequence[OutputRecord],
        offsets: Sequence[OffsetCommit],
        metadata: object,
    ) -> None:
        """Make a transaction of these.

        Raises:
            KafkaFailure: it was aborted.
        """
        self._undelivered = None
        try:
            self._call(job, self._producer.begin_transaction)
            for record in records:
                self._produce(job, record)
            if offsets:
                natives = [Native(o.topic, o.partition, o.offset, o.metadata) for o in offsets]
                self._call(
                    job,
                    lambda: self._producer.send_offsets_to_transaction(natives, metadata, CALL),
                )
            job.begin_to_commit()
            # Each call of commit_transaction may report what was delivered.
            self._call(job, lambda: self._producer.commit_transaction(CALL))
        except KafkaException as exception:
            self._end(error_of(exception))
        except GivenUp:
            self._abort()
            raise KafkaFailure(
                "the transaction was aborted: there was no more time for it",
                code="_TIMED_OUT",
                retriable=True,
            ) from None
        self._reports.well()

    def _call(self, job: Job, call: Callable[[], object]) -> None:
        """Call until it succeeds or fails for good."""
        while True:
            if (job.given_up and not job.is_committing) or self.closed.is_set():
                raise GivenUp
            try:
                call()
                return
            except KafkaException as exception:
                error = error_of(exception)
                if error.txn_requires_abort() or not error.retriable():
                    raise

    def _produce(self, job: Job, record: OutputRecord) -> None:
        while True:
            if job.given_up:
                raise GivenUp
            try:
                send(self._producer, record, self._report)
                return
            except BufferError:
                self._producer.poll(0.05)

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.name() not in ("_PURGE_QUEUE", "_PURGE_INFLIGHT"):
            self._undelivered = self._undelivered or error

    def _end(self, error: KafkaError) -> NoReturn:
        """Abort after an error, and raise what it comes to."""
        if error.fatal() or error.name() in FENCED:
            self._raise_fatal(error)
        self._abort()
        cause = self._undelivered or error
        raised = failure(cause, "committing a transaction")
        raised.retriable = raised.retriable or cause.name() in PASSING
        raise raised

    def _abort(self) -> None:
        """Abort, within the time there is for it."""
        until = time.monotonic() + 3 * CALL
        while True:
            try:
                self._producer.abort_transaction(CALL)
                return
            except KafkaException as exception:
                error = error_of(exception)
                if error.fatal() or error.name() in FENCED:
                    self._raise_fatal(error)
                if error.name() == "_STATE":  # there is nothing to abort
                    return
                if not error.retriable() or time.monotonic() >= until:
                    logger.warning("aborting a transaction: %s", error.str())
                    self.hangs = True
                    return

    def _raise_fatal(self, error: KafkaError) -> NoReturn:
        if error.name() in FENCED or "fenced" in error.str().lower():
            self.failed = FencedError(
                f"another process has taken over transactional_id {self._name!r}: each process "
                f"needs one of its own, and the same one after a restart ({error.name()})",
                code=error.name(),
            )
        else:
            self.failed = failure(error, f"the producer of {self._name!r} can't go on")
        raise self.failed
