"""The forwarder: what stands in for processors where there is no ``handle_message``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from trio_broadway_kafka._model._lanes import Lanes
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka._stages._limiter import Limiter

__all__ = ["Forwarder"]


class Forwarder:
    """Hands on what arrives, whole lists at once; no message is made or looked at.

    Args:
        lanes: where the segments come from.
        forward: puts records of a segment, from an index on, where they go next.
        backlogged: whether enough waits there. What has not been handed on has not
            started, and a drain leaves it to Kafka.
        is_idle: whether nothing is being handled there, or about to.
        limiter: how many may be handed on.
        want: called when more could be handed on.
        stop: called when the task ends, and so the pipeline.
    """

    def __init__(
        self,
        *,
        lanes: Lanes,
        forward: Callable[[Sequence[Any], Segment, int], None],
        backlogged: Callable[[], bool],
        is_idle: Callable[[], bool],
        limiter: Limiter,
        want: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._lanes = lanes
        self._forward = forward
        self._backlogged = backlogged
        self._is_idle = is_idle
        self._limiter = limiter
        self._want = want
        self._stop = stop
        self._lot = trio.lowlevel.ParkingLot()

    def step(self) -> None:
        """Hand on what there is, and ask for more if nothing is being handled. Never waits."""
        lanes, limiter = self._lanes, self._limiter
        while (
            not self._backlogged()
            and limiter.ready(self.wake)
            and (segment := lanes.acquire()) is not None
        ):
            raws, first = segment.take(limiter.take(segment.untaken))
            self._forward(raws, segment, first)
            lanes.release(segment)
        if self._is_idle() and lanes.is_empty():
            self._want()

    def wake(self) -> None:
        """Something has arrived: hand it on, and ask for more once its handlers wait."""
        self.step()
        self._lot.unpark()

    async def run(self) -> None:
        try:
            while True:
                await self._lot.park()
                # A handler that does not wait has ended by then, and its batch is gone: to
                # have the next chunk only then keeps garbage collections away.
                await trio.lowlevel.checkpoint()
                self.step()
                if self._limiter.limit is None or self._lanes.is_empty():
                    self._want()
        finally:
            self._stop()
