"""What users see of an open pipeline. Its parts are in `_wiring`.

     Kafka ─▶ source ─▶ processors ─▶ batchers ─▶ acknowledger ─▶ Kafka (offsets)
              one task   N tasks       timers and   one task
              owns the   order kept    M tasks      contiguous prefix per
              client     by lanes                   (topic, partition, epoch)
       ▲ demand (a memory channel): messages polled and not yet finished ≤ max_in_flight

One nursery owns all tasks, so what leaves the block is one flat ExceptionGroup. The source
and the acknowledger are shielded services: on leaving, the stages end first; then, within
``close_timeout``, comes the last commit, then the client leaves the group and is closed;
past the deadline it is abandoned.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from trio_broadway_kafka._caught_up import wait_caught_up
from trio_broadway_kafka._kafka._client import (
    TopicPartition,
)
from trio_broadway_kafka._model._rate import RateLimit, check_rate_limit
from trio_broadway_kafka._model._statistics import (
    PipelineStatistics,
    pipeline_statistics,
)
from trio_broadway_kafka._model._strip import Strip, strip_of
from trio_broadway_kafka._model._topics import check_topics
from trio_broadway_kafka._model._topology import Topology
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka._whereabouts import (
    Blocker,
    HotKey,
    blocker_of,
    hot_keys_of,
    retry_now,
)
from trio_broadway_kafka._wiring import Wiring

__all__ = ["Pipeline"]


class Pipeline(Wiring):
    """An open pipeline, made by `open_pipeline`.

    Attributes:
        name: for logs.
    """

    def _check_open(self) -> None:
        if self._state.value == "closed":
            raise trio.ClosedResourceError(f"pipeline {self.name!r} is closed")

    async def wait_assigned(self) -> None:
        """Wait until partitions are assigned for the first time.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        await self._listener.assigned_once.wait_value(True)

    async def wait_caught_up(self) -> None:
        """Wait until all messages up to the partitions' ends, as of now, are finished.

        Waits for an assignment first. Partitions that are taken away meanwhile are no
        longer waited for.

        Raises:
            KafkaFailure: the broker does not tell the ends.
            trio.ClosedResourceError: the pipeline is closed.
        """
        await self.wait_assigned()
        await wait_caught_up(self._client, self._partitions, self._options.open_timeout)

    async def wait_finished(self) -> None:
        """Wait until the pipeline has nothing more to do: it was drained, or is where
        ``stop_at`` says."""
        await self._wait_drained()

    async def commit(self) -> None:
        """Commit what has finished as of now, and wait until Kafka has it.

        An outage is waited out: set a deadline if you can't.

        Raises:
            KafkaFailure: Kafka refused.
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        await self._acknowledger.commit()

    async def refresh_lag(self) -> None:
        """Ask Kafka for the ends of the assigned partitions: the lag in `statistics` counts
        from them.

        They are learnt from fetches otherwise, so the lag of a partition that is not being
        fetched, for it is paused or ``max_in_flight`` is reached, stands still.

        Raises:
            KafkaFailure: the broker does not tell the ends.
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        ends = await self._client.end_offsets(sorted(self._partitions))
        for address, end in ends.items():
            if (state := self._partitions.get(address)) is not None:
                state.end = max(end, state.end or 0)

    async def drain(self, *, timeout: float | None = None) -> int:
        """Poll no more, drop what has not started, finish what has.

        Args:
            timeout: seconds after which the handlers are cancelled; the pipeline's
                ``drain_timeout`` unless given.

        Returns:
            The number of messages that had started and were left unfinished.

        Raises:
            RuntimeError: called from inside a handler, which would wait for itself.
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        if self._assignment.includes_caller():
            raise RuntimeError(
                "drain() was called from inside a handler, where it would wait for itself; "
                "set an event that the block's body waits for, and leave the block there"
            )
        return await self._drain(timeout)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Read these topics in place of those before: the whole new list.

        Partitions of topics that are left are drained and committed like any that are taken
        away; those of topics that are kept are not disturbed.

        Raises:
            ConfigError: `topics` is wrong, or the pipeline has a ``stop_at``.
            KafkaFailure: a named topic does not exist (with ``create_topics`` it is made),
                or Kafka did not tell within ``open_timeout``. Nothing has changed.
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        names = check_topics(topics)
        await self._client.subscribe(names)

    def pause(self, topic: str, partition: int) -> None:
        """Fetch no more of a partition until `resume`. What is here already is handled.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        self._source.pausing.pause(TopicPartition(topic, partition))

    def resume(self, topic: str, partition: int) -> None:
        """End a `pause`, or that of a `PausePartition`; nothing to do if there is none.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        self._policy_pauses.resume(TopicPartition(topic, partition))
        self._source.pausing.resume(TopicPartition(topic, partition))

    @property
    def rate_limit(self) -> RateLimit | None:
        """How many messages may be taken, None for no limit. Assigning takes effect at once.

        What waits for a token then waits for one of the new limit. The tokens that are left
        stay, up to the new limit's number of them.

        Raises:
            ConfigError: what is assigned is neither a `RateLimit` nor None.
            trio.ClosedResourceError: on assigning, the pipeline is closed.
        """
        return self._limiter.limit

    @rate_limit.setter
    def rate_limit(self, limit: RateLimit | None) -> None:
        check_rate_limit(limit)
        self._check_open()
        self._limiter.limit = limit

    def strip(self, topic: str, partition: int, *, cells: int = 60) -> Strip | None:
        """What is finished of a partition beyond what may be committed, in so many cells;
        None if it is not assigned."""
        state = self._partitions.get(TopicPartition(topic, partition))
        return None if state is None else strip_of(state, cells)

    def blocker(self, topic: str, partition: int) -> Blocker | None:
        """The message that holds back what may be committed of a partition; None if there
        is none, or the partition is not assigned."""
        state = self._partitions.get(TopicPartition(topic, partition))
        workings = None if state is None else self._assignment.of(state)
        if state is None or workings is None:
            return None
        return blocker_of(workings, state, trio.current_time())

    def hot_keys(self, count: int = 10) -> tuple[HotKey, ...]:
        """The keys that most messages wait for now, in an ordering by key or by a function."""
        return hot_keys_of(self._assignment.all(), count)

    def retry_now(self, topic: str, partition: int, offset: int) -> bool:
        """Let a message that waits to be tried again be tried now.

        Returns:
            Whether it waited for that.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        return self._retry_now(topic, partition, offset, is_last=False)

    def _retry_now(self, topic: str, partition: int, offset: int, *, is_last: bool) -> bool:
        self._check_open()
        state = self._partitions.get(TopicPartition(topic, partition))
        workings = None if state is None else self._assignment.of(state)
        if state is None or workings is None:
            return False
        return retry_now(workings, state, offset, is_last=is_last)

    def give_up(self, topic: str, partition: int, offset: int) -> bool:
        """Let a message that waits to be tried again be tried once more, now, and no more: if
        it fails again, what its `Retry` has as ``then`` takes place, such as a `DeadLetter`.
        Where that is `Stop`, it goes on being tried again, for the pipeline would end.

        Returns:
            Whether it waited for that.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        return self._retry_now(topic, partition, offset, is_last=True)

    def since_poll(self) -> float:
        """Seconds since the client was polled last: at most about one, but in a revoke, which
        may last ``revoke_timeout``, and while trio's loop is blocked. 0 when it is closed."""
        return 0.0 if self._state.value == "closed" else self._client.since_poll()

    def topology(self) -> Topology:
        """What the pipeline consists of, as of now."""
        return Topology(
            name=self.name,
            group=self._group,
            topics=tuple(self._client.topics) or self._topics_at_first,
            state=self._state.value,
            per_partition=isinstance(self._assignment, PartitionPipelines),
            stages=self._assignment.topology(),
        )

    def statistics(self) -> PipelineStatistics:
        """What has been done since opening, and where the partitions are."""
        return pipeline_statistics(
            [self._partitions[address] for address in sorted(self._partitions)],
            self._listener.ended_counts,
            failed=self._assignment.failed,
            retried=self._assignment.retried,
            produced=self._outputs.sent.total(),
            busy=self._assignment.busy,
            started=self._assignment.started,
            batchers=self._assignment.batcher_statistics(),
            max_in_flight=self._options.max_in_flight,
            times=self._times,
            pauses=self._source.pausing.pauses.of,
            now=trio.current_time(),
        )
