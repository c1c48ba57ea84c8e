"""The pipeline: follow every aircraft through its flights, in order, and save what is found.

This is the part to read. `Rotations.handle` is called for every record; `run` is everything
that a program needs around it. `rotations` is the rule, `state` keeps what is found.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio
from trio_util import wait_any

from examples.flights.state import States
from trio_broadway_kafka import Message, Pipeline, Stages, open_pipeline

__all__ = ["Rotations", "run"]


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

    async def handle(self, message: Message) -> None:
        """Follow one aircraft through one flight. When this returns, the record is saved."""
        if self._work:
            await trio.sleep(self._work)
        assert message.value is not None
        state = self._states.of(message.partition)
        if message.key is None:  # no tail number: there is nobody to follow
            new = state.save_nameless(message.offset)
        else:
            # ordering="key": no other flight of this aircraft is being handled meanwhile.
            tailnum = message.key.decode()
            offset, aircraft = state.aircraft(tailnum)
            if new := message.offset > offset:
                state.save(tailnum, message.offset, *aircraft.then(message.value.decode()))
        self.handled += new
        self.again += not new
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
        stages=Stages(handle_message=rotations.handle, ordering="key", concurrency=16),
    ) as pipeline:
        caught_up = pipeline.wait_caught_up if alone else trio.sleep_forever
        await wait_any(caught_up, stop.wait, partial(show, pipeline))
    # Here what was started is finished, what is finished is committed, and we have left the
    # group. An exception in a handler would have come out of the block, with its record and
    # those after it in its partition not committed.
