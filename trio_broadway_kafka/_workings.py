"""The stages that a `Stages` asks for, made and connected.

What waits on whom: the processors (or the forwarder, where there is no ``handle_message``)
take from the lanes and put in the batchers; the preparer comes before the lanes; what has
failed goes to `Failures`, which says what becomes of it; the retrier knows when what is to be
tried again may be taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import Address, UnorderedLanes
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._policies import FailurePolicy, Stage, may_retry
from trio_broadway_kafka._model._retries import TryAgain
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment
from trio_broadway_kafka._model._stage_times import StageTimes, Times
from trio_broadway_kafka._model._statistics import BatcherStatistics
from trio_broadway_kafka._model._topology import StagesTopology, topology_of
from trio_broadway_kafka._stages._batcher import BatcherStage
from trio_broadway_kafka._stages._batchers import Batchers
from trio_broadway_kafka._stages._failures import Failures
from trio_broadway_kafka._stages._forwarder import Forwarder
from trio_broadway_kafka._stages._handlers import (
    going_on_from_prepared,
    lane_of_prepared,
    nothing,
    telling,
)
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._outputs import Outputs
from trio_broadway_kafka._stages._preparer import Preparer
from trio_broadway_kafka._stages._processors import Processors
from trio_broadway_kafka._stages._retrier import Retrier
from trio_broadway_kafka._stages._tasks import is_within

__all__ = ["Workings"]


class Workings:
    """Processors, batchers and what lies between; how they start and end is `Assignment`'s.

    Args:
        stages: what to do with the messages.
        lanes: where they come from.
        want: called when few messages are left.
        finished: called after each message, None if nobody needs it.
        limiter: how many messages may be taken.
        stop: called when a task has ended: nothing more may start.
        told: as for `Failures`.
        pause: as for `Failures`.
        outputs: where the outputs of messages go.
        group: the consumer group's name, for dead letters.
        times: what the stages spend their time on is put down there.
        clock: paces the processors' checkpoints, in seconds.
    """

    def __init__(
        self,
        stages: Stages,
        lanes: KeyedLanes | PartitionLanes | UnorderedLanes,
        *,
        want: Callable[[], None],
        finished: Callable[[], None] | None,
        limiter: Limiter,
        stop: Callable[[], None],
        told: Callable[[Message, FailurePolicy, Stage], None] | None,
        pause: Callable[[PartitionOffsets, float], None],
        outputs: Outputs,
        group: str | None,
        times: Times,
        clock: Callable[[], float],
    ) -> None:
        self.lanes = lanes
        self._stages = stages
        self._partitions: set[PartitionOffsets] = set()
        self.outputs = outputs
        self.failures = Failures(
            stages.on_failure,
            stages.handle_failed,
            told,
            finish=outputs.finish,
            succeeded=self._succeeded,
            pause=pause,
            group=group,
        )
        self._finished = finished
        # The first to be named is the first to be shown.
        of_messages = StageTimes("none", times.clock)
        if stages.handle_message is not None:
            of_messages = times.of("handle_message")
        self.batchers = Batchers(
            {
                name: BatcherStage(
                    name,
                    batcher,
                    ordered=stages.ordering != "unordered",
                    settle=partial(self.failures.settle_batch, on_failure=batcher.on_failure),
                    finish=outputs.finish,
                    retries=may_retry(batcher.on_failure or stages.on_failure),
                    ended=self._batch_ended,
                    stop=stop,
                    times=times,
                    clock=clock,
                )
                for name, batcher in stages.batchers.items()
            },
        )
        handle: Callable[[Message], Awaitable[object]] = stages.handle_message or nothing
        lane_of = stages.ordering if callable(stages.ordering) else None
        self.preparer: Preparer | None = None
        if stages.prepare_messages is not None:
            prepare = stages.prepare_messages
            handle = going_on_from_prepared(handle, prepare)
            lane_of = None if lane_of is None else lane_of_prepared(lane_of)
            self.preparer = Preparer(
                prepare,
                lanes,
                arrived=self._arrived,
                want=want,
                stop=stop,
            )
        if finished is not None:
            handle = telling(handle, finished)
        self.retrier = Retrier(lanes, lambda: self.processors.wake())
        # To pass on what was prepared, in its order, one is enough.
        passing_on = 0 if self.preparer is None else 1
        self.processors = Processors(
            handle=handle,
            lanes=lanes,
            lane_of=lane_of,
            count=passing_on if stages.handle_message is None else stages.concurrency,
            forward=self.batchers.forward if stages.batchers else None,
            settle=self._settle,
            waiting=self.retrier.note_waiting,
            finish=outputs.finish,
            limiter=limiter,
            stop=stop,
            want=want,
            times=times,
            own_times=of_messages,
            clock=clock,
        )
        self.forwarder: Forwarder | None = None
        if stages.handle_message is None and self.preparer is None:
            self.forwarder = Forwarder(
                lanes=lanes,
                forward=self.batchers.forward_all if stages.batchers else self._acknowledge,
                backlogged=self.batchers.backlogged,
                is_idle=self.batchers.is_idle,
                limiter=limiter,
                want=want,
                stop=stop,
            )

    async def _settle(
        self, message: Message, error: BaseException, partition: PartitionOffsets
    ) -> int | TryAgain:
        try:
            return await self.failures.settle(message, error, partition)
        finally:
            if self._finished is not None:  # its handler may have ended long before
                self._finished()

    def _succeeded(self) -> int:
        """How many messages of these assignments have succeeded."""
        return sum(partition.succeeded for partition in self._partitions)

    def _acknowledge(self, raws: Sequence[object], segment: Segment, first: int) -> None:
        """Finish what nobody wants to handle."""
        segment.flags[first : first + len(raws)] = bytes((SUCCEEDED,)) * len(raws)
        if self._finished is not None:
            self._finished()

    def _batch_ended(self) -> None:
        self.batchers.note_settled()
        if self._finished is not None:
            self._finished()
        if self.forwarder is not None:
            self.forwarder.step()
        else:
            self.processors.want_if_few()

    def includes_caller(self) -> bool:
        """Whether the current task runs a handler, or runs in a nursery of one."""
        tasks = {*self.processors.tasks, *self.batchers.tasks()}
        if self.preparer is not None:
            tasks |= self.preparer.tasks
        return is_within(tasks)

    @property
    def intake(self) -> Preparer | KeyedLanes | PartitionLanes | UnorderedLanes:
        """Where what arrives is put."""
        return self.lanes if self.preparer is None else self.preparer

    @property
    def failed(self) -> int:
        """How many times a handler failed."""
        return self.failures.failed

    @property
    def retried(self) -> int:
        """How many times a message was to be tried again."""
        return self.failures.retried

    @property
    def busy(self) -> int:
        """How many handlers are running."""
        return self.processors.busy + self.batchers.busy

    @property
    def started(self) -> int:
        """How many messages have started and are not finished."""
        return self.processors.busy + self.batchers.held

    def topology(self, address: Address | None = None) -> tuple[StagesTopology, ...]:
        """What the stages are; `address` is the partition whose own they are."""
        return (topology_of(self._stages, address),)

    def batcher_statistics(self) -> tuple[BatcherStatistics, ...]:
        """What each batcher holds and has delivered."""
        return self.batchers.statistics()

    def all(self) -> tuple[Workings, ...]:
        """This, and what there is beside it."""
        return (self,)

    def of(self, state: PartitionOffsets) -> Workings | None:
        """What handles the messages of an assignment."""
        return self

    def set_full(self, value: bool) -> None:
        """Whether no more fits in."""
        self.processors.set_blocked(full=value)

    def relieve(self) -> None:
        """No more fits in: if nothing here will make room by itself, a batch must leave."""
        # Who has no batchers pays for a look.
        if self.batchers.stages and self.is_idle():
            self.batchers.relieve()

    def flush_if_idle(self, partitions: Collection[PartitionOffsets]) -> None:
        """No more will come of these: let their batches leave, unless more goes into them."""
        if self.batchers.stages and self.is_idle():
            self.batchers.flush("drain", partitions)

    def is_idle(self) -> bool:
        """Whether nothing is being handled, or about to."""
        return (
            self.batchers.is_idle()
            and not self.processors.has_work()
            and not self.processors.busy
            and (self.preparer is None or self.preparer.is_idle())
        )

    def set_share(self, share: int) -> None:
        """How many blocked messages of one partition may be here from now on."""
        if isinstance(self.lanes, KeyedLanes):
            self.lanes.share = share

    def received(self, segments: Sequence[Segment]) -> None:
        """Segments were added to the intake, or (with none) some that were held came back."""
        if self.preparer is None or not segments:
            self._arrived(segments)

    def _arrived(self, segments: Sequence[Segment]) -> None:
        """Segments were added to the lanes."""
        if self.forwarder is not None:
            self.forwarder.wake()
        elif segments or self.processors.has_work():
            self.processors.wake()
