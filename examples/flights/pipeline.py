"""The pipeline: follow every aircraft through its flights, in order, and save what is found.

This is the part to read. `Rotations.parse` is called for every record, `Rotations.save` for
every batch of them; `run` is everything that a program needs around it. `rotations` is the
rule, `state` keeps what is found.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import trio
from trio_util import wait_any

from examples.flights.rotations import Flight
from examples.flights.state import Seen, States
from trio_broadway_kafka import Batch, Batcher, Message, Pipeline, Stages, open_pipeline

__all__ = ["Rotations", "run"]

_BATCH: Final = 500  # records; more would make a transaction little cheaper for each
_WAIT: Final = 0.2  # seconds for a batch to fill


class Rotations:
    """Looks for rotations that can't be true.

    Args:
        states: where what is found is kept.
        work: seconds that each record takes besides, to watch the pipeline more slowly.

    Attributes:
        handled: records, each counted once.
        again: records that had been handled and saved before, and changed nothing.
        latest: when the last one was handled (`time.monotonic`).
    """

    def __init__(self, states: States, *, work: float = 0.0) -> None:
        self._states = states
        self._work = work
        self.handled = self.again = 0
        self.latest = 0.0

    @property
    def stages(self) -> Stages:
        """What the pipeline does with the records."""
        return Stages(
            handle_message=self.parse,
            # The flights of one aircraft come to the batcher in their order.
            ordering="key",
            concurrency=16,
            batchers={
                "default": Batcher(
                    handle_batch=self.save, size=_BATCH, timeout=_WAIT, concurrency=2
                )
            },
        )

    async def parse(self, message: Message) -> None:
        """Read one record. Nothing is known or changed here: that is the batch's."""
        if self._work:
            await trio.sleep(self._work)
        assert message.value is not None
        message.data = Seen(
            message.offset,
            None if message.key is None else message.key.decode(),
            Flight.from_json(message.value.decode()),
        )
        message.batch_key = message.partition  # a batch is a transaction on one file

    async def save(self, batch: Batch) -> None:
        """Follow the aircraft through these flights. When this returns, they are saved.

        Batches of one key, here of a partition, never overlap and come in order. In a thread,
        because SQLite may have to wait for the disk; the other stages go on meanwhile.
        """
        state = self._states.of(batch.messages[0].partition)
        seen = [message.data for message in batch]
        new = await trio.to_thread.run_sync(state.save, seen)
        self.handled += new
        self.again += len(seen) - new
        self.latest = time.monotonic()


async def run(
    rotations: Rotations,
    *,
    kafka: Mapping[str, object],
    topic: str,
    show: Callable[[Pipeline], Awaitable[None]],
    stop: trio.Event,
    alone: bool = True,
) -> None:
    """Run until all is handled, or until `stop`.

    Args:
        rotations: handles the records.
        kafka: the address, and the group whose committed offsets say where to go on.
        topic: where the flights are.
        show: a task that runs beside it.
        stop: set it to end early.
        alone: whether this is the group's only member. If not, caught up is not the end:
            partitions may still come over from others.
    """
    async with open_pipeline(
        kafka=kafka,
        topics=[topic],
        stages=rotations.stages,
    ) as pipeline:
        caught_up = pipeline.wait_caught_up if alone else trio.sleep_forever
        await wait_any(caught_up, stop.wait, partial(show, pipeline))
    # Here what was started is finished, what is finished is committed, and we have left the
    # group. An exception in a handler would have come out of the block, with its record and
    # those after it in its partition not committed.
