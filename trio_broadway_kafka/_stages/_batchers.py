"""All batchers of an assignment, and what is asked of them together."""

from __future__ import annotations

import logging
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import islice
from operator import itemgetter
from typing import Any

import trio

from trio_broadway_kafka._model._batch import Trigger
from trio_broadway_kafka._model._errors import MessageFailed
from trio_broadway_kafka._model._message import DEFAULT_ROUTE, Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._model._statistics import BatcherStatistics
from trio_broadway_kafka._stages._batcher import BatcherStage, Worker

__all__ = ["Batchers"]

_log = logging.getLogger("trio_broadway_kafka")


class Batchers:
    """All batchers of an assignment.

    Args:
        stages: the batchers by name.
    """

    def __init__(self, stages: Mapping[str, BatcherStage]) -> None:
        self.stages = stages
        self._settled: trio.Event | None = None

    def to_run(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """The tasks that make them work."""
        for stage in self.stages.values():
            yield from stage.to_run()

    # Filling

    def forward(self, segment: Segment, index: int, message: Message) -> bool:
        """Put a handled message in its batcher; False if it can't be: it has failed then."""
        if segment.partition.cut_off:
            return True  # its handler resisted its cancellation: its outcome is dropped
        name = (message._route or DEFAULT_ROUTE)[0]
        stage = self.stages.get(name)
        try:
            if stage is None:
                raise MessageFailed(
                    f"no batcher named {name!r}: there are {', '.join(map(repr, self.stages))}"
                )
            stage.batches.add(message, segment, index)
        except Exception as error:
            message._failure = error
            return False
        stage.changed()
        return True

    def forward_all(self, raws: Sequence[Any], segment: Segment, first: int) -> None:
        """Put records of a segment, from an index on, in the default batcher, as they are."""
        stage = self.stages["default"]
        if stage.batches.weighs:
            for index, raw in enumerate(raws, first):
                message = Message(raw)
                if not self.forward(segment, index, message):
                    stage.batches.add_failed(message, segment, index)
        else:
            stage.batches.add_records(raws, segment, first)
        stage.changed()

    # Looking

    def backlogged(self) -> bool:
        """Whether batches wait for a worker or for another batch of their key."""
        return any(stage.batches.backlogged for stage in self.stages.values())

    def is_idle(self) -> bool:
        """Whether no batch runs or is about to."""
        return not any(
            stage.batches.running or stage.batches.ready for stage in self.stages.values()
        )

    def tasks(self) -> Iterable[trio.lowlevel.Task | None]:
        """The tasks that handlers run in."""
        return (worker.task for worker in self._workers())

    def _workers(self) -> list[Worker]:
        return [worker for stage in self.stages.values() for worker in stage.workers]

    def statistics(self) -> tuple[BatcherStatistics, ...]:
        """What each holds and has delivered."""
        return tuple(
            BatcherStatistics(
                name=name,
                open_batches=stage.batches.open_batches,
                pending=stage.batches.pending,
                running=sum(map(len, stage.batches.running)),
                delivered=stage.batches.delivered,
                triggers=stage.batches.sizes.statistics(),
            )
            for name, stage in self.stages.items()
        )

    @property
    def held(self) -> int:
        """How many messages are in batches."""
        return sum(
            stage.batches.pending + sum(map(len, stage.batches.running))
            for stage in self.stages.values()
        )

    @property
    def busy(self) -> int:
        """How many handlers are running."""
        return sum(worker.batch is not None for worker in self._workers())

    # Ending

    def oldest(self) -> tuple[float, BatcherStage] | None:
        """The stage with the oldest open batch, and when that was opened."""
        opened = [
            (since, stage)
            for stage in self.stages.values()
            if (since := stage.batches.oldest_since) is not None
        ]
        return min(opened, key=itemgetter(0), default=None)

    def relieve(self) -> None:
        """Let the oldest open batch of all leave: nothing else can make room."""
        if (found := self.oldest()) is not None:
            _, stage = found
            stage.batches.close_oldest("pressure")
            stage.changed()

    def stop(self) -> None:
        """Start nothing more."""
        for stage in self.stages.values():
            stage.stopped = True

    def flush(
        self, trigger: Trigger, partitions: Collection[PartitionOffsets] | None = None
    ) -> None:
        """Let the open batches leave that hold messages of these assignments (None: all)."""
        for stage in self.stages.values():
            stage.batches.close_all(trigger, partitions)
            stage.changed()

    def drop_retries(self, partitions: Collection[PartitionOffsets]) -> None:
        """Drop what waits to be tried again of these assignments."""
        for stage in self.stages.values():
            stage.batches.drop_retries(partitions)
            stage.changed()  # what waited behind it for its key

    def drop(self, partitions: Collection[PartitionOffsets]) -> int:
        """Drop what waits of these assignments. Returns how many messages."""
        dropped = sum(stage.batches.drop(partitions) for stage in self.stages.values())
        for stage in self.stages.values():
            stage.changed()  # what waited behind it for its key
        return dropped

    def cut_off(self, partitions: Collection[PartitionOffsets]) -> int:
        """Drop what waits of these and cancel the handlers. Returns how many messages."""
        left = self.drop(partitions)
        for worker in self._workers():
            batch = worker.batch
            if batch is not None and not batch._partitions().isdisjoint(partitions):
                left += sum(segment.partition in partitions for segment, _ in batch._places())
                worker.interrupt(partitions)
        return left

    async def wait_done(self, partitions: Collection[PartitionOffsets]) -> None:
        """Wait until no batch holds a message of these assignments."""
        while any(stage.batches.holds(partitions) for stage in self.stages.values()):
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()

    def note_settled(self) -> None:
        """A batch has been settled."""
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    async def wait_ended(self) -> None:
        """Wait until every worker has ended."""
        for worker in self._workers():
            await worker.has_ended.wait()

    def log_resisting(self, since: float) -> None:
        """Log which handlers go on in spite of their cancellation."""
        for worker in self._workers():
            if worker.batch is not None:
                first = ", ".join(map(repr, islice(worker.batch, 1)))
                _log.warning(
                    "the handler of %r (first %s) goes on %.0f s after it was cancelled",
                    worker.batch,
                    first,
                    since,
                )
