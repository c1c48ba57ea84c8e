"""`TransactionalProducer`: outputs and offsets, all of them or none.

One thread makes every call of the producer, one transaction after another (`Transactor`).
Reports of deliveries are served by the calls themselves.

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

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._job import Job
from trio_broadway_kafka._kafka._producing import Produced, stale_epoch
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._transactor import Transactor
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._output_record import OutputRecord

__all__ = ["GroupMetadata", "TransactionalProducer"]

GroupMetadata = Callable[
    [Sequence[OffsetCommit]], Awaitable[tuple[object, Sequence[OffsetCommit]]]
]
"""Gives the consumer's group metadata, and which of some offsets are of live epochs."""

OUTCOME: Final = 2.0
"""Seconds that a cancellation waits for what becomes of a commit."""

UNKNOWN: Final = 60.0
"""Seconds after which a commit that was cancelled, and has not ended, has no outcome: a broker
aborts after ``transaction.timeout.ms`` what it was not told to commit."""

HANGS: Final = 5.0
"""Seconds that a transaction may take to end once it was given up: calls take one at most, and
an abort three. librdkafka 2.16 has some that never return: when a broker had been restarted
under load it looked no more for the transactions' coordinator, and
``send_offsets_to_transaction`` waited for ever, whatever timeout it was given."""


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
        assert output.transactional_id is not None
        self._config = config
        self._keys = keys
        self._name = output.transactional_id
        self._metadata = metadata
        self._open_timeout = open_timeout
        self._close_timeout = close_timeout
        self._reports = Reports(config, self._fail)
        self._reports.opened = True
        self._token: trio.lowlevel.TrioToken | None = None
        self._closing = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._stopped = False
        self._opened = trio.Event()
        self._failed: KafkaFailure | None = None
        # The last one, if nobody waited for its end: it is being aborted, or committed.
        self._given_up: Job | None = None
        self._unknown: Job | None = None
        self._unknown_since = 0.0
        self._transactor = self._make_transactor()

    def __repr__(self) -> str:
        return f"<TransactionalProducer {self._name!r}, {self._config.address!r}>"

    def _make_transactor(self) -> Transactor:
        return Transactor(self._config, self._keys, self._name, self._reports, self._post)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `KafkaProducer.run`: takes over the ``transactional_id``, which fences whoever
        had it, and ends what that left open."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            with self._closing:
                await self._open()
                task_status.started()
                while not await self._serve():
                    await self._replace()
            if self._closing.cancelled_caught:
                logger.warning(
                    "closing the producer took longer than close_timeout=%g s: left to its "
                    "own thread",
                    self._close_timeout,
                )
        finally:
            self._transactor.closed.set()

    async def _open(self) -> None:
        await self._in_thread(self._transactor.open, self._open_timeout)
        self._opened.set()

    async def _serve(self) -> bool:
        """Serve until stopped, or until it is to be replaced: then return False."""
        with trio.CancelScope() as self._serving:
            await self._in_thread(self._transactor.serve)
            return True
        return False

    async def _replace(self) -> None:
        """Put another one in place of a producer that hangs. It is left to its thread, and
        fenced by the one that takes over, which ends what was left open."""
        logger.warning(
            "the producer of %r hangs: it is left to its own thread, and another one takes "
            "its place",
            self._name,
        )
        while True:
            self._transactor.closed.set()
            self._transactor = self._make_transactor()
            if self._stopped:
                self._transactor.jobs.put(None)
            try:
                await self._open()
                return
            except KafkaFailure as failure:
                if not failure.retriable:
                    raise
                logger.warning("%s; trying again", failure)

    async def _in_thread(self, function: Callable[..., None], *args: object) -> None:
        # A limiter of its own: an abandoned thread keeps its place until it ends.
        await trio.to_thread.run_sync(
            function, *args, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )

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
        being committed already, it waits up to `OUTCOME` seconds for how that ends."""
        await self._opened.wait()
        await self._see_that_the_last_one_ends()
        if failed := self._failed or self._transactor.failed:
            raise failed
        metadata = None
        if offsets:
            metadata, live = await self._metadata(offsets)
            if len(live) != len(offsets):
                raise stale_epoch()
        transactor = self._transactor
        job = Job(lambda job: transactor.transact(job, records, offsets, metadata))
        transactor.jobs.put(job)
        try:
            await job.done.wait()
        except BaseException:
            if job.give_up():
                self._given_up = job
                raise
            with trio.move_on_after(OUTCOME, shield=True):
                await job.done.wait()
            if not job.done.is_set():
                self._unknown = job
                self._unknown_since = trio.current_time()
                raise
            if job.error is not None:
                raise  # it was not committed
        if job.error is not None:
            raise job.error
        return offsets

    async def outcome(self) -> bool:
        """See `KafkaProducer.outcome`. What was committed must not be made again."""
        job = self._unknown
        if job is None:
            return False
        with trio.move_on_at(self._unknown_since + UNKNOWN):
            await job.done.wait()
        if not job.done.is_set():
            self._failed = KafkaFailure(
                "nobody knows whether the last transaction was committed: the next process "
                f"with transactional_id {self._name!r} finds out",
                code="_TIMED_OUT",
            )
            raise self._failed
        self._unknown = None
        return job.error is None

    async def _see_that_the_last_one_ends(self) -> None:
        """What was given up is being aborted; a producer that can't do so is replaced."""
        job = self._given_up
        if job is not None:
            with trio.move_on_after(HANGS):
                await job.done.wait()
            self._given_up = None
        if self._transactor.hangs or (job is not None and not job.done.is_set()):
            self._opened = trio.Event()
            self._serving.cancel()
            await self._opened.wait()

    def stop(self) -> None:
        """See `KafkaProducer.stop`."""
        if not self._stopped:
            self._stopped = True
            self._closing.deadline = trio.current_time() + self._close_timeout
            self._transactor.jobs.put(None)

    def _fail(self, error: BaseException) -> None:
        # It comes out of the next transaction too, where somebody waits for it.
        logger.warning("the producer: %s", self._config.hide(str(error)))

    def _post(self, function: Callable[[], object]) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            self._transactor.closed.set()
