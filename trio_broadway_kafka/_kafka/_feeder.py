"""The feeder: the one thread that makes every call of the consumer.

confluent-kafka 2.16 lets one caller at a time into a Consumer, and the one that waits
starves: beside a thread that polls in a loop, a commit from another had not got in after
9 s. So what others want comes as commands, applied between polls of at most 0.1 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition as Native

from trio_broadway_kafka._kafka._beginnings import Beginnings
from trio_broadway_kafka._kafka._client import (
    Answered,
    AssignedPartition,
    Chunk,
    ClientEvents,
    OffsetCommit,
    PartitionEnd,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._kafka._commits import Commit, Commits
from trio_broadway_kafka._kafka._membership import Membership, Subscription
from trio_broadway_kafka._kafka._partitions import Owned, Partitions, TopicIds
from trio_broadway_kafka._kafka._reader import POLL, Reader
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._ticks import TICK_EVERY, Ticks
from trio_broadway_kafka._kafka._translate import error_of, failure

__all__ = ["Command", "Feeder"]

REST_AFTER: Final = 0.5
"""Seconds without an open fetch until everything is paused: that throws the prefetch away
(about 100,000 small messages), but polling must go on, and polls return messages."""

ANSWER_FIRST: Final = 0.002
ANSWER_LATER: Final = 0.05
"""Seconds between polls while a commit's answer is awaited and no fetch is open."""

Post = Callable[..., bool]
"""Calls a function in trio's thread soon, in order; False once trio's loop is gone."""

Command = Callable[["Feeder"], None]


class Feeder:
    """Polls and serves commands until `stopping`, then closes the consumer.

    `run` is the thread; the other public methods are what commands call in it.

    Args:
        commands: what others want done, applied in order.
        topics: the names to begin with, without patterns; if there are none it waits.
        post: for everything that is reported.
        topic_ids: gives the ids of topics.
        first_offset: where a partition without a committed offset starts, if it is known.
        classic: whether this is the older of the two group protocols.

    Attributes:
        stopping: set to leave; what is assigned is neither drained nor committed then.
        polled_at: when it was polled last, in seconds of ``time.monotonic``.
    """

    def __init__(
        self,
        consumer: Consumer,
        commands: SimpleQueue[Command],
        session: Session,
        topics: Sequence[str],
        events: ClientEvents,
        reports: Reports,
        post: Post,
        topic_ids: TopicIds,
        *,
        first_offset: int | None = None,
        classic: bool = True,
    ) -> None:
        self.stopping = False
        self.polled_at = time.monotonic()
        self._consumer = consumer
        self._commands = commands
        self._session = session
        self._topics = topics
        self._events = events
        self._reports = reports
        self._to_trio = post
        self._partitions = Partitions(consumer)
        self._reader = Reader(consumer, self._partitions, reports)
        self._beginnings = Beginnings(
            consumer, self._partitions, session.start_from, reports, topic_ids, first_offset
        )
        self._commits = Commits(
            consumer, self._partitions.live, reports.gone, self._beginnings.starts.committed
        )
        guard = reports.guard
        self._membership = Membership(
            consumer,
            {
                "on_assign": guard(self._on_assign, None),
                "on_revoke": guard(self._on_revoke, None),
                "on_lost": guard(self._on_lost, None),
            },
            classic=classic,
        )
        self.still = self._partitions.still  # for who means an epoch
        self._revoking: dict[TopicPartition, Owned] | None = None
        # Demand. Resting from the start: nothing is prefetched before it is asked for.
        self._wanted = 0
        self._rest_at = 0.0
        self._patience = ANSWER_FIRST
        self._ticks = Ticks(self._post)

    # -- commands

    def fetch(self, count: int) -> None:
        self._wanted = count

    def pause(self, places: Sequence[TopicPartition]) -> None:
        self._partitions.pause(places)

    def resume(self, positions: Mapping[TopicPartition, int | None]) -> None:
        if moved := self._partitions.resume(positions):
            self._reader.forget(moved)

    def commit(self, commit: Commit) -> None:
        if self._revoking is None:
            self._commits.submit(commit)
            self._patience = ANSWER_FIRST
        else:
            self._commits.now(commit)

    def release(
        self,
        partitions: Sequence[AssignedPartition],
        offsets: Sequence[OffsetCommit],
        answered: Answered | None = None,
    ) -> None:
        revoking = self._revoking or {}
        released = [
            owned
            for p in partitions
            if (owned := revoking.get(TopicPartition(p.topic, p.partition))) is not None
            and owned.assigned.epoch == p.epoch
        ]
        if not released:
            return
        self._commits.now(Commit(offsets, partial(self._released, answered)))
        self._partitions.end(released)
        for owned in released:
            del revoking[TopicPartition(owned.assigned.topic, owned.assigned.partition)]

    def _released(
        self,
        answered: Answered | None,
        result: Sequence[OffsetCommit] | Exception,
    ) -> None:
        if isinstance(result, Exception):
            logger.warning("the last commit of a revoke failed: %s", result)
        if answered is not None:
            self._post(answered, result)

    def ask(self, question: Callable[[Consumer, Partitions], object]) -> None:
        question(self._consumer, self._partitions)

    def subscribe(self, subscription: Subscription) -> None:
        self._membership.change(subscription)

    def stop(self) -> None:
        self.stopping = True

    def run(self) -> None:
        """Subscribe, poll until `stopping`, close. Never raises: events.failed is told."""
        try:
            self._membership.subscribe(self._topics)
            while not self.stopping:
                self._turn()
        except KafkaException as error:
            self._reports.fail(failure(error_of(error), "reading from Kafka"))
        except BaseException as error:
            self._reports.fail(error)
        finally:
            self.stopping = True
            try:
                self._membership.finish_joining()
                if not self._partitions.any():
                    # Without it close() sends no LeaveGroup for a member that owns nothing
                    # (librdkafka 2.16, classic groups): the others would wait for it in
                    # every rebalance, unable to commit, until its session expires.
                    self._consumer.unsubscribe()
                # Serves a revoke inside, for which nothing is left to be done.
                self._consumer.close()
            except BaseException as error:
                self._reports.fail(error)

    def on_commit(self, error: object, partitions: object) -> None:
        """The consumer's ``on_commit``."""
        if error is None:
            self._reports.well()
        self._patience = ANSWER_FIRST
        self._commits.on_commit(error, partitions)  # type: ignore[arg-type]

    def _turn(self) -> None:
        self._serve(0)
        if self.stopping:
            return
        self._membership.settle()
        if begun := self._beginnings.again():
            self._post(self._events.assigned, begun)
        now = time.monotonic()
        if not self._ticks.answered(now):
            # Kafka's max.poll.interval.ms is to take effect.
            self._serve(POLL)
            return
        self.polled_at = now
        if self._wanted:
            if self._partitions.resting:
                self._partitions.rest(False)
            self._partitions.settle()
            self._commits.pump()
            self._fetch()
        else:
            self._idle(now)

    def _serve(self, timeout: float) -> None:
        """Apply the commands that are there; wait for the first up to `timeout` seconds."""
        commands = self._commands
        if commands.empty():
            if timeout <= 0:
                return
            try:
                commands.get(timeout=timeout)(self)
            except Empty:
                return
        while not commands.empty():
            commands.get()(self)

    def _post(self, function: Callable[..., None], *args: object) -> None:
        if not self._to_trio(function, *args):
            self.stopping = True

    # -- demand

    def _fetch(self) -> None:
        chunks, ends = self._reader.read(self._wanted)
        if chunks:
            self._wanted = 0
            self._rest_at = time.monotonic() + REST_AFTER
        self._report(chunks, ends)

    def _report(self, chunks: list[Chunk], ends: list[PartitionEnd]) -> None:
        if chunks or ends:
            self._reports.well()
            self._post(self._events.fetched, chunks, ends)

    def _idle(self, now: float) -> None:
        """No fetch is open: wait for commands, and poll for what else polling serves."""
        partitions = self._partitions
        wait = POLL if partitions.resting else max(self._rest_at - now, 0.0)
        if self._commits:
            wait = min(wait, self._patience)
            self._patience = min(self._patience * 1.5, ANSWER_LATER)
            self._commits.pump()
        self._serve(wait)
        if self._wanted or self.stopping:
            return
        if not partitions.resting and time.monotonic() >= self._rest_at:
            partitions.rest(True)
        if partitions.resting or self._commits:
            partitions.settle()
            self._commits.pump()
            end = self._reader.poll()
            if end is not None:
                self._report([], [end])

    # -- rebalances, inside poll and consume

    # librdkafka assigns and unassigns after these by itself, whichever protocol is used.

    def _on_assign(self, consumer: Consumer, partitions: list[Native]) -> None:
        self._membership.has_joined = True
        self._partitions.note_rebalance()
        # An empty list follows each revoke.
        if self.stopping or not partitions:
            return
        stale = self._partitions.pick(partitions)
        if stale:
            self._partitions.end(stale)
            self._post(self._events.lost, [owned.assigned for owned in stale])
        if begun := self._beginnings.assign(partitions):
            self._post(self._events.assigned, begun)

    def _on_revoke(self, consumer: Consumer, partitions: list[Native]) -> None:
        self._beginnings.forget(partitions)
        revoked = self._partitions.pick(partitions)
        if revoked and not self.stopping:
            self._drain(revoked)
        self._partitions.end(revoked)
        self._partitions.note_rebalance()

    def _drain(self, revoked: list[Owned]) -> None:
        """Serve commands until all are released, on a clock of our own: trio may be blocked.

        Heartbeats go on meanwhile: a drain of 9 s survives a session timeout of 6 s.
        """
        deadline = time.monotonic() + self._session.revoke_timeout + 1
        revoking = {
            TopicPartition(owned.assigned.topic, owned.assigned.partition): owned
            for owned in revoked
        }
        self._revoking = revoking
        try:
            self._post(self._events.revoking, [owned.assigned for owned in revoked])
            self._commits.all_now()
            while revoking and not self.stopping:
                if (now := time.monotonic()) >= deadline:
                    names = ", ".join(f"{p.topic} [{p.partition}]" for p in revoking)
                    logger.warning("not drained within revoke_timeout: %s", names)
                    return
                self._ticks.answered(now)
                self._serve(min(deadline - now, TICK_EVERY))
        finally:
            self._revoking = None

    def _on_lost(self, consumer: Consumer, partitions: list[Native]) -> None:
        self._beginnings.forget(partitions)
        lost = self._partitions.pick(partitions)
        self._partitions.end(lost)
        if lost and not self.stopping:
            self._post(self._events.lost, [owned.assigned for owned in lost])
