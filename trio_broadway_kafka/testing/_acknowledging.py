"""Stages that tell what becomes of each message that a test pushed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, NamedTuple

import trio

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._options import Batcher, Stages, StagesFactory
from trio_broadway_kafka._model._policies import (
    POLICIES,
    FailurePolicy,
    OnFailure,
    PausePartition,
    Skip,
    Stop,
    turn_of,
)
from trio_broadway_kafka.testing._fake_message import FakeMessage

__all__ = ["Acks", "BatchMode", "Pushes", "acknowledging"]

BatchMode = Literal["bulk", "flush"]
Address = tuple[str, int, int]


class Acks(NamedTuple):
    """What became of pushed messages: each is in one of the two, in the order pushed.

    Attributes:
        succeeded: those that were handled, in their batches too.
        failed: those that failed; ``message.failure`` says why.
    """

    succeeded: tuple[Message, ...]
    failed: tuple[Message, ...]


class _Push:
    """The messages of one `TestPipeline.push`, and what is known of them.

    Attributes:
        batch_mode: how they start.
        unsettled: how many have not been acknowledged.
        settled: all of them are.
    """

    def __init__(self, count: int, batch_mode: BatchMode) -> None:
        self.batch_mode: BatchMode = batch_mode
        self.unsettled = count
        self.settled = trio.Event()
        self._succeeded: dict[int, Message] = {}
        self._failed: dict[int, Message] = {}
        if not count:
            self.settled.set()

    def settle(self, index: int, message: Message) -> None:
        """The message at `index` is acknowledged."""
        settled = self._succeeded if message.failure is None else self._failed
        settled[index] = message
        self.unsettled -= 1
        if not self.unsettled:
            self.settled.set()

    def acks(self) -> Acks:
        succeeded, failed = (
            tuple(settled[index] for index in sorted(settled))
            for settled in (self._succeeded, self._failed)
        )
        return Acks(succeeded, failed)


class Pushes:
    """All messages that were pushed and are not acknowledged, by where they are."""

    def __init__(self) -> None:
        self._waiting: dict[Address, tuple[_Push, int]] = {}
        self._only_reported: set[Address] = set()

    def begin(self, records: Sequence[FakeMessage], batch_mode: BatchMode) -> _Push:
        push = _Push(len(records), batch_mode)
        for index, record in enumerate(records):
            address = (record.topic(), record.partition(), record.offset())
            self._waiting[address] = (push, index)
        return push

    def start(self, message: Message) -> None:
        """Give a message the batch mode that it was pushed with."""
        push, _ = self._waiting[_address(message)]
        message.batch_mode = push.batch_mode

    def report_only(self, message: Message) -> None:
        """`Stop` has been chosen: ``handle_failed`` does not get it."""
        self._only_reported.add(_address(message))

    def is_only_reported(self, message: Message) -> bool:
        return _address(message) in self._only_reported

    def settle(self, messages: Iterable[Message]) -> None:
        """These are acknowledged as what they are: succeeded or failed."""
        for message in messages:
            address = _address(message)
            self._only_reported.discard(address)
            push, index = self._waiting.pop(address)
            push.settle(index, message)


def _address(message: Message) -> Address:
    return message.topic, message.partition, message.offset


def acknowledging(stages: Stages | StagesFactory, pushes: Pushes) -> Stages | StagesFactory:
    """The same stages, of whichever form, that tell `pushes` what becomes of each message."""
    if isinstance(stages, Stages):
        return _acknowledging(stages, pushes)
    factory = stages

    @asynccontextmanager
    async def entered(made: AbstractAsyncContextManager[Any]) -> AsyncGenerator[Any]:
        async with made as stages:
            yield wrapped(stages)

    def wrapped(made: Any) -> Any:
        # What is no stages goes through: the pipeline tells of the mistake.
        return _acknowledging(made, pushes) if isinstance(made, Stages) else made

    def acknowledging_factory(topic: str, partition: int) -> Any:
        made: Any = factory(topic, partition)
        return entered(made) if hasattr(type(made), "__aenter__") else wrapped(made)

    return acknowledging_factory


def _acknowledging(stages: Stages, pushes: Pushes) -> Stages:
    """The same for stages of one form.

    A message is told of in the moment before the pipeline marks it as finished; no other
    task runs in between.
    """
    # What they return goes through: the pipeline tells of the mistake.
    handle: Callable[[Message], Awaitable[object]] | None = stages.handle_message
    handle_failed: Callable[[list[Message]], Awaitable[object]] | None = stages.handle_failed

    prepare: Callable[[list[Message]], Awaitable[object]] | None = stages.prepare_messages

    async def start_and_prepare(messages: list[Message]) -> Any:
        for message in messages:
            pushes.start(message)
        return None if prepare is None else await prepare(messages)

    async def handle_and_settle(message: Message) -> Any:
        if prepare is None:
            pushes.start(message)
        result = None if handle is None else await handle(message)
        if result is None and message.failure is None and not stages.batchers:
            pushes.settle([message])
        return result

    async def settle_failed(messages: list[Message]) -> Any:
        result = None
        theirs = [message for message in messages if not pushes.is_only_reported(message)]
        if theirs and handle_failed is not None:
            result = await handle_failed(theirs)
        if result is None:
            pushes.settle(messages)
        return result

    # Without a handler messages pass in the order in which they came, and a function that
    # tells lanes apart is not asked.
    in_order = stages.ordering != "unordered"
    return replace(
        stages,
        prepare_messages=None if prepare is None else wraps(prepare)(start_and_prepare),
        # Under their names, for the topology.
        handle_message=handle_and_settle
        if handle is None
        else wraps(handle)(handle_and_settle),
        handle_failed=(
            settle_failed if handle_failed is None else wraps(handle_failed)(settle_failed)
        ),
        batchers={
            name: _acknowledging_batcher(batcher, pushes)
            for name, batcher in stages.batchers.items()
        },
        ordering="partition" if handle is None and in_order else stages.ordering,
        on_failure=_reporting(stages.on_failure, pushes),
    )


def _acknowledging_batcher(batcher: Batcher, pushes: Pushes) -> Batcher:
    handle: Callable[[Batch], Awaitable[object]] = batcher.handle_batch

    @wraps(handle)
    async def handle_and_settle(batch: Batch) -> Any:
        result = await handle(batch)
        if result is None:
            pushes.settle([message for message in batch if message.failure is None])
        return result

    on_failure = batcher.on_failure
    return replace(
        batcher,
        handle_batch=handle_and_settle,
        on_failure=None if on_failure is None else _reporting(on_failure, pushes),
    )


def _reporting(on_failure: OnFailure, pushes: Pushes) -> OnFailure:
    """The same policy, but that what would stop the pipeline, or pause the partition for
    good, is acknowledged as failed."""

    def choose(message: Message) -> FailurePolicy:
        policy = on_failure(message) if callable(on_failure) else on_failure
        if isinstance(policy, POLICIES):
            policy = turn_of(policy, message)
        if isinstance(policy, Stop) or policy == PausePartition():
            pushes.report_only(message)
            return Skip()
        return policy

    return choose
