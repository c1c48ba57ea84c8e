"""A pipeline's parts, how they are wired, and the order in which they end.

On leaving, the stages end first; then, within ``close_timeout``, outputs under way are waited
for, the last commit is made, and the clients are closed; past the deadline they are abandoned.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import trio
from trio_util import AsyncValue

from trio_broadway_kafka._connect import chunk_of, connect
from trio_broadway_kafka._fan_out import FanOut
from trio_broadway_kafka._kafka._client import (
    KafkaClient,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._listener import Listener
from trio_broadway_kafka._model._demand import Demand
from trio_broadway_kafka._model._moments import StopAtOption
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import PipelineOptions, Stages, StagesFactory
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._rate import RateLimit
from trio_broadway_kafka._model._stage_times import Times
from trio_broadway_kafka._model._topology import PipelineState
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka._policy_pauses import PolicyPauses
from trio_broadway_kafka._stages._acknowledger import Acknowledger
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._outputs import Outputs
from trio_broadway_kafka._stages._source import Source
from trio_broadway_kafka._stages._transactions import Transactions
from trio_broadway_kafka._stop_at import StopAt
from trio_broadway_kafka.instruments import Instrument

if TYPE_CHECKING:
    from trio_broadway_kafka._pipeline import Pipeline

__all__ = ["Wiring"]

_log = logging.getLogger("trio_broadway_kafka")

# Messages of one partition that may be finished behind an unfinished one, in units of
# max_in_flight: each costs a byte here, and all are handled again after a crash.
_GAP_FACTOR = 10


class Wiring:
    """The parts of a pipeline. What users see of it is `Pipeline`."""

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
        output: Output | None = None,
    ) -> None:
        self.name = name
        self._group = group
        self._topics_at_first = session.topics
        self._told = told = FanOut(cast("Pipeline", self), instruments)
        self._options = options
        self._partitions: dict[TopicPartition, PartitionOffsets] = {}
        self._stop_at: StopAt | None = None
        if stop_at is not None:
            self._stop_at = StopAt(stop_at, client, session, self._partitions)
            client = self._stop_at.client
        self._client: KafkaClient = client
        self._limiter = Limiter(rate_limit)
        self._times = Times(trio.current_time, client.wall_time)
        told.listen_to(self._times.listeners)
        demand = Demand(
            max_messages=options.max_in_flight,
            max_bytes=options.max_in_flight_bytes,
            chunk=chunk_of(stages),
        )
        self._output = output
        self._outputs = self._make_outputs(client, output or Output(), demand)
        interval = options.commit_interval
        if output is not None and output.transactional_id is not None:
            interval = output.transaction_interval
        self._acknowledger = Acknowledger(
            client,
            self._partitions,
            interval,
            self._outputs,
            told,
            overfull=lambda state: self._source.pausing.hold(state),
            committed=bool if self._stop_at is None else self._stop_at.note_committed,
            unanswered=lambda since: self._note_unanswered(demand, since),
        )
        finished = self._acknowledger.finished if interval == 0 else None
        self._assignment = connect(
            stages,
            options,
            # Late: the source needs to know where to put things first.
            want=lambda: self._source.want(),
            entered=lambda state: self._source.ready(state),
            finished=finished,
            limiter=self._limiter,
            told=told,
            pause=lambda state, seconds: self._policy_pauses.begin(state, seconds),
            outputs=self._outputs,
            group=group,
            times=self._times,
        )
        self._listener = Listener(
            name,
            options,
            self._partitions,
            self._assignment,
            self._acknowledger,
            demand,
            finished=finished,
            ending=lambda states: self._policy_pauses.forget(states),
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
        self._policy_pauses = PolicyPauses(
            self._assignment,
            self._acknowledger.settled,
            begin=self._source.pause_by_policy,
            end=self._source.ready,
        )
        self._state: AsyncValue[PipelineState]
        self._state = AsyncValue("opening")
        self._unfinished = 0
        self._nursery: trio.Nursery

    def _make_outputs(self, client: KafkaClient, output: Output, demand: Demand) -> Outputs:
        def failed(error: BaseException) -> None:
            self._listener.failed(error)

        def make() -> KafkaProducer:
            return client.producer(output)

        if output.transactional_id is None:
            return Outputs(make, held=demand.hold, finished=self._note_left, failed=failed)
        return Transactions(
            make,
            delivery_timeout=output.delivery_timeout,
            held=demand.hold,
            finished=self._note_left,
            failed=failed,
        )

    @asynccontextmanager
    async def _lifetime(self) -> AsyncGenerator[trio.Nursery]:
        """The nursery and its tasks; at the end all of it is closed."""
        async with self._told.lifetime(), trio.open_nursery() as nursery:
            self._nursery = nursery
            self._listener.start(nursery)
            self._policy_pauses.start(nursery)
            self._assignment.start(nursery)
            self._outputs.start(nursery)
            nursery.start_soon(self._acknowledger.run)
            nursery.start_soon(self._acknowledger.commit_regularly)
            nursery.start_soon(self._source.fetch_on_demand)
            nursery.start_soon(self._limiter.run)
            nursery.start_soon(self._told.run)
            nursery.start_soon(self._listener.raise_failure)
            try:
                yield nursery
            finally:
                with trio.CancelScope(shield=True):
                    await self._close()

    async def _open(self) -> None:
        await self._nursery.start(self._source.run)
        await self._outputs.open(is_asked_for=self._output is not None)
        if self._stop_at is not None:
            await self._stop_at.fix()
            self._nursery.start_soon(self._end_at, self._stop_at)
        self._note_open()

    def _note_unanswered(self, demand: Demand, since: float) -> None:
        now = trio.current_time()
        waited = demand.awaits_commit(now)
        demand.unanswered(since)
        if waited and not demand.awaits_commit(now):
            self._source.want()

    def _note_left(self) -> None:
        """Outputs have left, some time after the handlers of their messages had ended."""
        if self._options.commit_interval == 0:
            self._acknowledger.finished()
        self._source.want()

    def _note_open(self) -> None:
        if self._state.value == "opening":
            self._state.value = "open"
            self._told.opened()

    async def _end_at(self, stop_at: StopAt) -> None:
        await stop_at.wait_reached(
            self._acknowledger.try_to_commit,
            self._assignment.flush_if_idle,
            self._policy_pauses.endless,
        )
        await self._drain(None)

    async def _drain(self, timeout: float | None) -> int:
        if self._state.value == "open":
            self._state.value = "draining"
            self._source.close()
            self._policy_pauses.forget()
            seconds = self._options.drain_timeout if timeout is None else timeout
            self._unfinished = await self._assignment.drain(None, seconds)
            self._listener.note_cut_off(self._unfinished, seconds)
            self._state.value = "drained"
        else:
            await self._wait_drained()
        return self._unfinished

    async def _wait_drained(self) -> None:
        await self._state.wait_value(lambda state: state in ("drained", "closed"))

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
                # Where outputs go may be away, and what is finished is to be committed.
                with trio.move_on_after(self._options.close_timeout / 2):
                    await self._outputs.wait_delivered(self._partitions.values())
                await self._acknowledger.commit_the_last(self.name)
                self._outputs.stop()
                self._client.stop()
                await self._source.closed.wait()
                await self._outputs.closed.wait()
            if closing.cancelled_caught:
                _log.warning(
                    "%s: no answer from Kafka within close_timeout (%.1f s); the client is "
                    "abandoned, and what was not committed is handled again",
                    self.name,
                    self._options.close_timeout,
                )
        finally:  # a second Ctrl-C may have come
            scopes = (self._source.scope, self._outputs.scope, self._acknowledger.scope)
            for scope in scopes:
                scope.cancel()
            self._listener.give_up()
            self._assignment.give_up()
            self._state.value = "closed"
