"""The failures that the next requests of a fake broker end in."""

from __future__ import annotations

from collections import deque
from typing import Literal, get_args

from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["Failures", "Operation", "checked"]

# What a real client tries again (`_kafka._translate`, which would load librdkafka).
RETRIABLE = frozenset({
    "_ALL_BROKERS_DOWN", "_IN_PROGRESS", "_NOENT", "_PREV_IN_PROGRESS", "_RESOLVE",
    "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_TRANSPORT", "_WAIT_COORD",
    "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "FENCED_LEADER_EPOCH",
    "ILLEGAL_GENERATION", "LEADER_NOT_AVAILABLE", "NETWORK_EXCEPTION", "NOT_COORDINATOR",
    "NOT_LEADER_FOR_PARTITION", "OFFSET_NOT_AVAILABLE", "REBALANCE_IN_PROGRESS",
    "REQUEST_TIMED_OUT", "STALE_MEMBER_EPOCH", "UNKNOWN_LEADER_EPOCH",
    "UNSTABLE_OFFSET_COMMIT",
})  # fmt: skip

Operation = Literal[
    "open",
    "fetch",
    "commit",
    "committed",
    "end_offsets",
    "offsets",
    "partitions",
    "subscribe",
    "produce",
    "transaction",
    "end_transaction",
    "close",
]


def checked(operation: Operation) -> Operation:
    """Raise ValueError for an operation that does not exist: it would never come due."""
    if operation not in get_args(Operation):
        raise ValueError(f"operation must be one of {get_args(Operation)}, not {operation!r}")
    return operation


class Failures:
    """What was told to fail, by operation; the first that comes takes the first."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._next: dict[Operation, deque[KafkaFailure]] = {}

    def add(self, operation: Operation, error: KafkaFailure | str, times: int) -> None:
        """Let the next requests of an operation fail: with an error, or Kafka's code for it."""
        if isinstance(error, str):
            error = KafkaFailure(
                f"{self._bootstrap} answered the {operation} with {error}",
                code=error,
                retriable=error in RETRIABLE,
            )
        # One exception raised twice would collect the tracebacks of both.
        self._next.setdefault(operation, deque()).extend(
            type(error)(str(error), code=error.code, retriable=error.retriable)
            for _ in range(times)
        )

    def next(self, operation: Operation) -> KafkaFailure | None:
        """The failure that the request being answered now shall end in."""
        failures = self._next.get(operation)
        return failures.popleft() if failures else None
