"""The message a handler gets: a thin view of the client's record."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from trio_broadway_kafka._model._errors import MessageFailed
from trio_broadway_kafka._model._output_record import Header, OutputRecord, output_record

if TYPE_CHECKING:
    from trio_broadway_kafka._kafka._client import RawMessage

__all__ = [
    "DEFAULT_ROUTE",
    "Message",
    "Prepared",
    "Retried",
    "Route",
    "Special",
    "messages_of",
]

_new = object.__new__

_NO_TIMESTAMP = 0  # confluent_kafka.TIMESTAMP_NOT_AVAILABLE

Route = tuple[str, Hashable, Literal["bulk", "flush"]]

DEFAULT_ROUTE: Route = ("default", None, "bulk")


class Special:
    """What few messages have: kept apart, so that all others pay one look for it.

    Attributes:
        failure: why the message failed, None while it has not.
        stage: where it failed, None for the stage that it is in.
        outputs: what is to leave with its acknowledgement.
    """

    __slots__ = ("failure", "outputs", "stage")

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.outputs: list[OutputRecord] = []
        self.stage: Literal["prepare_messages"] | None = None


class Message:
    """One record on its way through the pipeline.

    The record's own fields are read-only and read on demand: making the wrapper is the
    largest single cost of a message that nobody waits for, so it holds the client's
    record and copies nothing.

    Attributes:
        data: what the handlers make of the message; starts as `value`. Assign freely.
    """

    __slots__ = ("_raw", "_route", "_special", "data")

    # An annotation only: the slot stays empty, and `__getattr__` fills it when it is
    # asked for, so that a handler which does not read `data` does not pay for it.
    data: Any

    def __init__(self, raw: RawMessage) -> None:
        self._raw: RawMessage = raw
        self._special: Special | None = None
        # batcher, batch_key, batch_mode; None for the defaults: one look for all three.
        self._route: Route | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raw = self._raw
            if isinstance(raw, _Wrapped) and (prepared := self._prepared) is not None:
                value = prepared.data
            else:
                value = raw.value()
            self.data = value
            return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        # Never the key, the value or the headers: reprs end in logs.
        return f"<Message {self.topic}/{self.partition}@{self.offset}>"

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._raw.topic()

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self._raw.partition()

    @property
    def offset(self) -> int:
        """The record's position in its partition; a partition's offsets may have gaps."""
        return self._raw.offset()

    @property
    def key(self) -> bytes | None:
        """The record's key, None where it has none."""
        return self._raw.key()

    @property
    def value(self) -> bytes | None:
        """The record's value; None is a tombstone."""
        return self._raw.value()

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """The record's headers in order; a name may occur more than once."""
        return self._raw.headers() or []

    @property
    def timestamp(self) -> int | None:
        """Milliseconds since the epoch (the producer's or the broker's, as the topic's
        ``message.timestamp.type`` says), None where the record has none."""
        kind, milliseconds = self._raw.timestamp()
        return None if kind == _NO_TIMESTAMP else milliseconds

    @property
    def batcher(self) -> str:
        """The name of the batcher that gets it; ``"default"`` unless assigned."""
        return (self._route or DEFAULT_ROUTE)[0]

    @batcher.setter
    def batcher(self, name: str) -> None:
        _, key, mode = self._route or DEFAULT_ROUTE
        self._route = (name, key, mode)

    @property
    def batch_key(self) -> Hashable:
        """Messages with the same key share batches; None unless assigned."""
        return (self._route or DEFAULT_ROUTE)[1]

    @batch_key.setter
    def batch_key(self, key: Hashable) -> None:
        name, _, mode = self._route or DEFAULT_ROUTE
        self._route = (name, key, mode)

    @property
    def batch_mode(self) -> Literal["bulk", "flush"]:
        """``"bulk"`` unless assigned; with ``"flush"`` its batch leaves as soon as it is in
        it. Anything else is refused with a ValueError.
        """
        return (self._route or DEFAULT_ROUTE)[2]

    @batch_mode.setter
    def batch_mode(self, mode: Literal["bulk", "flush"]) -> None:
        if mode not in ("bulk", "flush"):
            raise ValueError(f"batch_mode must be 'bulk' or 'flush', not {mode!r}")
        name, key, _ = self._route or DEFAULT_ROUTE
        self._route = (name, key, mode)

    @property
    def attempt(self) -> int:
        """Which attempt this is at the stage that the message is in, from 1 (see `Retry`)."""
        return self._raw.attempt if isinstance(self._raw, Retried) else 1

    @property
    def _record(self) -> RawMessage:
        """What it is made of, whichever attempt this is."""
        return self._raw.record if isinstance(self._raw, Retried) else self._raw

    @property
    def _prepared(self) -> Message | None:
        """What ``prepare_messages`` made of it, None if that has not been."""
        record = self._record
        return record.message if isinstance(record, Prepared) else None

    def _again(self) -> Retried:
        """The record for the next attempt at the stage in which it has failed."""
        record = self._record
        if isinstance(record, Prepared) and record.message._failure is not None:
            record = record.record  # to be prepared anew
        return Retried(record, self.attempt + 1)

    @property
    def failure(self) -> BaseException | None:
        """Why the message failed, None while it has not."""
        return None if self._special is None else self._special.failure

    @property
    def _failure(self) -> BaseException | None:
        return None if self._special is None else self._special.failure

    @_failure.setter
    def _failure(self, failure: BaseException | None) -> None:
        if failure is not None or self._special is not None:
            self._make_special().failure = failure

    def _make_special(self) -> Special:
        if self._special is None:
            self._special = Special()
        return self._special

    def _fail_in_preparing(self, failure: BaseException) -> None:
        special = self._make_special()
        special.failure, special.stage = failure, "prepare_messages"

    @property
    def _outputs(self) -> Sequence[OutputRecord]:
        return () if self._special is None else self._special.outputs

    @_outputs.setter
    def _outputs(self, outputs: Sequence[OutputRecord]) -> None:
        if outputs or self._special is not None:
            self._make_special().outputs = [*outputs]

    def fail(self, reason: str | BaseException) -> None:
        """Mark the message as failed; it is settled by ``on_failure`` when its handler returns.

        Args:
            reason: a text, which becomes a `MessageFailed`, or an exception.
        """
        if isinstance(reason, str):
            reason = MessageFailed(reason)
        elif not isinstance(reason, BaseException):
            raise TypeError(
                f"message.fail() takes a text or an exception, not {type(reason).__name__}"
            )
        self._failure = reason

    def produce(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None = None,
        headers: Iterable[Header] = (),
        partition: int | None = None,
    ) -> None:
        """Produce a record that leaves with this message's acknowledgement. Never waits.

        The message counts as finished once it is acknowledged and Kafka has the record: its
        offset is committed only then. If the message fails, what it was to produce is dropped,
        but for what ``handle_failed`` adds. A delivery that fails never runs the handler
        again: it is tried until ``Output.delivery_timeout``, then the pipeline ends with a
        `KafkaFailure`.

        Args:
            topic: where to; not the pipeline's own.
            value: the record's value; None is a tombstone.
            key: the record's key, None for none.
            headers: pairs of a name and a value, in order.
            partition: None for the one that the key's hash picks, any without a key.

        Raises:
            TypeError: something is of the wrong type.
            ValueError: the topic has no name, or the partition is negative.
        """
        record = output_record(topic, value, key, headers, partition)
        self._make_special().outputs.append(record)


def messages_of(records: Iterable[RawMessage]) -> list[Message]:
    """The messages of these records: `Message` for each, a fifth faster."""
    # A call of a slotted class goes through its __init__ the slow way.
    made: list[Message] = []
    for record in records:
        message = _new(Message)
        message._raw = record
        message._special = message._route = None
        made.append(message)
    return made


class _Wrapped:
    """A record, and something besides: a `RawMessage`."""

    __slots__ = ("record",)

    def __init__(self, record: RawMessage) -> None:
        self.record: RawMessage = record

    def topic(self) -> str:
        return self.record.topic()

    def partition(self) -> int:
        return self.record.partition()

    def offset(self) -> int:
        return self.record.offset()

    def key(self) -> bytes | None:
        return self.record.key()

    def value(self) -> bytes | None:
        return self.record.value()

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self.record.headers()

    def timestamp(self) -> tuple[int, int]:
        return self.record.timestamp()


class Prepared(_Wrapped):
    """A record together with what ``prepare_messages`` made of it.

    Each message that is made of it starts from that.

    Attributes:
        message: the message that was prepared.
    """

    __slots__ = ("message",)

    def __init__(self, message: Message) -> None:
        super().__init__(message._raw)
        self.message = message


class Retried(_Wrapped):
    """A record, prepared or not, that is tried again.

    Attributes:
        attempt: which attempt comes next, from 2.
        is_last: whether somebody has asked that no more follow.
    """

    __slots__ = ("attempt", "is_last")

    def __init__(self, record: RawMessage, attempt: int) -> None:
        super().__init__(record)
        self.attempt = attempt
        self.is_last = False
