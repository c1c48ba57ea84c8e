"""Partitions about which Kafka has been asked and has not answered: they wait."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, TopicPartition as Native

from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._translate import PASSING, failure, is_retriable

__all__ = ["Waiting"]


class Waiting:
    """What waits, and when to ask again.

    Args:
        again: seconds between two tries.

    Attributes:
        partitions: each with what is known of it, such as its committed offset.
    """

    def __init__(self, reports: Reports, again: float) -> None:
        self.partitions: dict[TopicPartition, Native] = {}
        self._reports = reports
        self._again = again
        self._again_at = 0.0
        self._has_complained = False

    def forget(self, partitions: Iterable[Native]) -> None:
        """These are not ours any more."""
        for p in partitions:
            self.partitions.pop(TopicPartition(p.topic, p.partition), None)

    def is_due(self) -> bool:
        """Whether what waits is to be asked for again."""
        return bool(self.partitions) and time.monotonic() >= self._again_at

    def asked(self) -> None:
        """Kafka was asked; what it told of does not wait any more."""
        self._again_at = time.monotonic() + self._again
        if not self.partitions:
            self._has_complained = False

    def complain(self, error: KafkaError, doing: str) -> None:
        """Log once what holds them up; if it can't pass, the client fails."""
        trouble = failure(error, doing)
        if not is_retriable(error) and error.name() not in PASSING:
            self._reports.fail(trouble)
        elif not self._has_complained:
            self._has_complained = True
            logger.warning("%s; trying again, nothing is read there until then", trouble)
