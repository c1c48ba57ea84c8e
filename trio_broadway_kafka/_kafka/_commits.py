"""Commits on the feeder thread: one at a time, answered whenever the broker answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition as Native

from trio_broadway_kafka._kafka._client import OffsetCommit, TopicPartition
from trio_broadway_kafka._kafka._translate import GONE, error_of, failure
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["Commit", "Commits", "Question", "ask_committed"]

ASKING_TIMEOUT: Final = 0.5
"""Seconds that `ask_committed` may take, in which nothing is polled; it takes 0.3 ms."""

Question = tuple[
    Sequence[TopicPartition],
    Callable[[dict[TopicPartition, int | None] | Exception], object],
]
"""Partitions that are asked about, and who is told."""


def ask_committed(consumer: Consumer, question: Question) -> None:
    """Ask for what the group has committed; None where it has not."""
    places, answer = question
    found: list[Native] = []
    try:
        found = consumer.committed([Native(*place) for place in places], timeout=ASKING_TIMEOUT)
        error = next((p.error for p in found if p.error is not None), None)
    except KafkaException as exception:
        error = error_of(exception)
    if error is not None:
        answer(failure(error, "asking for the group's committed offsets"))
    else:
        offsets = [p.offset if p.offset >= 0 else None for p in found]
        answer(dict(zip(places, offsets, strict=True)))


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


def _by_topic(commit: Commit, offsets: Sequence[OffsetCommit]) -> list[Commit]:
    """A commit for each topic of `offsets`, which together answer `commit`."""
    topics: dict[str, list[OffsetCommit]] = {}
    for offset in offsets:
        topics.setdefault(offset.topic, []).append(offset)
    committed: list[OffsetCommit] = []
    left = len(topics)

    def answered(result: Sequence[OffsetCommit] | Exception) -> None:
        nonlocal left
        left -= 1
        if isinstance(result, Exception):
            commit.answer(result)
        else:
            committed.extend(result)
        if not left:
            commit.answer(committed)

    return [Commit(of_topic, answered) for of_topic in topics.values()]


class Commits:
    """A queue of commits, of which at most one is on its way.

    librdkafka may hold a commit back and try it again after a later one has succeeded,
    which would leave the older offset committed. One at a time can't overtake, and
    makes it plain which commit an answer belongs to.

    Args:
        live: those of some offsets whose epoch has not ended.
        gone: told of a topic that was deleted.
        done: told of what was committed.
    """

    def __init__(
        self,
        consumer: Consumer,
        live: Callable[[Sequence[OffsetCommit]], list[OffsetCommit]],
        gone: Callable[[str], None],
        done: Callable[[Sequence[OffsetCommit]], None],
    ) -> None:
        self._consumer = consumer
        self._live = live
        self._gone = gone
        self._done = done
        self._waiting: deque[Commit] = deque()
        self._sent: Commit | None = None
        self._sent_offsets: list[OffsetCommit] = []

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
                self._settle(commit, offsets, _refused(error, offsets))

    def on_commit(self, error: KafkaError | None, partitions: list[Native]) -> None:
        """Take the broker's answer (the ``on_commit`` of confluent-kafka)."""
        commit, offsets = self._sent, self._sent_offsets
        self._sent = None
        if commit is not None:
            self._settle(commit, offsets, _result(error, partitions, offsets))
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
            result: list[OffsetCommit] | Exception = _refused(error, offsets)
        else:
            result = _result(None, answer, offsets)
        for part in self._answer(commit, offsets, result):
            self.now(part)

    def _settle(
        self,
        commit: Commit,
        offsets: list[OffsetCommit],
        result: list[OffsetCommit] | Exception,
    ) -> None:
        self._waiting.extendleft(reversed(self._answer(commit, offsets, result)))

    def _answer(
        self,
        commit: Commit,
        offsets: list[OffsetCommit],
        result: list[OffsetCommit] | Exception,
    ) -> list[Commit]:
        """Answer, or return what is to be committed in its place.

        When one topic of several was deleted, librdkafka reports the error for them all,
        though the others' offsets were committed.
        """
        if not isinstance(result, Exception):
            self._done(result)
        if not (isinstance(result, KafkaFailure) and result.code in GONE):
            commit.answer(result)
            return []
        parts = _by_topic(commit, offsets)
        if len(parts) > 1:
            return parts
        self._gone(offsets[0].topic)
        commit.answer([])
        return []

    def all_now(self) -> None:
        """Answer everything outstanding before a rebalance is waited for.

        The answer to the one on its way would come after the rebalance, which may be
        waiting for it: the same offsets are committed again, for the answer.
        """
        if self._sent is not None:
            self.now(self._sent)
        while self._waiting:
            self.now(self._waiting.popleft())


def _native(offsets: Sequence[OffsetCommit]) -> list[Native]:
    # Always with metadata: a commit without them erases those of the one before.
    return [Native(o.topic, o.partition, o.offset, o.metadata) for o in offsets]


def _result(
    error: KafkaError | None, answer: list[Native], offsets: list[OffsetCommit]
) -> list[OffsetCommit] | KafkaFailure:
    error = error or next((p.error for p in answer if p.error is not None), None)
    return offsets if error is None else _failure(error, offsets)


def _refused(error: Exception, offsets: list[OffsetCommit]) -> Exception:
    # A ValueError, say, for a NUL in the metadata: for the one who gave it.
    if isinstance(error, KafkaException):
        return _failure(error_of(error), offsets)
    return error


def _failure(error: KafkaError, offsets: list[OffsetCommit]) -> KafkaFailure:
    what = ", ".join(f"{o.topic} [{o.partition}] at {o.offset}" for o in offsets[:3])
    more = f" and {len(offsets) - 3} more" if len(offsets) > 3 else ""
    return failure(error, f"committing {what}{more}")
