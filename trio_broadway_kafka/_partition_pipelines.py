"""The pipelines of all assigned partitions, where each has one of its own.

All tasks are of the pipeline's one nursery. What enters and leaves a partition's context is
one of them, shielded: how it ends is decided here, not by what cancels the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter

import trio

from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._model._intakes import PartitionIntakes
from trio_broadway_kafka._model._lanes import Address
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages, StagesFactory
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._model._statistics import BatcherStatistics, sum_of_batchers
from trio_broadway_kafka._model._topology import StagesTopology
from trio_broadway_kafka._partition_pipeline import PartitionPipeline
from trio_broadway_kafka._stages._tasks import is_within

__all__ = ["PartitionPipelines"]

# Seconds after which a partition with nothing to do is fetched beside those at work.
_FEED = 0.02


class PartitionPipelines:
    """The pipelines of all assigned partitions: what `Assignment` is to one for all.

    Args:
        factory: the user's function of topic and partition.
        make: makes the stages of one partition work.
        want: asks for more messages.
        entered: called when a partition's stages are there.
        leave_timeout: seconds that leaving a context gets at least when all ends.

    Attributes:
        intake: the lanes of all partitions.
    """

    def __init__(
        self,
        factory: StagesFactory,
        *,
        make: Callable[[Stages, Callable[[], None]], Assignment],
        want: Callable[[], None],
        entered: Callable[[PartitionOffsets], None],
        leave_timeout: float,
    ) -> None:
        self._factory = factory
        self.intake = PartitionIntakes()
        self._make = make
        self._want = want
        self._entered = entered
        self._leave_timeout = leave_timeout
        self._of: dict[PartitionOffsets, PartitionPipeline] = {}
        self._left: dict[Address, list[trio.Event]] = {}  # set or not
        self._gone: set[PartitionPipeline] = set()  # removed, and not left yet
        self._nursery: trio.Nursery | None = None
        self._to_feed = trio.Event()
        self._share = 1
        self._closing = False
        self._ended_failed = 0
        self._ended_retried = 0
        self._ended_batchers: tuple[BatcherStatistics, ...] = ()

    def start(self, nursery: trio.Nursery) -> None:
        """Let all tasks be those of `nursery`."""
        self._nursery = nursery
        nursery.start_soon(self._feed_the_idle)

    async def _feed_the_idle(self) -> None:
        """Keep a fetch open while the stages of any partition have nothing to take.

        Those that are at work ask for more only when they have little left: others would
        wait for the slowest.
        """
        while True:
            await self._to_feed.wait()
            self._to_feed = trio.Event()
            await trio.sleep(_FEED)
            if any(a.lanes.is_empty() for a in self._at_work()):
                self._want()  # if nothing more fits in, `relieve` is called

    def _begin(self, state: PartitionOffsets, stages: Stages) -> Assignment:
        assignment = self._make(stages, self.stop)
        assignment.set_share(self._share)
        assignment.add([state])
        self.intake.of[state] = assignment.intake
        assert self._nursery is not None
        assignment.start(self._nursery)
        self._entered(state)
        return assignment

    # The partitions.

    def add(self, partitions: Collection[PartitionOffsets]) -> None:
        """Enter the stages of these."""
        assert self._nursery is not None
        for state in partitions:
            address = (state.topic, state.partition)
            previous = [e for e in self._left.get(address, ()) if not e.is_set()]
            one = PartitionPipeline(state, self._factory, previous, self._begin)
            self._of[state] = one
            if self._closing:
                one.left.set()
            else:
                self._left[address] = [*previous, one.left]
                self._nursery.start_soon(self._run, one, name=repr(one))

    async def _run(self, one: PartitionPipeline) -> None:
        try:
            await one.run()
        finally:
            self._gone.discard(one)

    def remove(self, partitions: Collection[PartitionOffsets]) -> None:
        """The assignments of these have ended."""
        for state in partitions:
            one = self._of.pop(state)
            self.intake.of.pop(state, None)
            if one.assignment is not None:
                self._ended_failed += one.assignment.failed
                self._ended_retried += one.assignment.retried
                self._ended_batchers = sum_of_batchers(
                    (*self._ended_batchers, *one.assignment.batcher_statistics())
                )
            if not one.left.is_set():
                self._gone.add(one)

    def _at_work(self) -> Iterator[Assignment]:
        for one in self._of.values():
            if one.assignment is not None:
                yield one.assignment

    def _everyone(self) -> list[PartitionPipeline]:
        return [*self._of.values(), *self._gone]

    def set_share(self, share: int) -> None:
        """As `Assignment.set_share`."""
        self._share = share
        for assignment in self._at_work():
            assignment.set_share(share)

    def received(self, segments: Sequence[Segment]) -> None:
        """As `Assignment.received`."""
        if not segments:
            for assignment in self._at_work():
                assignment.received(())
        for partition, arrived in groupby(segments, attrgetter("partition")):
            one = self._of[partition].assignment
            assert one is not None  # until then the partition is paused
            one.received([*arrived])
        self._to_feed.set()

    # Looking.

    @property
    def failed(self) -> int:
        """How many times a handler failed."""
        return self._ended_failed + sum(assignment.failed for assignment in self._at_work())

    @property
    def retried(self) -> int:
        """How many times a message was to be tried again."""
        return self._ended_retried + sum(a.retried for a in self._at_work())

    @property
    def busy(self) -> int:
        """How many handlers are running."""
        return sum(assignment.busy for assignment in self._at_work())

    @property
    def started(self) -> int:
        """How many messages have started and are not finished."""
        return sum(assignment.started for assignment in self._at_work())

    def batcher_statistics(self) -> tuple[BatcherStatistics, ...]:
        """What the batchers of each name hold and have delivered, over all partitions."""
        live = (b for assignment in self._at_work() for b in assignment.batcher_statistics())
        return sum_of_batchers((*self._ended_batchers, *live))

    def topology(self) -> tuple[StagesTopology, ...]:
        """What the stages of each partition are, where they are there."""
        at_work = {
            (state.topic, state.partition): one.assignment
            for state, one in self._of.items()
            if one.assignment is not None
        }
        return tuple(
            stages
            for address in sorted(at_work)
            for stages in at_work[address].topology(address)
        )

    def includes_caller(self) -> bool:
        """Whether the current task is a handler, or enters or leaves a partition's stages."""
        entering = {one.task for one in self._everyone()}
        return is_within(entering) or any(a.includes_caller() for a in self._at_work())

    def all(self) -> tuple[Assignment, ...]:
        """The stages of each partition, where they are there."""
        return tuple(self._at_work())

    def of(self, state: PartitionOffsets) -> Assignment | None:
        """What handles the messages of an assignment, None until its stages are there."""
        one = self._of.get(state)
        return None if one is None else one.assignment

    def set_full(self, value: bool) -> None:
        """As `Assignment.set_full`."""
        for assignment in self._at_work():
            assignment.set_full(value)

    # Ending.

    def relieve(self) -> None:
        """No more fits in: if nothing will make room by itself, the oldest batch leaves."""
        self._to_feed.set()
        if not all(assignment.is_idle() for assignment in self._at_work()):
            return
        opened = [
            (found[0], assignment)
            for assignment in self._at_work()
            if (found := assignment.batchers.oldest()) is not None
        ]
        if opened:
            _, assignment = min(opened, key=itemgetter(0))
            assignment.batchers.relieve()

    def flush_if_idle(self, partitions: Collection[PartitionOffsets]) -> None:
        """As `Assignment.flush_if_idle`."""
        for state in partitions:
            if (assignment := self._of[state].assignment) is not None:
                assignment.flush_if_idle([state])

    def stop(self) -> None:
        """Start nothing more."""
        self._closing = True
        for assignment in self._at_work():
            assignment.stop()

    async def drain(
        self, partitions: Collection[PartitionOffsets] | None, timeout: float
    ) -> int:
        """Drain these (None: all) and leave their stages. As `Assignment.drain`.

        What could not be left stays sealed: nothing of it is committed.
        """
        unfinished = 0
        self._closing |= partitions is None

        async def drain(one: PartitionPipeline) -> None:
            nonlocal unfinished
            least = self._leave_timeout if partitions is None else 0.0
            unfinished += await one.drain(timeout, least)

        ending = [
            one for state, one in self._of.items() if partitions is None or state in partitions
        ]
        await self._side_by_side(drain, ending)
        return unfinished

    def drop(self, partition: PartitionOffsets) -> None:
        """As `Assignment.drop`."""
        if (assignment := self._of[partition].assignment) is not None:
            assignment.drop(partition)

    async def wait_quiet(self, partition: PartitionOffsets) -> None:
        """As `Assignment.wait_quiet`: the partition's stages are not left."""
        if (assignment := self._of[partition].assignment) is not None:
            await assignment.wait_quiet(partition)

    async def leave(self) -> None:
        """Leave all stages, within `leave_timeout`."""
        deadline = trio.current_time() + self._leave_timeout
        await self._side_by_side(lambda one: one.leave(deadline), [*self._of.values()])

    async def _side_by_side(
        self,
        do: Callable[[PartitionPipeline], Awaitable[None]],
        ones: Collection[PartitionPipeline],
    ) -> None:
        """Do it for each, in tasks of the one nursery: in another the caller could not be
        interrupted without a group of its own."""
        assert self._nursery is not None
        scopes = {one: trio.CancelScope(shield=True) for one in ones}
        left = len(scopes)
        done = trio.Event()

        async def run(one: PartitionPipeline, scope: trio.CancelScope) -> None:
            nonlocal left
            try:
                with scope:
                    await do(one)
            finally:
                left -= 1
                if not left:
                    done.set()

        for one, scope in scopes.items():
            self._nursery.start_soon(run, one, scope)
        try:
            if scopes:
                await done.wait()
        finally:
            for scope in scopes.values():
                scope.cancel()

    def interrupt(self, partitions: Collection[PartitionOffsets]) -> None:
        """Drop these partitions, cancel their handlers and leave their stages, cancelled."""
        for state in partitions:
            one = self._of[state]
            if one.assignment is not None:
                one.assignment.interrupt([state])
            one.cancel()

    async def wait_ended(self) -> None:
        """Wait until all handlers have ended, and log those that resist."""
        for one in self._everyone():
            if one.assignment is None:
                one.cancel()
        # Those that are gone wait for theirs by themselves, and log them.
        for one in [*self._of.values()]:
            if one.assignment is not None:
                await one.assignment.wait_ended()

    def give_up(self) -> None:
        """Cancel what is still being left."""
        for one in self._everyone():
            one.cancel()
