"""A pipeline that ends by itself: where it does, and waiting until the group is there.

Everything that holds up the end is in `StopAt.wait_reached`: what is not reached yet, whoever
owns it, and why it may never be.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

import trio

from trio_broadway_kafka._kafka._client import (
    KafkaClient,
    OffsetCommit,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._model._errors import BroadwayKafkaError, KafkaFailure
from trio_broadway_kafka._model._moments import StopAtOption, milliseconds
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._stops import Stops
from trio_broadway_kafka._stopping_client import StoppingClient

__all__ = ["StopAt"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds between two looks at what is finished here, at first and after a while.
_LOOK: Final = 0.01
_LOOK_MOST: Final = 0.1

# Seconds between two questions for what the group has committed of others' partitions, and for
# the topics that still exist.
_ASK: Final = 0.5
_ASK_FOR_TOPICS: Final = 10.0

# Seconds between two tries of a question that had no answer.
_ASK_AGAIN: Final = 0.1

# Seconds until an offset counts that was committed before a pipeline with a start_from was
# opened, and that nobody has changed: by then what a dead member owned has come here, to be
# started over (the default session timeout is 45 s).
_TRUST_AFTER: Final = 60.0


class StopAt:
    """The end of one pipeline.

    Args:
        stop_at: as in `open_pipeline`.
        client: the member of the group.
        session: what it joins with.
        states: the live assignments.

    Attributes:
        client: to be used in place of the member; it delivers nothing beyond the stops.
    """

    def __init__(
        self,
        stop_at: StopAtOption,
        client: KafkaClient,
        session: Session,
        states: Mapping[TopicPartition, PartitionOffsets],
    ) -> None:
        self._when = stop_at if isinstance(stop_at, datetime) else None
        self._inner = client
        self._session = session
        self._states = states
        self._stops = Stops(None if self._when is None else milliseconds(self._when))
        self._begins: dict[TopicPartition, int] = {}
        self._before: dict[TopicPartition, int | None] = {}
        self._committed: set[TopicPartition] = set()  # something of them, from here
        self._due_at = -math.inf
        self._trust_at = -math.inf
        self.client = StoppingClient(client, self._stops)

    def note_committed(self, offsets: Iterable[OffsetCommit]) -> None:
        """These were committed from here."""
        self._committed.update(TopicPartition(o.topic, o.partition) for o in offsets)

    async def fix(self) -> None:
        """Look up where to stop; to be called once the client runs. Nothing is read before.

        Raises:
            KafkaFailure: Kafka did not tell within ``open_timeout``, or refused.
        """
        self._due_at = trio.current_time()
        if self._when is not None:
            self._due_at += self._when.timestamp() - time.time()
        timeout = self._session.open_timeout
        deadline = trio.current_time() + timeout
        with trio.move_on_at(deadline):
            if await self._look_up_until(deadline):
                self.client.begin()
                return
        raise KafkaFailure(
            f"Kafka did not tell where the partitions end within open_timeout={timeout:g} s",
            code="_TIMED_OUT",
            retriable=True,
        )

    async def _look_up_until(self, deadline: float) -> bool:
        while True:
            try:
                await self._look_up()
                return True
            except KafkaFailure as failure:
                # A topic may be deleted between two questions.
                passes = failure.retriable or failure.code == "UNKNOWN_TOPIC_OR_PART"
                if not passes or trio.current_time() >= deadline:
                    raise
            await trio.sleep(_ASK_AGAIN)

    async def _look_up(self) -> None:
        """Fix the stops, or those that can be known before their time has come."""
        is_due = trio.current_time() >= self._due_at
        places = await self._inner.partitions(self._session.topics)
        self._begins = await self._inner.begin_offsets(places)
        earlier_ends = await self._inner.end_offsets(places)
        ends = await self._inner.end_offsets(places)
        found: dict[TopicPartition, int] = {}
        if self._when is not None:
            # Last: what comes after this question is not before that time.
            answers = await self._inner.offsets_at(places, self._when)
            found = {place: o for place, o in answers.items() if o is not None}
        if self._session.start_from != "committed" and not self._before:
            self._before = await self._inner.committed_offsets(places)
            self._trust_at = trio.current_time() + _TRUST_AFTER
        if is_due:
            self._stops.fix(earlier_ends, ends, found)
        else:
            self._stops.learn(found)

    async def wait_reached(
        self,
        commit: Callable[[], Awaitable[None]],
        flush: Callable[[Collection[PartitionOffsets]], None],
        held: Callable[[], Collection[TopicPartition]],
    ) -> None:
        """Wait until the group's committed offsets have reached all stops.

        Args:
            commit: commits what is finished here. An outage is waited out.
            flush: called with assignments of which no more will come: lets their open batches
                leave, unless something is still on its way into them.
            held: tells of partitions that are paused until somebody resumes them.

        Raises:
            BroadwayKafkaError: nothing is left but what `held` tells of.
            KafkaFailure: Kafka refused.
        """
        try:
            await self._wait_fixed()
            await self._wait_committed(commit, flush, held)
        except trio.ClosedResourceError:
            await trio.sleep_forever()  # the client has failed, and has said so

    async def _wait_fixed(self) -> None:
        if not self._stops.fixed:
            await trio.sleep_until(self._due_at)
            await self._look_up_until(math.inf)

    async def _wait_committed(
        self,
        commit: Callable[[], Awaitable[None]],
        flush: Callable[[Collection[PartitionOffsets]], None],
        held: Callable[[], Collection[TopicPartition]],
    ) -> None:
        awaited = {p for p in self._stops.partitions if not self._is_empty(p)}
        done: set[TopicPartition] = set()
        look = _LOOK
        ask_at, ask_for_topics_at = -math.inf, trio.current_time() + _ASK_FOR_TOPICS
        while left := {p for p in awaited if not self._is_reached(p, done)}:
            done = awaited - left
            here = left & self._states.keys()
            _check_held(left, held())
            if here and all(self._is_finished_here(p) for p in here):
                await commit()
                here = left & self._states.keys()
                if any(self._is_reached_here(p) for p in here):
                    continue
            elif here and all(self._is_read_here(p) for p in here):
                flush([self._states[p] for p in here])
            try:
                if trio.current_time() >= ask_at and here != left:
                    done |= await self._reached_elsewhere(left - here)
                    ask_at = trio.current_time() + _ASK
                if trio.current_time() >= ask_for_topics_at:
                    awaited -= await self._gone(left)
                    ask_for_topics_at = trio.current_time() + _ASK_FOR_TOPICS
            except KafkaFailure as failure:
                if not failure.retriable:
                    raise
            await trio.sleep(look)
            look = min(1.5 * look, _LOOK_MOST)

    def _is_empty(self, place: TopicPartition) -> bool:
        stop = self._stops.stop(place)
        return stop is not None and self._begins.get(place, 0) >= stop

    def _is_finished_here(self, place: TopicPartition) -> bool:
        stop = self._stops.stop(place)
        return stop is not None and self._states[place].reached >= stop

    def _is_read_here(self, place: TopicPartition) -> bool:
        stop = self._stops.stop(place)
        return stop is not None and self._states[place].read_to >= stop

    def _is_reached(self, place: TopicPartition, done: Collection[TopicPartition]) -> bool:
        # What was done elsewhere may come here, to be started over.
        return self._is_reached_here(place) if place in self._states else place in done

    def _is_reached_here(self, place: TopicPartition) -> bool:
        state = self._states.get(place)
        stop = self._stops.stop(place)
        return (
            state is not None
            and stop is not None
            and state.uncommitted_start is None
            and (state.committed or 0) >= stop
        )

    async def _reached_elsewhere(self, places: set[TopicPartition]) -> set[TopicPartition]:
        """Those of others' partitions of which the group has committed enough."""
        committed = await self._inner.committed_offsets(sorted(places))
        now = trio.current_time()
        return {
            place
            for place, offset in committed.items()
            if offset is not None
            and offset >= self._stops.awaited(place)
            and (
                now >= self._trust_at
                or place in self._committed
                or offset != self._before.get(place)
            )
        }

    async def _gone(self, places: set[TopicPartition]) -> set[TopicPartition]:
        """Those of topics that were deleted: nobody will commit anything of them."""
        gone = places - {*await self._inner.partitions(self._session.topics)}
        for topic in sorted({place.topic for place in gone}):
            _log.warning("topic %r is gone: its end is not waited for", topic)
        return gone


def _check_held(left: set[TopicPartition], held: Collection[TopicPartition]) -> None:
    """Raise if all that is waited for may never come."""
    if left <= {*held}:
        names = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(left))
        raise BroadwayKafkaError(
            f"stop_at is not reached: all that is left waits in {names}, paused by a "
            "PausePartition() without seconds; what it holds is handled again by the next run"
        )
