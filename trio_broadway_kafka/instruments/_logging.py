"""An instrument that logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import trio

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._topology import StagesTopology, Topology
from trio_broadway_kafka.instruments._base import Instrument

if TYPE_CHECKING:
    from trio_broadway_kafka._pipeline import Pipeline

__all__ = ["LoggingInstrument"]


class LoggingInstrument(Instrument):
    """Logs what a pipeline does: a line per event, none per message.

    - WARNING: the pipeline was closed by an error (its kind only: the error itself leaves
      the block);
    - INFO: it was opened, with its stages; it was closed, with its counts; partitions were
      assigned and revoked;
    - DEBUG: messages received, a line for each partition and fetch; batches; commits.

    What a pipeline logs itself, under ``trio_broadway_kafka``, is not said again: skipped
    messages, lost partitions, refused commits, handlers that were cut off. No line holds a
    key, a value or a header.

    Args:
        logger: a logger, or its name.
    """

    def __init__(
        self, logger: str | logging.Logger = "trio_broadway_kafka.instruments"
    ) -> None:
        self._log = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._opened_at: dict[Pipeline, float] = {}

    def pipeline_opened(self, pipeline: Pipeline) -> None:
        """See `Instrument`."""
        self._opened_at[pipeline] = trio.current_time()
        self._log.info("%s: open: %s", pipeline.name, _described(pipeline.topology()))

    def pipeline_closed(
        self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
    ) -> None:
        """See `Instrument`."""
        seconds = trio.current_time() - self._opened_at.pop(pipeline)
        statistics = pipeline.statistics()
        causes = sorted({type(leaf).__name__ for leaf in _leaves(error)} - {"Cancelled"})
        self._log.log(
            logging.WARNING if causes else logging.INFO,
            "%s: closed after %.1f s%s: %d messages received, %d succeeded, %d skipped, "
            "%d started and left unfinished",
            pipeline.name,
            seconds,
            f" by {', '.join(causes)}" if causes else ", cancelled" if error else "",
            statistics.received,
            statistics.succeeded,
            statistics.skipped,
            unfinished,
        )

    def partition_assigned(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        committed: int | None,
    ) -> None:
        """See `Instrument`."""
        self._log.info(
            "%s: assigned %s/%d, %s",
            pipeline.name,
            topic,
            partition,
            "nothing committed" if committed is None else f"committed up to {committed}",
        )

    def partition_revoked(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        unfinished: int,
        lost: bool,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        if lost:
            return  # the pipeline has said so
        self._log.info(
            "%s: revoked %s/%d, drained in %.2f s, %d messages cut off",
            pipeline.name,
            topic,
            partition,
            duration,
            unfinished,
        )

    def messages_received(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        count: int,
        size: int,
        first: int,
        last: int,
    ) -> None:
        """See `Instrument`."""
        self._log.debug(
            "%s: received %d messages of %s/%d, %d to %d, %d bytes",
            pipeline.name,
            count,
            topic,
            partition,
            first,
            last,
            size,
        )

    def batch_processed(
        self, pipeline: Pipeline, batch: Batch, *, duration: float, failed: int
    ) -> None:
        """See `Instrument`."""
        self._log.debug(
            "%s: handled a batch of %d messages for %r (%s) in %.3f s, %d failed",
            pipeline.name,
            len(batch),
            batch.batcher,
            batch.trigger,
            duration,
            failed,
        )

    def committed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        *,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        self._log.debug(
            "%s: committed %s in %.3f s",
            pipeline.name,
            ", ".join(f"{topic}/{number} at {at}" for (topic, number), at in offsets.items()),
            duration,
        )


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    """What a group holds, however deep; an error that is none is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif error is not None:
        yield error


def _described(topology: Topology) -> str:
    topics = ", ".join(topology.topics)
    if topology.per_partition:
        return f"{topics}; stages of its own for each partition"
    return "; ".join((topics, *_stages_described(topology.stages[0])))


def _stages_described(stages: StagesTopology) -> Iterator[str]:
    if stages.handle_message is not None:
        yield f"{stages.handle_message}, {stages.concurrency} at once, by {stages.ordering}"
    for batcher in stages.batchers:
        what = "weight" if batcher.weighs else "messages"
        yield (
            f"batcher {batcher.name!r}: {batcher.handle_batch}, {batcher.size:g} {what} or "
            f"{batcher.timeout:g} s, {batcher.concurrency} at once"
        )
