"""The message a handler gets: a thin view of the client's record."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from trio_broadway_kafka._model._errors import MessageFailed

if TYPE_CHECKING:
    from trio_broadway_kafka._kafka._client import RawMessage

__all__ = ["DEFAULT_ROUTE", "Message", "Prepared", "messages_of"]

_new = object.__new__

_NO_TIMESTAMP = 0  # confluent_kafka.TIMESTAMP_NOT_AVAILABLE

Route = tuple[str, Hashable, Literal["bulk", "flush"]]

DEFAULT_ROUTE: Route = ("default", None, "bulk")


class Message:
    """One record on its way through the pipeline.

    The record's own fields are read-only and read on demand: making the wrapper is the
    largest single cost of a message that nobody waits for, so it holds the client's
    record and copies nothing.

    Attributes:
        data: what the handlers make of the message; starts as `value`. Assign freely.
    """

    __slots__ = ("_failure", "_raw", "_route", "data")

    # An annotation only: the slot stays empty, and `__getattr__` fills it when it is
    # asked for, so that a handler which does not read `data` does not pay for it.
    data: Any

    def __init__(self, raw: RawMessage) -> None:
        self._raw: RawMessage = raw
        self._failure: BaseException | None = None
        # batcher, batch_key, batch_mode; None for the defaults: one look for all three.
        self._route: Route | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raw = self._raw
            self.data = value = raw.message.data if isinstance(raw, Prepared) else raw.value()
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
        """Which attempt at handling this is, from 1."""
        return 1

    @property
    def failure(self) -> BaseException | None:
        """Why the message failed, None while it has not."""
        return self._failure

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


def messages_of(records: Iterable[RawMessage]) -> list[Message]:
    """The messages of these records: `Message` for each, a fifth faster."""
    # A call of a slotted class goes through its __init__ the slow way.
    made: list[Message] = []
    for record in records:
        message = _new(Message)
        message._raw = record
        message._failure = message._route = None
        made.append(message)
    return made


class Prepared:
    """A record together with what ``prepare_messages`` made of it: a `RawMessage`.

    Each message that is made of it starts from that.

    Attributes:
        message: the message that was prepared.
    """

    __slots__ = ("_record", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self._record = message._raw

    def topic(self) -> str:
        return self._record.topic()

    def partition(self) -> int:
        return self._record.partition()

    def offset(self) -> int:
        return self._record.offset()

    def key(self) -> bytes | None:
        return self._record.key()

    def value(self) -> bytes | None:
        return self._record.value()

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._record.headers()

    def timestamp(self) -> tuple[int, int]:
        return self._record.timestamp()
