"""The exceptions that leave the library, and whose fault each one is."""

from __future__ import annotations

from functools import partial

__all__ = [
    "BroadwayKafkaError",
    "ConfigError",
    "DeadLetterFailed",
    "FencedError",
    "KafkaFailure",
    "MessageFailed",
    "PipelineBug",
]


class BroadwayKafkaError(Exception):
    """Base of every exception that this library defines."""


class ConfigError(BroadwayKafkaError, ValueError):
    """An option is missing, misspelt or contradicts another: the caller's to mend.

    Raised before anything is read from Kafka, so nothing is lost or committed.
    """


class MessageFailed(BroadwayKafkaError):
    """A handler called ``message.fail("reason")``: the message's or the handler's fault."""


class KafkaFailure(BroadwayKafkaError):
    """Kafka, or the way to it, failed: the broker's, the network's or its operator's fault.

    Args:
        text: what was wrong, where (address, topic, partition), and what to do.
        code: Kafka's or librdkafka's name of the error, such as
            ``"UNKNOWN_TOPIC_OR_PART"`` or ``"_TRANSPORT"``
            (https://kafka.apache.org/protocol#protocol_error_codes).
        retriable: whether the same request may succeed when it is tried again.
    """

    def __init__(self, text: str, *, code: str, retriable: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.retriable = retriable

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class without its keywords.
        make = partial(type(self), *self.args, code=self.code, retriable=self.retriable)
        return make, (), self.__dict__


class FencedError(KafkaFailure):
    """Another process has taken over the ``transactional_id``: the fault of who gave the same
    one to two processes. Each needs one of its own, and the same one after a restart: such as
    the name of the group with the number of the instance.
    """


class DeadLetterFailed(KafkaFailure):
    """A dead letter was not delivered within ``Output.delivery_timeout``: the fault of Kafka,
    or of who named the dead-letter topic. The message is not acknowledged.
    """


class PipelineBug(BroadwayKafkaError):
    """An invariant of this library does not hold: our fault. Please report it."""
