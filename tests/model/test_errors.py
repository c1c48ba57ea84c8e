"""The exceptions: their bases, and that they travel between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

import trio_broadway_kafka
from trio_broadway_kafka import BroadwayKafkaError, ConfigError, KafkaFailure


def test_every_exception_of_the_library_has_one_base() -> None:
    exceptions = [
        value
        for value in map(vars(trio_broadway_kafka).get, trio_broadway_kafka.__all__)
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(exceptions) == 7
    assert all(issubclass(exception, BroadwayKafkaError) for exception in exceptions)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("travel", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_kafka_failure_can_be_copied_and_pickled(travel: object) -> None:
    failure = KafkaFailure("away", code="_TRANSPORT", retriable=True)
    failure.add_note("a note")
    assert callable(travel)
    other = travel(failure)
    assert (str(other), other.code, other.retriable) == ("away", "_TRANSPORT", True)
    assert other.__notes__ == ["a note"]
