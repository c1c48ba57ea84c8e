"""A message is a view of its record, and tells nothing of its payload unasked."""

from __future__ import annotations

import pytest

from trio_broadway_kafka import Message, MessageFailed
from trio_broadway_kafka.testing._fake_message import FakeMessage


class Counting(FakeMessage):
    """A record that counts what is read of it."""

    __slots__ = ("reads",)

    def value(self) -> bytes | None:
        self.reads.append("value")
        return super().value()

    def key(self) -> bytes | None:
        self.reads.append("key")
        return super().key()


def counting(
    value: bytes | None = b"secret value", headers: list[tuple[str, bytes | None]] | None = None
) -> Counting:
    raw = Counting(
        topic="payments",
        partition=3,
        offset=42,
        key=b"secret key",
        value=value,
        headers=headers or [],
        timestamp=1_700_000_000_000,
    )
    raw.reads = []
    return raw


def test_reads_its_record() -> None:
    raw = counting(headers=[("secret header", b"1"), ("secret header", None)])
    message = Message(raw)
    assert (message.topic, message.partition, message.offset) == ("payments", 3, 42)
    assert (message.key, message.value) == (b"secret key", b"secret value")
    assert message.headers == [("secret header", b"1"), ("secret header", None)]
    assert message.timestamp == 1_700_000_000_000
    assert (message.attempt, message.failure) == (1, None)


def test_without_headers_has_an_empty_list() -> None:
    assert Message(counting()).headers == []


def test_without_a_timestamp_has_none() -> None:
    class Timeless(FakeMessage):
        def timestamp(self) -> tuple[int, int]:
            return (0, -1)

    raw = Timeless(
        topic="t", partition=0, offset=0, key=None, value=None, headers=(), timestamp=0
    )
    assert Message(raw).timestamp is None


def test_data_is_the_value_read_when_it_is_first_asked_for() -> None:
    raw = counting()
    message = Message(raw)
    assert raw.reads == []
    assert message.data == b"secret value"
    assert message.data == b"secret value"
    assert raw.reads == ["value"]


def test_data_that_was_assigned_is_never_read_from_the_record() -> None:
    raw = counting()
    message = Message(raw)
    message.data = None
    assert message.data is None
    assert raw.reads == []
    assert message.value == b"secret value"


def test_data_of_a_tombstone_is_none() -> None:
    raw = counting(value=None)
    message = Message(raw)
    assert (message.data, message.data) == (None, None)
    assert raw.reads == ["value"]


def test_has_no_other_attributes() -> None:
    message = Message(counting())
    with pytest.raises(AttributeError, match="'Message' object has no attribute 'offfset'"):
        _ = message.offfset  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        message.status = "ok"  # type: ignore[attr-defined]
    for name in ("topic", "partition", "offset", "key", "value", "headers", "attempt"):
        with pytest.raises(AttributeError):
            setattr(message, name, None)


def test_its_repr_says_where_it_lies_and_nothing_of_what_it_holds() -> None:
    raw = counting(headers=[("secret header", b"secret")])
    message = Message(raw)
    message.data = "secret data"
    message.fail("secret reason")
    assert repr(message) == "<Message payments/3@42>"
    assert f"{message}" == "<Message payments/3@42>"
    assert raw.reads == []


def test_fails_with_a_text() -> None:
    message = Message(counting())
    message.fail("no such account")
    assert isinstance(message.failure, MessageFailed)
    assert message.failure.args == ("no such account",)


def test_fails_with_an_exception() -> None:
    message = Message(counting())
    error = ValueError("no such account")
    message.fail(error)
    assert message.failure is error


@pytest.mark.parametrize("reason", [None, 3, b"no", ValueError])
def test_fails_with_nothing_else(reason: object) -> None:
    message = Message(counting())
    with pytest.raises(TypeError, match=r"message.fail\(\) takes a text or an exception, not"):
        message.fail(reason)  # type: ignore[arg-type]
    assert message.failure is None


def test_goes_to_the_default_batcher_under_no_key_unless_told() -> None:
    message = Message(counting())
    assert (message.batcher, message.batch_key, message.batch_mode) == ("default", None, "bulk")
    message.batch_key = 7
    message.batch_mode = "flush"
    message.batcher = "orders"
    assert (message.batcher, message.batch_key, message.batch_mode) == ("orders", 7, "flush")
    with pytest.raises(ValueError, match="batch_mode must be 'bulk' or 'flush', not 'now'"):
        message.batch_mode = "now"  # type: ignore[assignment]
    assert message.batch_mode == "flush"
