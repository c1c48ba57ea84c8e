"""librdkafka's keys for a producer: those of the pipeline's connection, the user's, ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Producer

from trio_broadway_kafka._kafka._config import CALLBACKS, ClientConfig, Silence, check_entry
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._output import Output

__all__ = ["producer_keys"]

OWNED: Final = {
    "transactional.id": "give Output(transactional_id=...)",
    "transaction.timeout.ms": "it follows from Output(delivery_timeout=...)",
    "message.timeout.ms": "give Output(delivery_timeout=...)",
    "delivery.timeout.ms": "give Output(delivery_timeout=...)",
    "topic.metadata.propagation.max.ms": "give Output(delivery_timeout=...)",
    "enable.idempotence": "what is sent again must neither repeat nor change places",
    "acks": "an offset is committed only when all replicas have its outputs",
    "request.required.acks": "an offset is committed only when all replicas have its outputs",
    "on_delivery": "the delivery reports say which messages are finished",
    "dr_cb": "the delivery reports say which messages are finished",
    "dr_msg_cb": "the delivery reports say which messages are finished",
    "delivery.report.only.error": "the delivery reports say which messages are finished",
    "group.id": "a producer has no group",
}
"""Keys that the library sets itself, and what to do instead, or why."""

DEFAULTS: Final[dict[str, object]] = {
    # Measured (100,000 records of 100 bytes; one at a time): 0 takes 1.03 s and 1.3 ms, 1
    # takes 0.37 s and 1.8 ms, librdkafka's 5 takes 0.23 s and 6 ms.
    "linger.ms": 1,
}


MISSING: Final = 5_000
"""Milliseconds that a transaction waits for a missing topic."""


def producer_keys(config: ClientConfig, output: Output) -> dict[str, Any]:
    """The keys for a producer, without callbacks and logger.

    Raises:
        ConfigError: a key is unknown, owned by the library, or its value is refused.
    """
    for key, value in output.kafka.items():
        check_entry(key, value)
        if key in OWNED:
            raise ConfigError(f"Output.kafka[{key!r}] is set by this library: {OWNED[key]}")
        if key in CALLBACKS or key == "logger":
            raise ConfigError(f"give {key!r} in kafka: the producer's reports go there too")
    config.keep_secret(output.kafka)
    milliseconds = round(output.delivery_timeout * 1000)
    keys: dict[str, Any] = {
        **DEFAULTS,
        **config.connection,
        **output.kafka,
        "enable.idempotence": True,
        "message.timeout.ms": milliseconds,
        # So long a missing topic is waited for, in order: it may be made meanwhile.
        "topic.metadata.propagation.max.ms": min(milliseconds, 3_600_000),
    }
    if output.transactional_id is not None:
        # There it aborts the transaction, which is then tried again as a whole.
        keys["topic.metadata.propagation.max.ms"] = min(milliseconds // 2, MISSING)
        keys["transactional.id"] = output.transactional_id
        # librdkafka wants it to be no less than the time a message has.
        keys["transaction.timeout.ms"] = max(60_000, milliseconds)
    if (error := _refused(keys)) is not None:
        text = config.refusal(error, keys, given="Output.kafka", kind="producer")
        # librdkafka may know a key by another name than it was given by.
        culprits = [key for key in output.kafka if _refused({key: output.kafka[key]})]
        if culprits and not any(culprit in text for culprit in culprits):
            text = f"Output.kafka[{culprits[0]!r}]: {text}"
        raise ConfigError(text) from None
    return keys


def _refused(keys: Mapping[str, Any]) -> Exception | None:
    """What librdkafka has against these keys and values."""
    # Without an address it judges them and connects to nothing.
    left_out = (
        "bootstrap.servers",
        "metadata.broker.list",
        "test.mock.num.brokers",
        "sasl.oauthbearer.method",
    )
    probe = {key: value for key, value in keys.items() if key not in left_out}
    try:
        Producer({**probe, "logger": Silence()})
    except Exception as error:
        return error
    return None
