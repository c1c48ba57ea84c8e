"""`TransactionalProducer`: outputs and offsets, all of them or none.

One thread makes every call of the producer, one transaction after another. Reports of
deliveries are served by the calls themselves.

The consumer's group metadata is taken by the feeder's thread, together with which epochs are
live, for each transaction anew: a partition that is kept outlives the group's generation, and
metadata of an earlier one is refused (ILLEGAL_GENERATION). That fences: when a member has been
replaced, the broker refuses the offsets of what it still takes for its own, by the generation
it was last told of; what it was told is lost is not live any more, and such a transaction does
not begin, for its records would be produced again by the next owner. Metadata without a member
id the broker would take from anybody (as from producers before KIP-447), so there are none to
be had between the loss of a membership and the next (see ``_confluent.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, NoReturn

import trio
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
from trio_broadway_kafka._kafka._producing import Produced, stale_epoch
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._translate import FENCED, PASSING, error_of, failure
from trio_broadway_kafka._model._errors import FencedError, KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._output_record import OutputRecord

__all__ = ["GroupMetadata", "TransactionalProducer"]

GroupMetadata = Callable[
    [Sequence[OffsetCommit]], Awaitable[tuple[object, Sequence[OffsetCommit]]]
]
"""Gives the consumer's group metadata, and which of some offsets are of live epochs."""

CALL: Final = 1.0
"""Seconds that one call may take, and so that giving up may wait; it is made again."""

OUTCOME: Final = 2.0
"""Seconds that a cancellation waits for what becomes of a commit."""

IDLE: Final = 0.5
"""Seconds between polls while there are no transactions, for errors and tokens."""


class TransactionalProducer:
    """A transactional producer on confluent-kafka. It runs once.

    Args:
        config: the client's, for addresses and secrets.
        keys: librdkafka's, for the producer.
        output: the user's.
        metadata: asks the consumer.
        open_timeout: seconds for taking over the ``transactional_id``.
        close_timeout: seconds for closing.
    """

    def __init__(
        self,
        config: ClientConfig,
        keys: dict[str, Any],
        output: Output,
        metadata: GroupMetadata,
        *,
        open_timeout: float,
        close_timeout: float,
    ) -> None:
        self._config = config
        self._keys = keys
        self._output = output
        self._metadata = metadata
        self._open_timeout = open_timeout
        self._close_timeout = close_timeout
        self._reports = Reports(config, self._fail)
        self._reports.opened = True
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._closing = trio.CancelScope()
        self._closed = threading.Event()
        self._stopped = False
        self._opened = trio.Event()
        self._failed: KafkaFailure | None = None
        # Of the transaction under way.
        self._undelivered: KafkaError | None = None
        self._hangs = False

    def __repr__(self) -> str:
        name = self._output.transactional_id
        return f"<TransactionalProducer {name!r}, {self._config.address!r}>"

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `KafkaProducer.run`: takes over the ``transactional_id``, which fences whoever
        had it, and ends what that left open."""
        self._token = trio.lowlevel.current_trio_token()
        limiter = trio.CapacityLimiter(1)
        try:
            with self._closing:
                await trio.to_thread.run_sync(
                    self._open, abandon_on_cancel=True, limiter=limiter
                )
                self._opened.set()
                task_status.started()
                await trio.to_thread.run_sync(
                    self._serve, abandon_on_cancel=True, limiter=limiter
                )
            if self._closing.cancelled_caught:
                logger.warning(
                    "closing the producer took longer than close_timeout=%g s: left to its "
                    "own thread",
                    self._close_timeout,
                )
        finally:
            self._closed.set()

    def produce(self, record: OutputRecord, answered: Produced) -> None:
        """Only in transactions.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a producer with a transactional_id produces in transactions only")

    async def transact(
        self, records: Sequence[OutputRecord], offsets: Sequence[OffsetCommit]
    ) -> Sequence[OffsetCommit]:
        """See `KafkaProducer.transact`. Cancelling it aborts the transaction. If that is
        being committed already, it waits up to `OUTCOME` seconds for how that ends: what was
        committed must not be made again. If that stays unknown, this was the last one."""
        await self._opened.wait()
        if self._failed is not None:
            raise self._failed
        metadata = None
        if offsets:
            metadata, live = await self._metadata(offsets)
            if len(live) != len(offsets):
                raise stale_epoch()

        def call(job: Job) -> None:
            self._transact(job, records, offsets, metadata)

        job = Job(call)
        self._jobs.put(job)
        try:
            await job.done.wait()
        except BaseException:
            if job.give_up():
                raise
            with trio.move_on_after(OUTCOME, shield=True):
                await job.done.wait()
            if not job.done.is_set():
                self._failed = KafkaFailure(
                    "nobody knows whether the last transaction was committed: the next process "
                    f"with transactional_id {self._output.transactional_id!r} finds out",
                    code="_TIMED_OUT",
                )
                raise
            if job.error is not None:
                raise  # it was not committed
        if job.error is not None:
            raise job.error
        return offsets

    def stop(self) -> None:
        """See `KafkaProducer.stop`."""
        if not self._stopped:
            self._stopped = True
            self._closing.deadline = trio.current_time() + self._close_timeout
            self._jobs.put(None)

    # -- in the thread

    def _open(self) -> None:
        doing = f"taking over transactional_id {self._output.transactional_id!r}"
        try:
            self._producer = producer = Producer({**self._keys, **self._reports.for_producer()})
        except KafkaException as error:
            raise failure(error_of(error), f"connecting to {self._config.address}") from None
        until = time.monotonic() + self._open_timeout
        while True:
            try:
                producer.init_transactions(min(CALL, max(until - time.monotonic(), 0.01)))
                return
            except KafkaException as exception:
                refused = error_of(exception)
            if (refusal := self._reports.refusal()) is not None:
                raise refusal
            late = time.monotonic() >= until
            if not refused.retriable() or late or self._closed.is_set():
                raise failure((late and self._reports.trouble) or refused, doing)
            producer.poll(0)

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                job = self._jobs.get(timeout=IDLE)
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

    def _transact(
        self,
        job: Job,
        records: Sequence[OutputRecord],
        offsets: Sequence[OffsetCommit],
        metadata: object,
    ) -> None:
        if self._hangs:
            self._renew()
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
            if (job.given_up and not job.is_committing) or self._closed.is_set():
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
                    self._hangs = True
                    return

    def _renew(self) -> None:
        """Have another producer in place of one whose transaction does not end.

        Under load, when its broker has been restarted, librdkafka 2.16 may not look for the
        transactions' coordinator any more: its requests wait, and so does the abort. Taking
        over the ``transactional_id`` ends what was left open, and fences the old producer.

        Raises:
            KafkaFailure: it could not be taken over now.
        """
        name = self._output.transactional_id
        logger.warning("the producer of %r hangs: another one takes its place", name)
        old = [self._producer]
        try:
            self._open()
            self._hangs = False
        finally:  # to destroy it may take as long
            threading.Thread(target=old.clear, name="an old producer", daemon=True).start()

    def _raise_fatal(self, error: KafkaError) -> NoReturn:
        name = self._output.transactional_id
        if error.name() in FENCED or "fenced" in error.str().lower():
            self._failed = FencedError(
                f"another process has taken over transactional_id {name!r}: each process needs "
                f"one of its own, and the same one after a restart ({error.name()})",
                code=error.name(),
            )
        else:
            self._failed = failure(error, f"the producer of {name!r} can't go on")
        raise self._failed

    def _fail(self, error: BaseException) -> None:
        # It comes out of the next transaction too, where somebody waits for it.
        logger.warning("the producer: %s", self._config.hide(str(error)))

    def _post(self, function: Callable[[], None]) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            self._closed.set()
