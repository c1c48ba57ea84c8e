"""Which topics a subscription means now: asked by a client that does not consume.

Patterns are resolved here, not by librdkafka or the broker: under KIP-848 one that matches
nothing yet, or a topic that is made later, is not found for minutes, and in classic groups only
when the metadata are refreshed (every 5 minutes).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from trio_broadway_kafka._kafka._admin import Admin, unknown_topics
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._reports import logger
from trio_broadway_kafka._kafka._translate import GONE, error_of, failure, is_retriable
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._topics import is_pattern, matching

__all__ = ["SLICE", "Topics", "changes"]

SLICE: Final = 0.5
"""Seconds of one question, so that being given up is noticed."""

GRACE: Final = 0.5
"""Seconds in which a topic that was just made may be unknown to the broker we ask."""


ID_TIMEOUT: Final = 1.0
"""Seconds in which nothing else is done; it takes a millisecond or two."""


class Topics:
    """Blocks: to be called in a thread, not the feeder's."""

    def __init__(self, config: ClientConfig, admin: Admin) -> None:
        self._config = config
        self._admin = admin

    def matching(self, topics: Iterable[str]) -> list[str]:
        """The names that `topics` stand for now. Takes `SLICE` seconds at most.

        Raises:
            KafkaFailure: no broker answered.
        """
        topics = list(topics)
        if not any(map(is_pattern, topics)):
            return matching(topics, ())
        return matching(topics, self._existing())

    def partitions(self, topics: Iterable[str]) -> list[TopicPartition]:
        """The partitions of these topics now. Takes `SLICE` seconds at most.

        Raises:
            KafkaFailure: no broker answered.
        """
        found = self._existing()
        return [
            TopicPartition(name, partition)
            for name in matching(topics, found)
            for partition in sorted(found.get(name, ()))
        ]

    def _existing(self) -> dict[str, list[int]]:
        """All topics, with their partitions."""
        try:
            metadata = self._admin.connect().list_topics(timeout=SLICE)
        except KafkaException as error:
            where = f"asking Kafka at {self._config.address} for its topics"
            raise failure(error_of(error), where) from None
        return {n: list(t.partitions) for n, t in metadata.topics.items() if t.error is None}

    def gone(self, topics: Iterable[str]) -> set[str]:
        """The named ones that do not exist. Takes `SLICE` seconds at most."""
        names = [topic for topic in topics if not is_pattern(topic)]
        if not names:
            return set()
        answers = self._admin.look_up(names, SLICE).items()
        return {name for name, error in answers if error is not None and error.name() in GONE}

    def ids(self, names: Collection[str]) -> dict[str, str]:
        """The ids of topics, as far as Kafka tells within `ID_TIMEOUT` seconds, or has told
        before. Logs what could not be had: without it nothing is lost, but what was finished
        out of order is handled again.
        """
        if not names:
            return {}
        refused: object = None
        try:
            for answer in self._admin.describe(names, ID_TIMEOUT).values():
                refused = refused if isinstance(answer, str) else answer
        except (KafkaFailure, RuntimeError) as error:  # closed meanwhile
            refused = error
        known = self._admin.topic_ids
        ids = {name: known[name] for name in names if name in known}
        if len(ids) < len(names):
            _warn_of_ids([name for name in names if name not in ids], refused)
        return ids

    def require(
        self,
        topics: Iterable[str],
        *,
        create: bool,
        timeout: float,
        given_up: Callable[[], bool],
    ) -> None:
        """Return once the named ones among `topics` exist.

        Args:
            topics: names and patterns.
            create: make those that don't.
            timeout: seconds, for all of it.
            given_up: whether nobody waits any more.

        Raises:
            KafkaFailure: one does not exist, Kafka refused, or did not answer in time.
        """
        until = time.monotonic() + timeout
        missing = [topic for topic in topics if not is_pattern(topic)]
        unknown_until: float | None = None
        while missing and not given_up():
            left = until - time.monotonic()
            unknown: list[str] = []
            trouble: KafkaError | None = None
            for topic, error in self._admin.look_up(missing, SLICE).items():
                if error is None:
                    missing.remove(topic)
                elif error.name() in GONE:
                    unknown.append(topic)
                elif is_retriable(error) and left > 0:
                    trouble = error
                else:
                    where = f"looking up topic {topic!r} at {self._config.address}"
                    raise failure(error, where)
            if unknown and trouble is None and unknown_until is None:
                if self._config.creates_topics and not create:
                    return  # the broker makes them when they are subscribed to
                unknown_until = until if create else min(time.monotonic() + GRACE, until)
                if create:
                    self._admin.create_topics(unknown, max(left, SLICE))
            if unknown and unknown_until is not None and time.monotonic() >= unknown_until:
                raise unknown_topics(unknown, self._config.address)
            if missing:
                time.sleep(0.05)


def _warn_of_ids(names: Iterable[str], error: object) -> None:
    listed = ", ".join(sorted(names))
    logger.warning(
        "the id of %s is not known, so what is finished out of order there is handled again "
        "after a restart: %s",
        listed,
        error,
    )


def changes(before: Sequence[str], after: Sequence[str]) -> str:
    """What is new and what is gone, for a log line."""
    found = [f"+{name}" for name in after if name not in before]
    return " ".join([*found, *(f"-{name}" for name in before if name not in after)])
