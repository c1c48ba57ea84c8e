"""A producer of the fake broker: the `KafkaProducer` protocol on trio's clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._producing import Produced
from trio_broadway_kafka._model._errors import FencedError, KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._output_record import OutputRecord
from trio_broadway_kafka.testing._fake_cluster import Cluster

__all__ = ["FakeProducer"]

# Seconds after which what failed for now is tried again.
_AGAIN_AFTER = 0.1


@dataclass(slots=True, eq=False)
class _Entry:
    record: OutputRecord
    answered: Produced
    sent_at: float
    expires_at: float


@dataclass(slots=True, eq=False)
class _Ending:
    """A transaction that is being committed, whether or not anybody waits for it."""

    records: Sequence[OutputRecord]
    offsets: Sequence[OffsetCommit]
    sent_at: float
    ended: trio.Event = field(default_factory=trio.Event)
    result: Sequence[OffsetCommit] | KafkaFailure = ()


class FakeProducer:
    """An idempotent producer to a `FakeBroker`; with a ``transactional_id``, a transactional
    one. It runs once.

    A record is there once it is delivered, those of a transaction all at once with its
    offsets, and an offset for the end of the transaction behind them, as Kafka has it.

    Args:
        cluster: where to.
        output: the user's.
        client: whose offsets are committed; frozen, it sends nothing.
        commit: commits all of some offsets, or raises.
    """

    def __init__(
        self,
        cluster: Cluster,
        output: Output,
        client: object,
        commit: Callable[[Sequence[OffsetCommit]], Sequence[OffsetCommit]],
    ) -> None:
        self._cluster = cluster
        self._output = output
        self._client = client
        self._commit = commit
        self._queues: dict[str, deque[_Entry]] = {}  # by topic, in order
        self._ending: _Ending | None = None
        self._stopping = False
        self._opened = trio.Event()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Deliver what is produced, until `stop`; see `KafkaProducer.run`."""
        await trio.lowlevel.checkpoint()
        if self._output.transactional_id is not None:
            self._cluster.transactional[self._output.transactional_id] = self
        self._opened.set()
        task_status.started()
        while not self._stopping:
            await self._cluster.wait_changed(min(self._deliver(), self._end()))

    def produce(self, record: OutputRecord, answered: Produced) -> None:
        """See `KafkaProducer.produce`.

        Raises:
            RuntimeError: there is a ``transactional_id``.
        """
        if self._output.transactional_id is not None:
            raise RuntimeError(
                "a producer with a transactional_id produces in transactions only"
            )
        now = trio.current_time()
        expires_at = now + self._output.delivery_timeout
        entry = _Entry(record, answered, now, expires_at)
        self._queues.setdefault(record.topic, deque()).append(entry)
        self._cluster.changed()

    def _deliver(self) -> float:
        """Deliver what has arrived. Returns when the next thing is due."""
        now = trio.current_time()
        due = math.inf
        for topic, queue in [*self._queues.items()]:
            while queue and (at := self._due(queue[0])) <= now:
                if not self._deliver_one(queue[0]):
                    continue  # it is due later now
                queue.popleft()
            if queue:
                due = min(due, at)
            else:
                del self._queues[topic]
        return due

    def _due(self, entry: _Entry) -> float:
        if self._client in self._cluster.frozen:
            return math.inf
        arrival = self._cluster.arrival("produce", entry.sent_at)
        return min(arrival, entry.expires_at)

    def _deliver_one(self, entry: _Entry) -> bool:
        """Deliver or give up; False if it is to be tried again."""
        now = trio.current_time()
        where = f"producing to {entry.record.topic!r}"
        failure: KafkaFailure | None = None
        if self._cluster.arrival("produce", entry.sent_at) > now:
            failure = KafkaFailure(f"{where}: no answer", code="_MSG_TIMED_OUT", retriable=True)
        else:
            failure = self._cluster.failures.next("produce")
            if failure is None:
                try:
                    self._cluster.append(entry.record)
                except KafkaFailure as error:
                    failure = KafkaFailure(f"{where}: {error}", code=error.code)
            passing = failure is not None and (
                failure.retriable or failure.code == "UNKNOWN_TOPIC_OR_PART"
            )
            if passing and now < entry.expires_at:
                entry.sent_at = min(now + _AGAIN_AFTER, entry.expires_at)
                return False
        entry.answered(failure)
        return True

    async def transact(
        self, records: Sequence[OutputRecord], offsets: Sequence[OffsetCommit]
    ) -> Sequence[OffsetCommit]:
        """See `KafkaProducer.transact`."""
        await self._opened.wait()
        while self._client in self._cluster.frozen:
            await self._cluster.wait_changed()
        self._check_not_fenced()
        try:
            await self._cluster.request("transaction", within=self._output.delivery_timeout)
        finally:
            while self._client in self._cluster.frozen:
                await self._cluster.wait_changed()
        self._check_not_fenced()
        self._ending = ending = _Ending(records, offsets, trio.current_time())
        self._cluster.changed()
        await ending.ended.wait()
        self._ending = None
        if isinstance(ending.result, KafkaFailure):
            raise ending.result
        return ending.result

    async def outcome(self) -> bool:
        """See `KafkaProducer.outcome`."""
        ending = self._ending
        if ending is None:
            return False
        await ending.ended.wait()
        self._ending = None
        return not isinstance(ending.result, KafkaFailure)

    def _end(self) -> float:
        """End the transaction, if that is due. Returns when it will be."""
        ending = self._ending
        if ending is None or ending.ended.is_set() or self._client in self._cluster.frozen:
            return math.inf
        due = self._cluster.arrival("end_transaction", ending.sent_at)
        if due > trio.current_time():
            return due
        try:
            if failure := self._cluster.failures.next("end_transaction"):
                raise failure
            self._check_not_fenced()
            ending.result = self._make(ending.records, ending.offsets)
        except KafkaFailure as failure:
            ending.result = failure
        ending.ended.set()
        return math.inf

    def _make(
        self, records: Sequence[OutputRecord], offsets: Sequence[OffsetCommit]
    ) -> Sequence[OffsetCommit]:
        for record in records:
            if record.topic not in self._cluster.topics and not self._cluster.makes_topics:
                raise KafkaFailure(
                    f"producing to {record.topic!r}: there is no such topic",
                    code="UNKNOWN_TOPIC_OR_PART",
                    retriable=True,
                )
        committed = self._commit(offsets)
        touched = {}
        for record in records:
            message = self._cluster.append(record)
            touched[message.topic(), message.partition()] = message
        for topic, partition in touched:
            self._cluster.topics[topic][partition].skip(1)
        self._cluster.changed()
        return committed

    def _check_not_fenced(self) -> None:
        name = self._output.transactional_id
        if name is None:
            raise RuntimeError("a producer without a transactional_id has no transactions")
        if self._cluster.transactional.get(name) is not self:
            raise FencedError(
                f"another process has taken over transactional_id {name!r}: each process needs "
                "one of its own, and the same one after a restart",
                code="INVALID_PRODUCER_EPOCH",
            )

    def stop(self) -> None:
        """See `KafkaProducer.stop`."""
        self._stopping = True
        self._cluster.changed()
