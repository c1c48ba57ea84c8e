"""What the consumer is subscribed to, and joining its group, on the feeder's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException

from trio_broadway_kafka._kafka._translate import error_of, failure

__all__ = ["Membership", "Subscription"]

JOINING: Final = 0.5
"""Seconds that closing waits for a join that is under way."""

Subscription = tuple[Sequence[str], Callable[[Exception | None], object]]
"""Names of topics, and who is told that they are subscribed to, or why not."""


class Membership:
    """Subscribes to names; the patterns among a pipeline's topics are resolved elsewhere.

    Args:
        callbacks: the rebalance callbacks of ``Consumer.subscribe``, by their names there.
        classic: whether this is the older of the two group protocols.

    Attributes:
        has_joined: whether the group has assigned anything yet, be it nothing.
    """

    def __init__(
        self,
        consumer: Consumer,
        callbacks: Mapping[str, Callable[..., Any]],
        *,
        classic: bool,
    ) -> None:
        self.has_joined = False
        self._consumer = consumer
        self._callbacks = callbacks
        self._classic = classic
        self._topics: list[str] = []
        self._next: Subscription | None = None

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these in place of those before. With none the group is left, or not joined."""
        before, self._topics = self._topics, list(topics)
        kept = [topic for topic in before if topic in topics]
        if self._classic and len(kept) < len(before):
            # Both in one call, librdkafka waits for the metadata of what is new, and then
            # takes what is left for deleted: lost, instead of revoked.
            self._set(before, kept)
            self._set(kept, self._topics)
        else:
            self._set(before, self._topics)

    def _set(self, before: list[str], topics: list[str]) -> None:
        if topics == before:
            return
        if topics:
            self._consumer.subscribe(topics, **self._callbacks)
        else:
            self._consumer.unsubscribe()

    def change(self, subscription: Subscription) -> None:
        """Note a change, for `settle`: a revoke may be under way, and must not be disturbed."""
        self._next = subscription

    def settle(self) -> None:
        """Subscribe to what was noted last."""
        if self._next is None:
            return
        (topics, answer), self._next = self._next, None
        before = self._topics
        try:
            self.subscribe(topics)
        except KafkaException as error:
            self.subscribe(before)
            answer(failure(error_of(error), f"subscribing to {', '.join(topics)}"))
        else:
            answer(None)

    def finish_joining(self) -> None:
        """Wait a little for the first assignment, if it is still to come.

        A member that closes while its request to join is under way leaves without a
        LeaveGroup, and the broker keeps it, with partitions, until its session expires.
        """
        deadline = time.monotonic() + JOINING
        while self._topics and not self.has_joined and time.monotonic() < deadline:
            self._consumer.poll(0.02)
