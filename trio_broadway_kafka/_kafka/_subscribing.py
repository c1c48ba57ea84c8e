"""The topics of one client over time: changed by the user, and as topics come and go."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._topics import Topics, changes
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._topics import is_pattern

__all__ = ["Subscribing"]

LOOK_EVERY: Final = 3.0
"""Seconds between two looks at which topics the patterns match."""

LOOK_AT_NAMES_EVERY: Final = 10
"""Looks between two at whether the named topics still exist: who has lost one may not be told
(KIP-848 revokes its partitions, and that is all)."""

T = TypeVar("T")


class Subscribing:
    """Keeps the consumer subscribed to the names that the topics stand for.

    Args:
        topics: who is asked.
        session: its topics are those to begin with.
        names: what they stand for, as of the opening.
        apply: subscribes the consumer to names. Raises KafkaFailure if they are refused.
    """

    def __init__(
        self,
        topics: Topics,
        session: Session,
        names: Sequence[str],
        reports: Reports,
        apply: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._asked = topics
        self._session = session
        self._topics: Sequence[str] = session.topics
        self._names = names
        self._reports = reports
        self._apply = apply
        # One question, and one change, at a time.
        self._lock = trio.Lock()
        self._gone: set[str] = set()
        self._limiter = trio.CapacityLimiter(1)

    @property
    def topics(self) -> Sequence[str]:
        """See `KafkaClient.topics`."""
        return self._topics

    async def subscribe(self, topics: Sequence[str]) -> None:
        """See `KafkaClient.subscribe`."""
        async with self._lock:
            has_ended = trio.Event()
            try:
                await self._in_thread(
                    partial(
                        self._asked.require,
                        topics,
                        create=self._session.create_topics,
                        timeout=self._session.open_timeout,
                        given_up=has_ended.is_set,
                    )
                )
                names = await self._matching(topics)
            finally:
                has_ended.set()
            # Before the answer: cancelled while it waits for that, it is done all the same.
            before = self._topics, self._names
            self._topics, self._names = topics, names
            try:
                await self._apply(names)
            except KafkaFailure:
                self._topics, self._names = before
                raise

    async def _matching(self, topics: Sequence[str]) -> list[str]:
        deadline = trio.current_time() + self._session.open_timeout
        while True:
            try:
                return await self._in_thread(partial(self._asked.matching, topics))
            except KafkaFailure as failure:
                if not failure.retriable or trio.current_time() >= deadline:
                    raise

    # With its parent's protection it would be the only task to take a Ctrl-C.
    @trio.lowlevel.enable_ki_protection
    async def watch(self) -> None:
        """Follow the topics that the patterns match, until cancelled."""
        for look in itertools.count(1):
            await trio.sleep(LOOK_EVERY)
            async with self._lock:
                try:
                    if any(map(is_pattern, self._topics)):
                        await self._look()
                    if look % LOOK_AT_NAMES_EVERY == 0:
                        await self._look_at_names()
                except KafkaFailure as failure:
                    # In an outage others say so; what is subscribed to stays.
                    self._reports.unanswered(failure)

    async def _look(self) -> None:
        names = await self._in_thread(partial(self._asked.matching, self._topics))
        if set(names) != set(self._names):
            await self._apply(names)
            logger.info("the topics have changed: %s", changes(self._names, names))
            self._names = names

    async def _look_at_names(self) -> None:
        gone = await self._in_thread(partial(self._asked.gone, self._topics))
        for topic in gone - self._gone:
            logger.warning("topic %r does not exist any more: nothing is read of it", topic)
        for topic in self._gone - gone:
            logger.info("topic %r exists again", topic)
        self._gone = gone

    async def _in_thread(self, function: Callable[[], T]) -> T:
        # Left alone when cancelled, it ends within a slice.
        return await trio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=self._limiter
        )
