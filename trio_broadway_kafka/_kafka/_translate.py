"""Errors of librdkafka as `KafkaFailure`, and which of them may pass or never will."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = [
    "DAMAGED",
    "DEADLY",
    "FENCED",
    "GONE",
    "OUTAGE",
    "PASSING",
    "REFUSED",
    "error_of",
    "failure",
    "is_retriable",
]

OUTAGE: Final = frozenset({
    "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_TRANSPORT",
    "_WAIT_COORD", "NETWORK_EXCEPTION", "REQUEST_TIMED_OUT",
})  # fmt: skip
"""The broker or the way to it is away: waited out."""

REFUSED: Final = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "_SSL"})
"""The broker answered and did not let us in."""

DAMAGED: Final = frozenset({"_BAD_COMPRESSION", "_BAD_MSG"})
"""Records can't be read. librdkafka would pass over them, and all that it reads later."""

DEADLY: Final = DAMAGED | frozenset({
    "_AUTO_OFFSET_RESET", "_FATAL", "CLUSTER_AUTHORIZATION_FAILED", "FENCED_INSTANCE_ID",
    "GROUP_AUTHORIZATION_FAILED", "GROUP_MAX_SIZE_REACHED", "INCONSISTENT_GROUP_PROTOCOL",
    "INVALID_GROUP_ID", "INVALID_REGULAR_EXPRESSION", "INVALID_SESSION_TIMEOUT",
    "TOPIC_AUTHORIZATION_FAILED", "UNRELEASED_INSTANCE_ID", "UNSUPPORTED_ASSIGNOR",
    "UNSUPPORTED_VERSION",
})  # fmt: skip
"""Reading can't go on until somebody changes something outside.

``_FATAL`` is named here because of a message's fatal error only the name tells: its
``fatal()`` is False.
"""

GONE: Final = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"})
"""The topic was deleted, as a rebalance will say; or the broker does not know it yet."""

_RETRIABLE: Final = OUTAGE | frozenset({
    "_IN_PROGRESS", "_PREV_IN_PROGRESS", "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE", "LEADER_NOT_AVAILABLE", "NOT_COORDINATOR",
    "NOT_LEADER_FOR_PARTITION", "OFFSET_NOT_AVAILABLE", "UNSTABLE_OFFSET_COMMIT",
    # A topic that was made just now.
    "_NOENT", "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH",
    # A poll lets the client catch up with its group; then the same commit succeeds.
    "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "STALE_MEMBER_EPOCH",
})  # fmt: skip

FENCED: Final = frozenset(
    {"_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "TRANSACTION_COORDINATOR_FENCED"}
)
"""Another producer has taken the ``transactional_id``."""

PASSING: Final = GONE | frozenset({
    "_CONFLICT", "_INCONSISTENT", "_PURGE_INFLIGHT", "_PURGE_QUEUE", "_STATE",
    "CONCURRENT_TRANSACTIONS", "DUPLICATE_SEQUENCE_NUMBER", "FENCED_INSTANCE_ID",
    "FENCED_MEMBER_EPOCH", "INVALID_PRODUCER_EPOCH", "INVALID_PRODUCER_ID_MAPPING",
    "INVALID_TXN_STATE", "KAFKA_STORAGE_ERROR", "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "TRANSACTION_ABORTABLE", "UNKNOWN_MEMBER_ID", "UNKNOWN_PRODUCER_ID",
})  # fmt: skip
"""After an abort the same transaction may succeed, as after what `is_retriable`: the group has
moved on, or what the producer and a broker know of each other has parted (seen after kills:
OUT_OF_ORDER_SEQUENCE_NUMBER). Who is fenced is told so by the next transaction.
"""


def is_retriable(error: KafkaError) -> bool:
    """Whether the same request may succeed later.

    ``KafkaError.retriable()`` is only set by librdkafka's newer calls: for what a commit
    or a query returns it is always False, so the names decide
    (https://kafka.apache.org/protocol#protocol_error_codes).
    """
    return error.retriable() or error.name() in _RETRIABLE


def failure(error: KafkaError, doing: str, hint: str = "") -> KafkaFailure:
    """Describe `error`, met while `doing`; with a `hint` what to do."""
    text = f"{doing}: {error.str()} ({error.name()}){hint}"
    return KafkaFailure(text, code=error.name(), retriable=is_retriable(error))


def error_of(exception: KafkaException) -> KafkaError:
    """The `KafkaError` that a `KafkaException` carries as its only argument."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error
