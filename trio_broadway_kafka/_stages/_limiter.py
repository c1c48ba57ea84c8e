"""The limiter: the tokens that messages are taken for, and whom to wake when one comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import trio

from trio_broadway_kafka._model._rate import RateLimit, TokenBucket
from trio_broadway_kafka._model._segment import Segment

__all__ = ["Limiter"]

# Seconds to wait at the least, once there is no token: those that come faster are taken
# together.
_SPACING = 0.002


class Limiter:
    """The one rate limit of a pipeline. Without one nothing of it is on the hot path.

    Who takes messages asks `ready`, and then takes from `limited` instead of the segment's
    own items. Those who found no token are woken in turn.

    Args:
        limit: None for none.
    """

    def __init__(self, limit: RateLimit | None = None) -> None:
        self._limit = limit
        self._bucket: TokenBucket | None = None  # made with the first question: trio runs then
        self._waiting: dict[Callable[[], object], None] = {}  # in order
        self._changed = trio.Event()
        self._watchers: set[Callable[[], object]] = set()

    @property
    def limit(self) -> RateLimit | None:
        """The limit, None if there is none. Assigning takes effect at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: RateLimit | None) -> None:
        now = trio.current_time()
        if limit is None:
            self._bucket = None
        elif self._bucket is not None:
            self._bucket.change(limit, now)
        self._limit = limit
        for look_again in self._watchers:
            look_again()
        self._changed.set()

    def watch(self, look_again: Callable[[], object]) -> None:
        """Have this called whenever the limit has been changed."""
        self._watchers.add(look_again)

    def unwatch(self, look_again: Callable[[], object]) -> None:
        """Not any more."""
        self._watchers.discard(look_again)

    def forget(self, wake: Callable[[], object]) -> None:
        """Don't wake who has ended, nor keep it alive until there is a token."""
        self._waiting.pop(wake, None)

    def _tokens(self) -> TokenBucket:
        assert self._limit is not None
        if self._bucket is None:
            self._bucket = TokenBucket(self._limit, trio.current_time())
        return self._bucket

    def ready(self, wake: Callable[[], object]) -> bool:
        """Whether a message may be taken; if not, `wake` is called once, when it may."""
        if self._limit is None:
            return True
        now = trio.current_time()
        if self._tokens().next_at(now) <= now:
            return True
        self._waiting.setdefault(wake)
        self._changed.set()
        return False

    def take(self, at_most: int) -> int:
        """Take tokens for up to so many messages. Returns for how many."""
        return (
            at_most
            if self._limit is None
            else self._tokens().take(trio.current_time(), at_most)
        )

    def limited(self, segment: Segment) -> Iterator[tuple[Any, int]]:
        """The items of a segment, as long as there are tokens."""
        items = segment.items
        while self.take(1):
            item = next(items, None)
            if item is None:
                self._give_back()
                return
            yield item
            del item  # see Segment: who is parked must not keep a chunk alive

    def _give_back(self) -> None:
        if self._bucket is not None:
            self._bucket.give_back()

    async def run(self) -> None:
        """Wake those who wait, in turn, as tokens come."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            while self._waiting:
                if not await self._wait_for_token() or not self._waiting:
                    continue
                wake = next(iter(self._waiting))
                del self._waiting[wake]
                wake()
                # So that it takes what it wants before the next one is woken: it runs in the
                # next round of trio's loop, in which this task might come first.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()

    async def _wait_for_token(self) -> bool:
        """Wait for the next token; False if the limit has changed meanwhile."""
        if self._limit is None:
            return True
        now = trio.current_time()
        at = self._tokens().next_at(now)
        if at <= now:
            return True
        with trio.move_on_at(max(at, now + _SPACING)) as scope:
            await self._changed.wait()
        if scope.cancelled_caught:
            return True
        self._changed = trio.Event()
        return False
