"""The ids of topics: what Kafka tells, or has told before."""

from __future__ import annotations

from typing import cast

import pytest
from confluent_kafka import KafkaError

from trio_broadway_kafka._kafka._admin import Admin
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._topics import Topics
from trio_broadway_kafka._model._errors import KafkaFailure

CONFIG = ClientConfig({"bootstrap.servers": "127.0.0.1:1", "group.id": "group"})


class StubAdmin:
    """Answers as it is told, and remembers ids as `Admin` does."""

    def __init__(self) -> None:
        self.topic_ids: dict[str, str] = {}
        self.answer: dict[str, str | KafkaError] | Exception = {}

    def describe(self, names: set[str], timeout: float) -> dict[str, str | KafkaError]:
        if isinstance(self.answer, Exception):
            raise self.answer
        for name, answer in self.answer.items():
            if isinstance(answer, str):
                self.topic_ids[name] = answer
        return self.answer


@pytest.fixture
def admin() -> StubAdmin:
    return StubAdmin()


@pytest.fixture
def topics(admin: StubAdmin) -> Topics:
    return Topics(CONFIG, cast(Admin, admin))


def test_they_are_as_they_were_told_last(admin: StubAdmin, topics: Topics) -> None:
    assert topics.ids(set()) == {}
    admin.answer = {"a": "1", "b": "2"}
    assert topics.ids({"a", "b"}) == {"a": "1", "b": "2"}
    admin.answer = {"a": "3"}
    assert topics.ids({"a"}) == {"a": "3"}


@pytest.mark.parametrize(
    "refused",
    [
        {"a": KafkaError(KafkaError._TIMED_OUT)},
        KafkaFailure("away", code="_TRANSPORT", retriable=True),
        RuntimeError("closed"),
    ],
)
def test_what_is_not_told_now_is_as_it_was_told_before_or_missing_and_logged(
    admin: StubAdmin,
    topics: Topics,
    refused: dict[str, str | KafkaError] | Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    admin.answer = refused
    assert topics.ids({"a"}) == {}
    assert "the id of a is not known" in caplog.text
    caplog.clear()
    admin.topic_ids["a"] = "1"
    assert topics.ids({"a"}) == {"a": "1"}
    assert caplog.text == ""
