"""A dead letter as it is read back, and which of them are meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Final

from trio_broadway_kafka._kafka._client import RawMessage
from trio_broadway_kafka._model._dead_letters import PREFIX, REPLAYS, without_origin
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._output_record import Header, OutputRecord

__all__ = ["ALL", "Letter", "Selection", "letter_of"]


@dataclass(frozen=True, slots=True, repr=False)
class Letter:
    """A record of a dead-letter topic, and what its headers say.

    What another program has put there has no headers of ours: `came_from` is None then.

    Attributes:
        topic, partition, offset: where the letter is.
        failed_at: when it was sent there, None if its record has no time.
        key, value: the message's own.
        headers: the message's own, in order.
        came_from: topic, partition and offset of the message that failed.
        produced_at: when that message was produced.
        group: the consumer group that could not handle it.
        exception_type: as ``module.Class``, without the module for Python's own.
        exception_message: the exception's text.
        attempts: how many times the message was tried.
        replays: how many times it has been sent back before.
    """

    topic: str
    partition: int
    offset: int
    failed_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    came_from: tuple[str, int, int] | None
    produced_at: datetime | None
    group: str | None
    exception_type: str | None
    exception_message: str | None
    attempts: int | None
    replays: int

    def __repr__(self) -> str:
        return f"<Letter {self.topic}/{self.partition}@{self.offset}>"

    def sent_back(self) -> OutputRecord:
        """The record that sends it back to its topic, by its key, with one more replay.

        Raises:
            ValueError: nobody knows where it came from.
        """
        if self.came_from is None:
            raise ValueError(f"{self!r} does not say where it came from")
        headers = tuple((name, value) for name, value in self.headers if name != REPLAYS)
        replays = (REPLAYS, str(self.replays + 1).encode())
        return OutputRecord(self.came_from[0], self.value, self.key, (*headers, replays))


def letter_of(message: RawMessage) -> Letter:
    """What a record of a dead-letter topic is."""
    headers = tuple(message.headers() or ())
    facts = {name: value for name, value in headers if name.startswith(PREFIX)}

    def text(fact: str) -> str | None:
        value = facts.get(PREFIX + fact)
        return None if value is None else value.decode("utf-8", "replace")

    def number(fact: str) -> int | None:
        try:
            return int(text(fact) or "")
        except ValueError:
            return None

    topic, partition, offset = text("topic"), number("partition"), number("offset")
    came_from = None
    if topic and partition is not None and offset is not None:
        came_from = (topic, partition, offset)
    kind, milliseconds = message.timestamp()
    return Letter(
        message.topic(),
        message.partition(),
        message.offset(),
        _time_of(milliseconds if kind else None),
        message.key(),
        message.value(),
        tuple(header for header in without_origin(headers) if header[0] != REPLAYS),
        came_from,
        _time_of(number("timestamp")),
        text("group"),
        text("exception_type"),
        text("exception_message"),
        number("attempts"),
        max(number("replays") or 0, 0),
    )


def _time_of(milliseconds: int | None) -> datetime | None:
    if milliseconds is None:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # it is what somebody wrote
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters are meant: those to which all that is given applies.

    Attributes:
        since: sent to the topic at or after this; a datetime with a time zone. Letters
            whose record has no time are meant too.
        exception_types: patterns, as ``ValueError`` or ``app.errors.*``, of which one
            matches the type's full name or its last part; none for any type.

    Raises:
        ConfigError: `since` has no time zone, or the patterns are no texts.
    """

    since: datetime | None = None
    exception_types: Iterable[str] = ()

    def __post_init__(self) -> None:
        if self.since is not None and self.since.tzinfo is None:
            raise ConfigError("since must be a datetime with a time zone")
        if isinstance(self.exception_types, str):
            raise ConfigError("exception_types must be several patterns, not one text")
        patterns = tuple(self.exception_types)
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigError(f"exception_types must be texts, not {patterns!r}")
        object.__setattr__(self, "exception_types", patterns)

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        if (
            self.since is not None
            and letter.failed_at is not None
            and letter.failed_at < self.since
        ):
            return False
        if not self.exception_types:
            return True
        name = letter.exception_type or ""
        last = name.rpartition(".")[2]
        return any(
            fnmatchcase(name, pattern) or fnmatchcase(last, pattern)
            for pattern in self.exception_types
        )


ALL: Final = Selection()
