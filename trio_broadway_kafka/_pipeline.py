"""A pipeline's wiring, and the order of its shutdown.

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

import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext

import trio
from trio_util import AsyncValue

from trio_broadway_kafka._caught_up import wait_caught_up
from trio_broadway_kafka._connect import chunk_of, connect
from trio_broadway_kafka._fan_out import FanOut
from trio_broadway_kafka._kafka._client import (
    KafkaClient,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._listener import Listener
from trio_broadway_kafka._model._demand import Demand
from trio_broadway_kafka._model._moments import StopAtOption
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import PipelineOptions, Stages, StagesFactory
from trio_broadway_kafka._model._rate import RateLimit, check_rate_limit
from trio_broadway_kafka._model._statistics import (
    PipelineStatistics,
    pipeline_statistics,
)
from trio_broadway_kafka._model._topics import check_topics
from trio_broadway_kafka._model._topology import PipelineState, Topology
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka._stages._acknowledger import Acknowledger
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._source import Source
from trio_broadway_kafka._stop_at import StopAt
from trio_broadway_kafka.instruments import Instrument

__all__ = ["Pipeline"]

_log = logging.getLogger("trio_broadway_kafka")

# Messages of one partition that may be finished behind an unfinished one, in units of
# max_in_flight: each costs a byte here, and all are handled again after a crash.
_GAP_FACTOR = 10


class Pipeline:
    """An open pipeline, made by `open_pipeline`.

    Attributes:
        name: for logs.
    """

    def __init__(
        self,
        name: str,
        client: KafkaClient,
        session: Session,
        stages: Stages | StagesFactory,
        options: PipelineOptions,
        rate_limit: RateLimit | None = None,
        instruments: Sequence[Instrument] = (),
        group: str | None = None,
        stop_at: StopAtOption | None = None,
    ) -> None:
        self.name = name
        self._group = group
        self._subscribed = session.topics
        self._told = told = FanOut(self, instruments) if instruments else None
        self._options = options
        self._partitions: dict[TopicPartition, PartitionOffsets] = {}
        self._stop_at: StopAt | None = None
        if stop_at is not None:
            self._stop_at = StopAt(stop_at, client, session, self._partitions)
            client = self._stop_at.client
        self._client = client
        self._acknowledger = Acknowledger(
            client, self._partitions, options.commit_interval, told
        )
        self._limiter = Limiter(rate_limit)
        at_once = options.commit_interval == 0
        finished = self._acknowledger.finished if at_once else None
        self._assignment = connect(
            stages,
            options,
            # Late: the source needs to know where to put things first.
            want=lambda: self._source.want(),
            entered=lambda state: self._source.ready(state),
            finished=finished,
            limiter=self._limiter,
            told=told,
        )
        demand = Demand(
            max_messages=options.max_in_flight,
            max_bytes=options.max_in_flight_bytes,
            chunk=chunk_of(stages),
        )
        self._listener = Listener(
            name,
            options,
            self._partitions,
            self._assignment,
            self._acknowledger,
            demand,
            finished=finished,
            ended=lambda states: self._source.ended(states),
            told=told,
        )
        self._source: Source = Source(
            client,
            session,
            self._partitions,
            self._listener,
            demand,
            self._assignment.intake,
            gap_limit=_GAP_FACTOR * options.max_in_flight,
            enters=isinstance(self._assignment, PartitionPipelines),
        )
        self._state: AsyncValue[PipelineState]
        self._state = AsyncValue("opening")
        self._unfinished = 0
        self._nursery: trio.Nursery

    # Opening and closing.

    @asynccontextmanager
    async def _lifetime(self) -> AsyncGenerator[trio.Nursery]:
        """The nursery and its tasks; at the end all of it is closed."""
        told = nullcontext() if self._told is None else self._told.lifetime()
        async with told, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._listener.start(nursery)
            self._assignment.start(nursery)
            nursery.start_soon(self._acknowledger.run)
            nursery.start_soon(self._acknowledger.commit_regularly)
            nursery.start_soon(self._source.fetch_on_demand)
            nursery.start_soon(self._limiter.run)
            if self._told is not None:
                nursery.start_soon(self._told.run)
            nursery.start_soon(self._listener.raise_failure)
            try:
                yield nursery
            finally:
                with trio.CancelScope(shield=True):
                    await self._close()

    async def _open(self) -> None:
        await self._nursery.start(self._source.run)
        if self._stop_at is not None:
            await self._stop_at.fix()
            self._nursery.start_soon(self._end_at, self._stop_at)
        self._note_open()

    def _note_open(self) -> None:
        if self._state.value == "opening":
            self._state.value = "open"
            if self._told is not None:
                self._told.opened()

    async def _end_at(self, stop_at: StopAt) -> None:
        await stop_at.wait_reached(
            self._acknowledger.try_to_commit, self._assignment.flush_if_idle
        )
        await self.drain()

    async def _close(self) -> None:
        """End the stages, commit, close the client. Shielded; leaving partitions' stages ends
        by `close_timeout`, and so does the rest, but for handlers that resist."""
        try:
            self._source.close()
            self._assignment.stop()
            self._nursery.cancel_scope.cancel()
            await self._assignment.wait_ended()
            # By a deadline of its own, or one context could cost all others their commit.
            await self._assignment.leave()
            with trio.move_on_after(self._options.close_timeout) as closing:
                await self._acknowledger.commit_the_last(self.name)
                self._client.stop()
                await self._source.closed.wait()
            if closing.cancelled_caught:
                _log.warning(
                    "%s: no answer from Kafka within close_timeout (%.1f s); the client is "
                    "abandoned, and what was not committed is handled again",
                    self.name,
                    self._options.close_timeout,
                )
        finally:  # a second Ctrl-C may have come
            for scope in (self._source.scope, self._acknowledger.scope):
                scope.cancel()
            self._listener.give_up()
            self._assignment.give_up()
            self._state.value = "closed"

    # What users call.

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
        await self._state.wait_value(lambda state: state in ("drained", "closed"))

    async def commit(self) -> None:
        """Commit what has finished as of now, and wait until Kafka has it.

        An outage is waited out: set a deadline if you can't.

        Raises:
            KafkaFailure: Kafka refused.
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        await self._acknowledger.commit()

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
        if self._state.value == "open":
            self._state.value = "draining"
            self._source.close()
            seconds = self._options.drain_timeout if timeout is None else timeout
            self._unfinished = await self._assignment.drain(None, seconds)
            self._listener.note_cut_off(self._unfinished, seconds)
            self._state.value = "drained"
        else:
            await self.wait_finished()
        return self._unfinished

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
        self._subscribed = names

    def pause(self, topic: str, partition: int) -> None:
        """Fetch no more of a partition until `resume`. What is here already is handled.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
        self._source.pausing.pause(TopicPartition(topic, partition))

    def resume(self, topic: str, partition: int) -> None:
        """End a `pause`.

        Raises:
            trio.ClosedResourceError: the pipeline is closed.
        """
        self._check_open()
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

    def topology(self) -> Topology:
        """What the pipeline consists of, as of now."""
        return Topology(
            name=self.name,
            group=self._group,
            topics=self._subscribed,
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
            busy=self._assignment.busy,
            started=self._assignment.started,
            batchers=self._assignment.batcher_statistics(),
            pauses=self._source.pausing.pauses.of,
            now=trio.current_time(),
        )
