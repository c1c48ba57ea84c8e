"""The instruments of a pipeline, told of together: those it was given, and those that came."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import Stages
from trio_broadway_kafka._model._policies import FailurePolicy, Stage
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._stages._tasks import is_cancelled
from trio_broadway_kafka.instruments import Instrument

if TYPE_CHECKING:
    from trio_broadway_kafka._pipeline import Pipeline

__all__ = ["FanOut"]

_log = logging.getLogger("trio_broadway_kafka")

T = TypeVar("T")


class FanOut:
    """Tells all instruments of a pipeline what happens, in the order in which it does.

    The messages that were handled are collected, and told as one list: by `run`, which has its
    turn when a handler waits or a checkpoint is due, and before anything else is told.

    Args:
        pipeline: whose they are.
        instruments: in the order in which to tell them.
    """

    def __init__(self, pipeline: Pipeline, instruments: Sequence[Instrument]) -> None:
        self._pipeline = pipeline
        self._listeners: dict[str, list[tuple[Instrument, Callable[..., object]]]] = {}
        for event in vars(Instrument):
            if not event.startswith("_"):
                self._listeners[event] = []
        for instrument in instruments:
            self.add(instrument)
        self._messages: list[Message] = []
        self._durations: list[float] = []
        self._lot = trio.lowlevel.ParkingLot()
        self._now = trio.current_time
        self._opened = False
        self._closed = False

    def _tell_duration(self, stage: str, seconds: float) -> None:
        self._tell("duration_measured", stage, seconds)

    def listen_to(self, listeners: list[Callable[[str, float], None]]) -> None:
        """Be told of the durations that are measured, if an instrument wants to know."""
        if self._hears("duration_measured"):
            listeners.append(self._tell_duration)

    def add(self, instrument: Instrument) -> None:
        """Tell one more. One that comes when handlers run already is not told of them."""
        for event, listeners in self._listeners.items():
            if _overrides(instrument, event):
                listeners.append((instrument, getattr(instrument, event)))

    def remove(self, instrument: Instrument) -> None:
        """Tell one no more."""
        for event, listeners in self._listeners.items():
            self._listeners[event] = [one for one in listeners if one[0] is not instrument]

    async def run(self) -> None:
        """Tell of handled messages whenever other tasks have their turn, until cancelled."""
        while True:
            await self._lot.park()
            self._flush()

    def _hears(self, event: str) -> bool:
        return bool(self._listeners[event])

    def _tell(self, event: str, *args: object, **figures: object) -> None:
        if self._closed:
            return  # a commit's answer that came late
        if not self._opened:  # an assignment may come before the opening's task has its turn
            self._pipeline._note_open()
        self._flush()
        self._call(event, *args, **figures)

    def _flush(self) -> None:
        if self._messages:
            messages, self._messages = self._messages, []
            durations, self._durations = self._durations, []
            self._call("messages_processed", messages, durations)

    def _call(self, event: str, *args: object, **figures: object) -> None:
        for instrument, method in [*self._listeners[event]]:
            try:
                method(self._pipeline, *args, **figures)
            except Exception:
                self._note_failure(instrument, event)

    def _note_failure(self, instrument: Instrument, event: str) -> None:
        # Its kind only: a repr may hold an address with a password.
        _log.exception(
            "%s: the instrument %s raised in %s and is told nothing more",
            self._pipeline.name,
            type(instrument).__qualname__,
            event,
        )
        self.remove(instrument)

    # The pipeline.

    def opened(self) -> None:
        """The pipeline is open."""
        self._opened = True
        self._now = trio.lowlevel.current_clock().current_time  # costs half
        self._call("pipeline_opened")

    @asynccontextmanager
    async def lifetime(self) -> AsyncGenerator[None]:
        """When this ends, all has ended."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self._opened and self._hears("pipeline_closed"):
                left = self._pipeline.statistics().in_flight
                self._tell("pipeline_closed", error=error, unfinished=left)
            self._closed = True

    # The partitions.

    def assigned(self, states: Sequence[PartitionOffsets]) -> None:
        """These assignments have begun."""
        for state in states:
            self._tell(
                "partition_assigned",
                state.topic,
                state.partition,
                epoch=state.epoch,
                committed=state.committed,
            )

    def ended(self, states: Sequence[PartitionOffsets], *, lost: bool, duration: float) -> None:
        """These assignments are ending."""
        for state in states:
            self._tell(
                "partition_revoked",
                state.topic,
                state.partition,
                epoch=state.epoch,
                unfinished=state.unfinished,
                lost=lost,
                duration=duration,
            )

    def received(self, segments: Sequence[Segment]) -> None:
        """These segments have arrived."""
        if not self._hears("messages_received") and self._opened:
            return
        for segment in segments:
            self._tell(
                "messages_received",
                segment.partition.topic,
                segment.partition.partition,
                count=len(segment),
                size=segment.size,
                first=segment.first,
                last=segment.last,
            )

    # Failures and commits: what the stages call.

    def message_failed(self, message: Message, policy: FailurePolicy, stage: Stage) -> None:
        """A policy has been chosen for a failed message."""
        self._tell("message_failed", message, policy, stage=stage)

    def committed(self, offsets: Sequence[OffsetCommit], duration: float) -> None:
        """See `CommitListener`."""
        self._tell("committed", _by_partition(offsets), duration=duration)

    def commit_failed(
        self, offsets: Sequence[OffsetCommit], failure: KafkaFailure, duration: float
    ) -> None:
        """See `CommitListener`."""
        self._tell("commit_failed", _by_partition(offsets), failure, duration=duration)

    # Handlers.

    def watched(self, stages: Stages) -> Stages:
        """The same stages, whose handlers are timed, or run inside of something, if an
        instrument wants that."""
        if self._hears("around_message") and stages.handle_message is not None:
            handle = self._inside("around_message", stages.handle_message)
            stages = replace(stages, handle_message=handle)
        if self._hears("around_batch"):
            stages = replace(
                stages,
                batchers={
                    name: replace(
                        batcher, handle_batch=self._inside("around_batch", batcher.handle_batch)
                    )
                    for name, batcher in stages.batchers.items()
                },
            )
        if self._hears("messages_processed") and stages.handle_message is not None:
            stages = replace(stages, handle_message=self._timed(stages.handle_message))
        if self._hears("messages_processed") or self._hears("batch_processed"):
            stages = replace(
                stages,
                batchers={
                    name: replace(batcher, handle_batch=self._timed_batch(batcher.handle_batch))
                    for name, batcher in stages.batchers.items()
                },
            )
        return stages

    def _inside(
        self, event: str, handle: Callable[[T], Awaitable[Any]]
    ) -> Callable[[T], Awaitable[Any]]:
        @wraps(handle)
        async def handle_inside(argument: T) -> Any:
            entered: list[tuple[Instrument, Any]] = []
            for instrument, make in [*self._listeners[event]]:
                try:
                    context: Any = make(self._pipeline, argument)
                    context.__enter__()
                    entered.append((instrument, context))
                except Exception:
                    self._note_failure(instrument, event)
            try:
                result = await handle(argument)
            except BaseException as error:
                self._leave(entered, event, error)
                raise
            self._leave(entered, event, None)
            return result

        return handle_inside

    def _leave(
        self,
        entered: Sequence[tuple[Instrument, Any]],
        event: str,
        error: BaseException | None,
    ) -> None:
        """Not by an ExitStack: an instrument must neither change nor swallow what is raised."""
        trace = None if error is None else error.__traceback__
        for instrument, context in reversed(entered):
            try:
                context.__exit__(None if error is None else type(error), error, trace)
            except Exception as raised:
                if raised is not error:
                    self._note_failure(instrument, event)

    # What handlers return goes through: the stages tell of the mistake.

    def _timed(
        self, handle: Callable[[Message], Awaitable[Any]]
    ) -> Callable[[Message], Awaitable[Any]]:
        @wraps(handle)
        async def handle_and_time(message: Message) -> Any:
            now = self._now
            started = now()
            try:
                result = await handle(message)
            except Exception:
                if not is_cancelled():
                    self._note(message, now() - started)
                raise
            self._note(message, now() - started)
            return result

        return handle_and_time

    def _note(self, message: Message, duration: float) -> None:
        messages = self._messages
        if not messages:
            self._lot.unpark()
        messages.append(message)
        self._durations.append(duration)

    def _timed_batch(
        self, handle: Callable[[Batch], Awaitable[Any]]
    ) -> Callable[[Batch], Awaitable[Any]]:
        @wraps(handle)
        async def handle_and_time(batch: Batch) -> Any:
            now = self._now
            # Before it can fail messages that have not been told of as handled well.
            self._flush()
            started = now()
            try:
                result = await handle(batch)
            except Exception:
                if not is_cancelled():
                    self._batch_processed(batch, now() - started, len(batch))
                raise
            failed = 0
            if batch._has_special():
                failed = sum(message.failure is not None for message in batch)
            self._batch_processed(batch, now() - started, failed)
            return result

        return handle_and_time

    def _batch_processed(self, batch: Batch, duration: float, failed: int) -> None:
        self._tell("batch_processed", batch, duration=duration, failed=failed)


def _overrides(instrument: Instrument, event: str) -> bool:
    method = getattr(instrument, event)
    inherited = isinstance(method, MethodType) and method.__func__ is getattr(Instrument, event)
    return not inherited


def _by_partition(offsets: Sequence[OffsetCommit]) -> dict[tuple[str, int], int]:
    return {(commit.topic, commit.partition): commit.offset for commit in offsets}
