"""A record on its way out: what `Message.produce` asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["Header", "OutputRecord", "output_record"]

Header = tuple[str, bytes | None]


class OutputRecord(NamedTuple):
    """A record to be produced.

    Attributes:
        topic: where to.
        value: None is a tombstone.
        key: None for none.
        headers: in order; a name may occur more than once.
        partition: None for the one that the key's hash picks, any without a key.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    partition: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its value, its key and its headers."""
        size = len(self.value or b"") + len(self.key or b"")
        for name, value in self.headers:
            size += len(name) + len(value or b"")
        return size


def output_record(
    topic: str,
    value: bytes | None,
    key: bytes | None,
    headers: Iterable[Header],
    partition: int | None,
) -> OutputRecord:
    """A record of what a handler gave.

    Raises:
        TypeError: something is of the wrong type; never with its content.
        ValueError: the topic has no name, or the partition is negative.
    """
    if not isinstance(topic, str):
        raise TypeError(f"produce() takes a topic's name, not {_kind(topic)}")
    if not topic:
        raise ValueError("produce() needs a topic's name, not an empty text")
    for what, given in (("value", value), ("key", key)):
        if not isinstance(given, bytes | None):
            raise TypeError(
                f"produce() takes bytes or None as {what}, not {_kind(given)}: encode it"
            )
    if partition is not None:
        if not isinstance(partition, int) or isinstance(partition, bool):
            raise TypeError(f"produce() takes a partition's number, not {_kind(partition)}")
        if partition < 0:
            raise ValueError(f"produce() takes a partition of 0 or more, not {partition}")
    pairs = tuple(headers)
    for pair in pairs:
        _check_header(pair)
    return OutputRecord(topic, value, key, pairs, partition)


def _check_header(pair: Any) -> None:
    match pair:
        case (str(), bytes() | None):
            pass
        case _:
            raise TypeError(
                "produce() takes headers as a list of pairs of a name (str) and a value "
                "(bytes or None)"
            )


def _kind(given: object) -> str:
    return type(given).__name__
