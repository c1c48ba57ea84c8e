"""A record of the fake broker."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FakeMessage"]


class FakeMessage:
    """A record as `FakeBroker` delivers it, read as a ``confluent_kafka.Message`` is."""

    __slots__ = ("_headers", "_key", "_offset", "_partition", "_timestamp", "_topic", "_value")

    def __init__(
        self,
        *,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp: int,
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._key = key
        self._value = value
        # A consumed record without headers has None, not an empty list.
        self._headers = list(headers) or None
        self._timestamp = timestamp

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        """``(1, milliseconds)``: 1 is the type "time of creation"."""
        return (1, self._timestamp)

    def error(self) -> Exception | None:
        """None: what the fake reports as an error never travels as a message."""
        return None

    def __len__(self) -> int:
        """Bytes of the value. As with confluent's, an empty record is false."""
        return len(self._value) if self._value is not None else 0

    def __repr__(self) -> str:
        return (
            f"FakeMessage({self._topic}/{self._partition}@{self._offset}"
            f" key={self._key!r} value={self._value!r})"
        )
