"""Opening: a consumer whose broker has answered and whose topics exist. Blocks; in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._topics import SLICE, Topics
from trio_broadway_kafka._kafka._translate import OUTAGE, error_of, failure
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._topics import is_pattern, matching

__all__ = ["Opening"]


class Opening:
    """Connects within ``open_timeout``, before anything is subscribed.

    Once subscribed nobody would say what is wrong: for an unknown topic KIP-848 groups
    are silent, and without a broker only ``error_cb`` hears of it.

    Args:
        given_up: whether nobody waits any more.

    Attributes:
        names: what the session's topics stood for then.
    """

    def __init__(
        self,
        config: ClientConfig,
        session: Session,
        reports: Reports,
        topics: Topics,
        given_up: Callable[[], bool],
    ) -> None:
        self._config = config
        self._session = session
        self._reports = reports
        self._topics = topics
        self._given_up = given_up
        self.names: list[str] = matching(session.topics, ())
        self._until = time.monotonic() + session.open_timeout

    def consumer(self, **callbacks: Any) -> Consumer | None:
        """Return the consumer, None if given up.

        Raises:
            KafkaFailure: no broker answered, it refused, or a named topic does not exist.
        """
        consumer = self._make(callbacks)
        try:
            if self._wait_for_topics(consumer) and not self._given_up():
                if self._reports.failed is not None:
                    raise self._reports.failed
                self._reports.well()
                self._reports.opened = True
                return consumer
            consumer.close()
            return None
        except BaseException:
            consumer.close()
            raise

    def _make(self, callbacks: dict[str, Any]) -> Consumer:
        keys = {**self._config.consumer, **self._reports.callbacks(), **callbacks}
        doing = f"connecting to {self._config.address}"
        try:
            return Consumer(keys)
        except Exception as error:
            # With an oauth_cb it waits for the first token, for up to 10 s, and raises
            # KafkaException or SystemError.
            cause = self._reports.token_error
            if cause is not None:
                text = self._config.hide(f"{doing}: the oauth_cb gave no token: {cause}")
                raise KafkaFailure(text, code="_AUTHENTICATION", retriable=True) from cause
            if isinstance(error, KafkaException):
                raise failure(error_of(error), doing) from None
            raise

    def _wait_for_topics(self, consumer: Consumer) -> bool:
        """Wait for an answer and for the named topics; whether nobody gave up meanwhile."""
        topics = self._session.topics
        patterns = any(map(is_pattern, topics))
        # Asked through the consumer, whose error_cb says what is wrong on the way to Kafka.
        metadata = self._ask(consumer, None if patterns else topics[0])
        if metadata is None:
            return False
        if patterns:
            existing = [name for name, topic in metadata.topics.items() if topic.error is None]
            self.names = matching(topics, existing)
        self._topics.require(
            topics,
            create=self._session.create_topics,
            timeout=self._left(),
            given_up=self._given_up,
        )
        return True

    def _ask(self, consumer: Consumer, topic: str | None) -> Any:
        """Return the metadata of a topic, or of all; None if given up."""
        while not self._given_up():
            timeout = min(SLICE, max(self._left(), 0.01))
            try:
                if topic is None:
                    return consumer.list_topics(timeout=timeout)
                return consumer.list_topics(topic, timeout=timeout)
            except KafkaException as error:
                last = error_of(error)
            # Only polling lets error_cb be called, which knows the reason.
            consumer.poll(0)
            if self._reports.failed is not None:
                raise self._reports.failed
            refusal = self._reports.refusal()
            if refusal is not None:
                raise refusal
            if last.name() not in OUTAGE:
                raise failure(last, f"asking Kafka at {self._config.address} for its topics")
            if self._left() <= 0:
                raise self._unreachable(last)
        return None

    def _left(self) -> float:
        return self._until - time.monotonic()

    def _unreachable(self, last: KafkaError) -> KafkaFailure:
        reason = self._reports.trouble or last
        return KafkaFailure(
            f"no broker answered at {self._config.address} within"
            f" open_timeout={self._session.open_timeout:g} s:"
            f" {self._config.hide(reason.str())} ({reason.name()}). Check"
            ' kafka["bootstrap.servers"], security.protocol, and that the broker runs',
            code=reason.name(),
            retriable=True,
        )
