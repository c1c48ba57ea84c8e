"""What an answer to a commit means: all of it, a part, or nothing was committed."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from trio_broadway_kafka import KafkaFailure
from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._commits import Commit, Commits

HERE = OffsetCommit("here", 0, 1, 5)
GONE = OffsetCommit("gone", 0, 1, 7)
DELETED = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
NOT_ALLOWED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)


def answered(**errors: KafkaError) -> list[Any]:
    """The broker's answer for both partitions."""
    return [
        SimpleNamespace(topic=one.topic, partition=one.partition, error=errors.get(one.topic))
        for one in (HERE, GONE)
    ]


class StubConsumer:
    """Answers a synchronous commit with a list, or raises."""

    def __init__(self, answer: list[Any] | Exception) -> None:
        self.answer = answer

    def commit(self, offsets: object, asynchronous: bool) -> list[Any] | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return None if asynchronous else self.answer


def commit(answer: list[Any] | Exception, error: KafkaError | None, *, now: bool) -> Any:
    """What is told of a commit of both."""
    told: list[Any] = []
    commits = Commits(cast(Consumer, StubConsumer(answer)), list)
    one = Commit((HERE, GONE), told.append)
    if now:
        commits.now(one)
    else:
        commits.submit(one)
        commits.pump()
        commits.on_commit(error, answer)  # type: ignore[arg-type]
    (result,) = told
    return result


@pytest.mark.parametrize("now", [False, True], ids=["asynchronous", "within a rebalance"])
def test_of_a_topic_that_was_deleted_nothing_is_committed_and_the_others_are(
    now: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert commit(answered(), None, now=now) == [HERE, GONE]
    assert commit(answered(gone=DELETED), None, now=now) == [HERE]
    assert caplog.record_tuples == [
        (
            "trio_broadway_kafka",
            logging.WARNING,
            "gone does not exist any more: nothing of it is committed",
        )
    ]


def test_an_answer_that_all_topics_were_deleted_is_no_failure() -> None:
    assert commit(answered(here=DELETED, gone=DELETED), DELETED, now=False) == []
    assert commit(KafkaException(DELETED), None, now=True) == []


def test_a_deleted_topic_does_not_hide_what_is_wrong_with_another() -> None:
    for now in (False, True):
        failure = commit(answered(gone=DELETED, here=NOT_ALLOWED), None, now=now)
        assert isinstance(failure, KafkaFailure)
        assert failure.code == "TOPIC_AUTHORIZATION_FAILED"


def test_it_is_said_once_that_a_topic_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    commits = Commits(cast(Consumer, StubConsumer(answered(gone=DELETED))), list)
    for _ in range(3):
        commits.now(Commit((HERE, GONE), lambda _: None))
    assert len(caplog.records) == 1
