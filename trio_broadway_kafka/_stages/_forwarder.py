"""The forwarder: what stands in for processors where there is no ``handle_message``."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_broadway_kafka._model._lanes import Lanes
from trio_broadway_kafka._model._segment import Segment

__all__ = ["Forwarder"]


class Forwarder:
    """Hands on what arrives, whole lists at once; no message is made or looked at.

    Args:
        lanes: where the segments come from.
        forward: puts all that is left of a segment where it goes next.
        backlogged: whether enough waits there. What has not been handed on has not
            started, and a drain leaves it to Kafka.
        want: called whenever all that was here has been handed on.
        stop: called when the task ends, and so the pipeline.
    """

    def __init__(
        self,
        *,
        lanes: Lanes,
        forward: Callable[[Segment], None],
        backlogged: Callable[[], bool],
        want: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._lanes = lanes
        self._forward = forward
        self._backlogged = backlogged
        self._want = want
        self._stop = stop
        self._lot = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        """Something has arrived, or what waited has moved on."""
        self._lot.unpark()

    async def run(self) -> None:
        lanes = self._lanes
        try:
            while True:
                while not self._backlogged() and (segment := lanes.acquire()) is not None:
                    self._forward(segment)
                    lanes.release(segment)
                    del segment
                self._want()
                if self._backlogged() or not lanes.has_more_than(0):
                    await self._lot.park()
        finally:
            self._stop()
