"""`open_test_pipeline`: the user's stages with no Kafka behind, and an answer for each message.

It is the real pipeline over a `FakeBroker`. What is known of each message is learnt from the
stages themselves: their handlers and policies are wrapped, so that the pipeline needs no
part that is for tests only.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import trio
from trio_util import wait_any

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._options import Batcher, PipelineOptions, Stages, check_topics
from trio_broadway_kafka._model._policies import FailurePolicy, OnFailure, Skip, Stop
from trio_broadway_kafka._open import Opening
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.testing._fake_broker import FakeBroker
from trio_broadway_kafka.testing._fake_message import FakeMessage

__all__ = ["Acks", "TestPipeline", "open_test_pipeline"]

BatchMode = Literal["bulk", "flush"]
Address = tuple[str, int, int]

# What a test pushes is in memory already: nothing is gained by a bound, and a batcher's size
# may be whatever the real pipeline's max_in_flight allows.
_UNBOUNDED = 2**62


class Acks(NamedTuple):
    """What became of pushed messages: each is in one of the two, in the order pushed.

    Attributes:
        succeeded: those that were handled, in their batches too.
        failed: those that failed; ``message.failure`` says why.
    """

    succeeded: tuple[Message, ...]
    failed: tuple[Message, ...]


def open_test_pipeline(
    *, stages: Stages, topics: Mapping[str, int] | None = None
) -> AbstractAsyncContextManager[TestPipeline]:
    """Open a pipeline with no Kafka behind: ``await pipeline.push(b"...")`` is its input.

    ::

        async with open_test_pipeline(stages=stages) as pipeline:
            succeeded, failed = await pipeline.push(b"7", b"seven")
        assert [message.data for message in succeeded] == [7]
        assert isinstance(failed[0].failure, ValueError)

    It is the real pipeline, on trio's clock: order, concurrency, batches and leaving the block
    are as ever. One thing differs. A failure that `Stop` would let out of the block is
    reported by `TestPipeline.push` instead, and the pipeline goes on: it is logged and
    counted as skipped. ``handle_failed`` is called where the real pipeline calls it: not
    under `Stop`. What is no message's failure leaves the block as in the real one: a value
    that a handler returned, an exception of ``handle_failed`` or ``on_failure``.

    Args:
        stages: what is to be tested.
        topics: names, with the number of partitions of each, for stages that look at them;
            ``{"test": 1}`` unless given.

    Raises:
        ConfigError: `stages` is no `Stages`, or a topic has no name.
        ValueError: a topic has less than one partition.
        ExceptionGroup: as from `open_pipeline`.
    """
    if not isinstance(stages, Stages):
        raise ConfigError(f"stages must be a Stages(...), not {type(stages).__name__}")
    return _block(TestPipeline(stages, {"test": 1} if topics is None else topics))


@asynccontextmanager
async def _block(pipeline: TestPipeline) -> AsyncGenerator[TestPipeline]:
    async with Opening(pipeline):
        yield pipeline


class TestPipeline(Pipeline):
    """A pipeline whose messages a test pushes; made by `open_test_pipeline`."""

    __test__: ClassVar[bool] = False  # pytest would take its name for a class of tests

    def __init__(self, stages: Stages, topics: Mapping[str, int]) -> None:
        names = check_topics(topics)
        self._topics = dict(topics)
        self._broker = FakeBroker(topics, poll_interval=math.inf)
        self._pushes = _Pushes()
        super().__init__(
            "test",
            self._broker.client(),
            Session(topics=names),
            acknowledging(stages, self._pushes),
            PipelineOptions(
                max_in_flight=_UNBOUNDED,
                max_in_flight_bytes=_UNBOUNDED,
                commit_interval=math.inf,
                open_timeout=30.0,
                drain_timeout=30.0,
                revoke_timeout=20.0,
                close_timeout=5.0,
            ),
        )

    async def push(
        self,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        topic: str | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
        batch_mode: BatchMode = "flush",
    ) -> Acks:
        """Push a message for each value, and wait until all of them are acknowledged.

        Several tasks may push at once. One that is cancelled leaves its messages to the
        pipeline, and only their acknowledgements are lost.

        Args:
            values: of the messages; None makes a tombstone.
            key: of each of them.
            headers: of each of them.
            topic: where to; needed only where there are several.
            partition: where to; None is by the key's hash, or in turn without a key.
            timestamp: of each, in milliseconds; None is the time of trio's clock.
            batch_mode: what ``message.batch_mode`` is before ``handle_message``, which
                may assign another. With ``"flush"`` each message takes its batch along
                at once, so nothing waits. With ``"bulk"`` they leave when the batcher's
                size or timeout says so: several go into one batch. (Under
                pytest-trio's ``autojump_clock`` no timeout takes time.)

        Raises:
            TypeError: a value or the key is not bytes.
            ValueError: no such topic, partition or batch mode, or several topics and none
                named.
            trio.ClosedResourceError: the pipeline is being left or closed, or was before
                all were acknowledged: what was dropped or cut off is in no `Acks`.
        """
        self._check_open()
        if self._state.value != "open":
            raise trio.ClosedResourceError(
                f"pipeline {self.name!r} is being drained: nothing more can be pushed"
            )
        if batch_mode not in ("bulk", "flush"):
            raise ValueError(f"batch_mode must be 'bulk' or 'flush', not {batch_mode!r}")
        push = self._pushes.begin(
            self._broker.produce(
                self._checked(topic, partition),
                *values,
                key=key,
                headers=headers,
                partition=partition,
                timestamp=timestamp,
            ),
            batch_mode,
        )
        await wait_any(push.settled.wait, self.wait_finished)
        if push.unsettled:
            raise trio.ClosedResourceError(
                f"pipeline {self.name!r} was drained or closed before {push.unsettled} of "
                f"{len(values)} pushed messages were acknowledged"
            )
        return push.acks()

    def _checked(self, topic: str | None, partition: int | None) -> str:
        if topic is None:
            if len(self._topics) > 1:
                names = ", ".join(map(repr, self._topics))
                raise ValueError(f"topic is missing: it may be any of {names}")
            (topic,) = self._topics
        if topic not in self._topics or not 0 <= (partition or 0) < self._topics[topic]:
            what = f"topic {topic!r}" if partition is None else f"{topic}/{partition}"
            count = (partition or 0) + 1
            raise ValueError(
                f"there is no {what} here: ask for it with "
                f"open_test_pipeline(topics={{{topic!r}: {max(count, 1)}}})"
            )
        return topic


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


class _Pushes:
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


def acknowledging(stages: Stages, pushes: _Pushes) -> Stages:
    """The same stages, that tell `pushes` what becomes of each message.

    A message is told of in the moment before the pipeline marks it as finished; no other
    task runs in between.
    """
    # What they return goes through: the pipeline tells of the mistake.
    handle: Callable[[Message], Awaitable[object]] | None = stages.handle_message
    handle_failed: Callable[[list[Message]], Awaitable[object]] | None = stages.handle_failed

    async def handle_and_settle(message: Message) -> Any:
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
        handle_message=handle_and_settle,
        handle_failed=settle_failed,
        batchers={
            name: _acknowledging_batcher(batcher, pushes)
            for name, batcher in stages.batchers.items()
        },
        ordering="partition" if handle is None and in_order else stages.ordering,
        on_failure=_reporting(stages.on_failure, pushes),
    )


def _acknowledging_batcher(batcher: Batcher, pushes: _Pushes) -> Batcher:
    handle: Callable[[Batch], Awaitable[object]] = batcher.handle_batch

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


def _reporting(on_failure: OnFailure, pushes: _Pushes) -> OnFailure:
    """The same policy, but that what would stop the pipeline is acknowledged as failed."""

    def choose(message: Message) -> FailurePolicy:
        policy = on_failure(message) if callable(on_failure) else on_failure
        if isinstance(policy, Stop):
            pushes.report_only(message)
            return Skip()
        return policy

    return choose
