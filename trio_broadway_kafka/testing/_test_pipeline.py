"""`open_test_pipeline`: the user's stages with no Kafka behind, and an answer for each message.

It is the real pipeline over a `FakeBroker`. What is known of each message is learnt from the
stages themselves: their handlers and policies are wrapped, so that the pipeline needs no
part that is for tests only.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import trio
from trio_util import wait_any

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._options import (
    PipelineOptions,
    Stages,
    StagesFactory,
    check_stages,
)
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._topics import check_topics
from trio_broadway_kafka._open import Opening
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.instruments._base import Instrument, check_instruments
from trio_broadway_kafka.testing._acknowledging import Acks, BatchMode, Pushes, acknowledging
from trio_broadway_kafka.testing._fake_broker import FakeBroker
from trio_broadway_kafka.testing._fake_message import FakeMessage

__all__ = ["Acks", "TestPipeline", "open_test_pipeline"]

# What a test pushes is in memory already: nothing is gained by a bound, and a batcher's size
# may be whatever the real pipeline's max_in_flight allows.
_UNBOUNDED = 2**62


def open_test_pipeline(
    *,
    stages: Stages | StagesFactory,
    topics: Mapping[str, int] | None = None,
    output: Output | None = None,
    instruments: Iterable[Instrument] = (),
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
        stages: what is to be tested: as for `open_pipeline`, a function of topic and
            partition too.
        topics: names, with the number of partitions of each, for stages that look at them;
            ``{"test": 1}`` unless given.
        output: how records of ``message.produce`` and dead letters leave, as for
            `open_pipeline`. Whichever topic they go to is there: see `TestPipeline.produced`.
        instruments: told of what happens, as for `open_pipeline`.

    Raises:
        ConfigError: `stages` can't be stages, an instrument is none, or a topic has no name.
        ValueError: a topic has less than one partition.
        ExceptionGroup: as from `open_pipeline`.
    """
    check_stages(stages)
    if not (output is None or isinstance(output, Output)):
        raise ConfigError(f"output must be an Output(...), not {type(output).__name__}")
    told = check_instruments(instruments)
    return _block(TestPipeline(stages, {"test": 1} if topics is None else topics, output, told))


@asynccontextmanager
async def _block(pipeline: TestPipeline) -> AsyncGenerator[TestPipeline]:
    async with Opening(pipeline):
        yield pipeline


class TestPipeline(Pipeline):
    """A pipeline whose messages a test pushes; made by `open_test_pipeline`."""

    __test__: ClassVar[bool] = False  # pytest would take its name for a class of tests

    def __init__(
        self,
        stages: Stages | StagesFactory,
        topics: Mapping[str, int],
        output: Output | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        names = check_topics(topics)
        self._topics = dict(topics)
        self._broker = FakeBroker(topics, poll_interval=math.inf)
        self._broker._cluster.makes_topics = True
        self._pushes = Pushes()
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
            output=output,
            instruments=instruments,
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
        # A succeeded message is finished once its outputs are there.
        if self._outputs.is_transactional:
            await self.commit()
        else:
            await self._outputs.wait_delivered(self._partitions.values())
        return push.acks()

    def produced(self, topic: str) -> list[FakeMessage]:
        """The records that were sent to a topic, outputs and dead letters, in order."""
        if topic not in self._broker._cluster.topics:
            return []
        return self._broker.records(topic)

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
