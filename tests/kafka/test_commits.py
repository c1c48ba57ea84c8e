"""What an answer to a commit means: all of it, a part, or nothing was committed."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from trio_broadway_kafka import KafkaFailure
from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._commits import Commit, Commits

HERE = OffsetCommit("here", 0, 1, 5)
GONE = OffsetCommit("gone", 0, 1, 7)
DELETED = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
NOT_ALLOWED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)


class StubConsumer:
    """Refuses a commit as a whole for one of its topics, as librdkafka does."""

    def __init__(self, **errors: KafkaError) -> None:
        self.errors = errors
        self.sent: list[list[str]] = []

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> Any:
        self.sent.append([offset.topic for offset in offsets])
        error = self.error()
        if asynchronous:
            return None
        if error is not None:
            raise KafkaException(error)
        return offsets

    def error(self) -> KafkaError | None:
        found = (self.errors.get(topic) for topic in self.sent[-1])
        return next((error for error in found if error is not None), None)


def commit(consumer: StubConsumer, *, now: bool) -> tuple[Any, list[str]]:
    """What is told of a commit of both, and the topics that are said to be gone."""
    told: list[Any] = []
    gone: list[str] = []
    done: list[OffsetCommit] = []
    commits = Commits(cast(Consumer, consumer), list, gone.append, done.extend)
    one = Commit((HERE, GONE), told.append)
    if now:
        commits.now(one)
    else:
        commits.submit(one)
        commits.pump()
        while commits:
            commits.on_commit(consumer.error(), [])
    (result,) = told
    assert done == ([] if isinstance(result, Exception) else result)
    return result, gone


all_ways = pytest.mark.parametrize("now", [False, True], ids=["asynchronous", "in a rebalance"])


@all_ways
def test_all_of_it_is_committed_in_one_go(now: bool) -> None:
    consumer = StubConsumer()
    assert commit(consumer, now=now) == ([HERE, GONE], [])
    assert consumer.sent == [["here", "gone"]]


@all_ways
def test_of_a_topic_that_was_deleted_nothing_is_committed_and_the_others_are(
    now: bool,
) -> None:
    consumer = StubConsumer(gone=DELETED)
    assert commit(consumer, now=now) == ([HERE], ["gone"])
    assert consumer.sent == [["here", "gone"], ["here"], ["gone"]]


@all_ways
def test_that_all_topics_were_deleted_is_no_failure(now: bool) -> None:
    consumer = StubConsumer(gone=DELETED, here=DELETED)
    assert commit(consumer, now=now) == ([], ["here", "gone"])


@all_ways
def test_a_deleted_topic_does_not_hide_what_is_wrong_with_another(now: bool) -> None:
    consumer = StubConsumer(gone=DELETED, here=NOT_ALLOWED)
    failure, _ = commit(consumer, now=now)
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "TOPIC_AUTHORIZATION_FAILED"
