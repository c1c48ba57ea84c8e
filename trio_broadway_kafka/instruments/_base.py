"""The base of all instruments: what they are told, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._errors import ConfigError, KafkaFailure
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._policies import FailurePolicy, Stage

if TYPE_CHECKING:
    from trio_broadway_kafka._pipeline import Pipeline

__all__ = ["Instrument", "check_instruments"]


class Instrument:
    """What is told of a pipeline as it happens: override what you want to know of.

    ::

        class CountFailures(Instrument):
            def __init__(self) -> None:
                self.failures: Counter[str] = Counter()

            def message_failed(
                self, pipeline: Pipeline, message: Message, policy: object, **_: object
            ) -> None:
                self.failures[type(message.failure).__name__] += 1


        open_pipeline(..., instruments=[CountFailures()])

    The methods are called in trio's thread, between two steps of the pipeline, so they must
    be quick and must not block; they do nothing here. They are called in the order in which
    things happened, per list and not per message. What is not overridden costs nothing.

    One that raises is logged once, with its traceback, and is told nothing more; the pipeline
    goes on. What is no `Exception`, such as a KeyboardInterrupt, leaves the pipeline's block.

    One instrument may serve several pipelines: each call names the one it comes from, whose
    `name`, `statistics()` and `topology()` are at hand. All durations are in seconds, of
    trio's clock. Do NOT keep messages or batches: that keeps their payloads in memory. Later
    versions may tell more by keyword: take ``**_`` for what you do not use.
    """

    __slots__ = ()

    def pipeline_opened(self, pipeline: Pipeline) -> None:
        """The pipeline is open: Kafka has answered and the topics exist. The first call."""

    def pipeline_closed(
        self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
    ) -> None:
        """The pipeline is closed, and no task of it is left. The last call.

        Its partitions have ended with it, without a `partition_revoked`.

        Args:
            pipeline: which one.
            error: what leaves the block, mostly a group; None if nothing does. Its text
                may hold what the messages hold.
            unfinished: how many messages had started and are not finished: they are handled
                again.
        """

    def partition_assigned(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        committed: int | None,
    ) -> None:
        """A partition is this pipeline's from now on.

        Args:
            pipeline: which one.
            topic: the partition's topic.
            partition: its number.
            epoch: names this assignment of it; never used twice by a pipeline.
            committed: the group's committed offset, None where there is none.
        """

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
        """A partition is this pipeline's no longer.

        What is committed with a revoke is told afterwards, once Kafka has answered.

        Args:
            pipeline: which one.
            topic: the partition's topic.
            partition: its number.
            epoch: of `partition_assigned`.
            unfinished: how many messages had started and were cut off: they are handled
                again, by whoever has the partition then.
            lost: it was lost, not revoked: there was no time to drain it, and nothing of it
                is committed any more.
            duration: how long draining it took; 0 if it was lost.
        """

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
        """Messages of one partition have arrived together.

        Those that had to be forgotten for want of room count again when they are fetched again.

        Args:
            pipeline: which one.
            topic: the partition's topic.
            partition: its number.
            count: how many.
            size: bytes of their values.
            first: offset of the first one.
            last: offset of the last one; between them there may be gaps.
        """

    def around_message(
        self, pipeline: Pipeline, message: Message
    ) -> AbstractContextManager[object]:
        """What is open while ``handle_message`` runs, for what must be there inside of it, such
        as a span. Each attempt has its own. That costs microseconds a message.

        Args:
            pipeline: which one.
            message: which one. What leaves the handler goes through the context manager,
                which must not swallow it.
        """
        return nullcontext()

    def around_batch(self, pipeline: Pipeline, batch: Batch) -> AbstractContextManager[object]:
        """The same while ``handle_batch`` runs.

        Args:
            pipeline: which one.
            batch: which one.
        """
        return nullcontext()

    def duration_measured(self, pipeline: Pipeline, stage: str, duration: float) -> None:
        """How long a handler took, of the sample that `LatencyStatistics` tells of: nearly as
        good for percentiles as `messages_processed`, at next to no cost.

        Args:
            pipeline: which one.
            stage: "handle_message", or "handle_batch:NAME" for a batcher's.
            duration: seconds.
        """

    def messages_processed(
        self, pipeline: Pipeline, messages: Sequence[Message], durations: Sequence[float]
    ) -> None:
        """``handle_message`` has ended for these, well or not, since the last such call.

        The call comes as soon as another task has its turn. Handlers that were cancelled are
        not told. Being told of this costs about a microsecond a message.

        Args:
            pipeline: which one.
            messages: in the order in which their handlers ended; of several partitions.
                ``message.failure`` is None where it ended well.
            durations: seconds that each handler took, in the same order.
        """

    def message_failed(
        self, pipeline: Pipeline, message: Message, policy: FailurePolicy, *, stage: Stage
    ) -> None:
        """A message has failed, and what is to become of it is known. ``handle_failed`` is
        called afterwards.

        Args:
            pipeline: which one.
            message: ``message.failure`` says why.
            policy: the one that ``on_failure`` chose.
            stage: where it failed, by the handler's name: ``"prepare_messages"``,
                ``"handle_message"`` (with its ordering and its way to the batcher), or
                ``"handle_batch"``, of the batcher `message.batcher`.
        """

    def batch_processed(
        self, pipeline: Pipeline, batch: Batch, *, duration: float, failed: int
    ) -> None:
        """``handle_batch`` has ended, well or not. One that was cancelled is not told.

        Args:
            pipeline: which one.
            batch: ``batch.batcher``, ``batch.trigger``, ``len(batch)`` and ``batch.weight``
                tell about it; iterating makes its messages, which may cost more than all else.
            duration: seconds that the handler took.
            failed: how many of its messages failed: all if it raised.
        """

    def committed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        *,
        duration: float,
    ) -> None:
        """Kafka has answered a commit.

        Args:
            pipeline: which one.
            offsets: the offset after the last finished message, for each (topic, partition).
            duration: seconds from the request to the answer.
        """

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None:
        """Kafka has refused a commit, or has not answered it in time (``_TIMED_OUT``).

        Args:
            pipeline: which one.
            offsets: what was to be committed, for each (topic, partition).
            failure: ``failure.code`` says why. Where ``failure.retriable``, the commit is
                computed again and tried again, and each try is told.
            duration: seconds from the request to the answer.
        """


def check_instruments(instruments: Iterable[Instrument]) -> tuple[Instrument, ...]:
    """The instruments as a tuple.

    Raises:
        ConfigError: one is none, or one was given for the list.
    """
    given: Any = instruments
    if isinstance(given, Instrument):
        name = type(given).__name__
        raise ConfigError(f"instruments must be a list: write instruments=[{name}(...)]")
    try:
        found = tuple(given)
    except TypeError:
        raise ConfigError(
            f"instruments must be a list of instruments, not {type(given).__name__}"
        ) from None
    for one in found:
        if isinstance(one, type):
            raise ConfigError(f"instruments holds a class: write {one.__name__}(...)")
        if not isinstance(one, Instrument):
            # Its kind only: a repr may hold an address with a password.
            raise ConfigError(
                f"instruments holds something of type {type(one).__name__}; an instrument "
                "is a subclass of trio_broadway_kafka.Instrument"
            )
    return found
