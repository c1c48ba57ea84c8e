"""Commits on the feeder thread: one at a time, answered whenever the broker answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._translate import error_of, failure
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["Commit", "Commits"]

logger = logging.getLogger("trio_broadway_kafka")

GONE: Final = frozenset({"UNKNOWN_TOPIC_ID", "UNKNOWN_TOPIC_OR_PART"})
"""The topic was deleted. A KIP-848 group says so to a commit before it revokes."""


class Commit:
    """Offsets to commit, and who is to be told.

    Attributes:
        wanted: False once nobody waits; then it is not sent any more.
    """

    __slots__ = ("_answer", "_answered", "offsets", "wanted")

    def __init__(
        self,
        offsets: Sequence[OffsetCommit],
        answer: Callable[[Sequence[OffsetCommit] | Exception], object],
    ) -> None:
        self.offsets = offsets
        self.wanted = True
        self._answer = answer
        self._answered = False

    def answer(self, result: Sequence[OffsetCommit] | Exception) -> None:
        """Tell the result; only the first one counts."""
        if not self._answered:
            self._answered = True
            self._answer(result)


class Commits:
    """A queue of commits, of which at most one is on its way.

    librdkafka may hold a commit back and try it again after a later one has succeeded,
    which would leave the older offset committed. One at a time can't overtake, and
    makes it plain which commit an answer belongs to.

    Args:
        live: those of some offsets whose epoch has not ended.
    """

    def __init__(
        self,
        consumer: Consumer,
        live: Callable[[Sequence[OffsetCommit]], list[OffsetCommit]],
    ) -> None:
        self._consumer = consumer
        self._live = live
        self._waiting: deque[Commit] = deque()
        self._sent: Commit | None = None
        self._sent_offsets: list[OffsetCommit] = []
        self._gone: set[str] = set()

    def __bool__(self) -> bool:
        """Whether an answer or a commit is outstanding."""
        return self._sent is not None or bool(self._waiting)

    def submit(self, commit: Commit) -> None:
        """Queue `commit`; `pump` sends it."""
        self._waiting.append(commit)

    def pump(self) -> None:
        """Send the next commit, if none is on its way."""
        while self._waiting and self._sent is None:
            commit = self._waiting.popleft()
            offsets = self._live(commit.offsets) if commit.wanted else []
            if not offsets:
                commit.answer([])
                continue
            self._sent, self._sent_offsets = commit, offsets
            try:
                self._consumer.commit(offsets=_native(offsets), asynchronous=True)
            except Exception as error:
                self._sent = None
                commit.answer(self._refused(error, offsets))

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Take the broker's answer (the ``on_commit`` of confluent-kafka)."""
        commit, offsets = self._sent, self._sent_offsets
        self._sent = None
        if commit is not None:
            commit.answer(self._result(error, partitions, offsets))
        self.pump()

    def now(self, commit: Commit) -> None:
        """Commit and wait for the answer: inside a rebalance, where callbacks can't come."""
        offsets = self._live(commit.offsets)
        if not offsets:
            commit.answer([])
            return
        try:
            answer = self._consumer.commit(offsets=_native(offsets), asynchronous=False)
        except Exception as error:
            commit.answer(self._refused(error, offsets))
        else:
            commit.answer(self._result(None, answer, offsets))

    def all_now(self) -> None:
        """Answer everything outstanding before a rebalance is waited for.

        The answer to the one on its way would come after the rebalance, which may be
        waiting for it: the same offsets are committed again, for the answer.
        """
        if self._sent is not None:
            self.now(self._sent)
        while self._waiting:
            self.now(self._waiting.popleft())

    def _result(
        self,
        error: KafkaError | None,
        answer: list[TopicPartition],
        offsets: list[OffsetCommit],
    ) -> list[OffsetCommit] | KafkaFailure:
        errors = {(p.topic, p.partition): p.error for p in answer if p.error is not None}
        for one in (error, *errors.values()):
            if one is not None and one.name() not in GONE:
                return _failure(one, offsets)
        if error is not None:  # that of them all
            committed = []
        else:
            committed = [o for o in offsets if (o.topic, o.partition) not in errors]
        self._note_gone({o.topic for o in offsets} - {o.topic for o in committed})
        return committed

    def _refused(
        self, error: Exception, offsets: list[OffsetCommit]
    ) -> list[OffsetCommit] | Exception:
        # A ValueError, say, for a NUL in the metadata: for the one who gave it.
        if isinstance(error, KafkaException):
            return self._result(error_of(error), [], offsets)
        return error

    def _note_gone(self, topics: set[str]) -> None:
        for topic in sorted(topics - self._gone):
            logger.warning("%s does not exist any more: nothing of it is committed", topic)
        self._gone |= topics


def _native(offsets: Sequence[OffsetCommit]) -> list[TopicPartition]:
    # Always with metadata: a commit without them erases those of the one before.
    return [TopicPartition(o.topic, o.partition, o.offset, o.metadata) for o in offsets]


def _failure(error: KafkaError, offsets: list[OffsetCommit]) -> KafkaFailure:
    what = ", ".join(f"{o.topic} [{o.partition}] at {o.offset}" for o in offsets[:3])
    more = f" and {len(offsets) - 3} more" if len(offsets) > 3 else ""
    return failure(error, f"committing {what}{more}")
