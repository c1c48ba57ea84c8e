"""What a dead letter is: the message, and headers that say where it came from and why.

| header | value, as text |
|---|---|
| ``dead_letter.topic``, ``.partition``, ``.offset`` | where the message was |
| ``dead_letter.timestamp`` | the message's, in ms since the epoch; left out if it has none |
| ``dead_letter.group`` | the consumer group that could not handle it |
| ``dead_letter.exception_type``, ``.exception_message`` | why |
| ``dead_letter.attempts`` | how many times it was tried |
| ``dead_letter.replays`` | how many times it has been sent back; left out if never |

Of a message that has such headers already, from an earlier failure, only the last stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._output_record import Header, OutputRecord

__all__ = ["PREFIX", "REPLAYS", "dead_letter", "without_origin"]

PREFIX: Final = "dead_letter."
REPLAYS: Final = f"{PREFIX}replays"

# Longer ones would make a record that the broker refuses.
_LONGEST_TEXT: Final = 2000


def without_origin(headers: Iterable[Header]) -> tuple[Header, ...]:
    """The headers without those of a dead letter; how often it was sent back stays."""
    return tuple(
        (name, value)
        for name, value in headers
        if name == REPLAYS or not name.startswith(PREFIX)
    )


def dead_letter(message: Message, topic: str, group: str | None) -> OutputRecord:
    """The dead letter of a message that has failed.

    Args:
        message: ``message.failure`` says why.
        topic: where to.
        group: the consumer group's name, None where there is none.
    """
    error = message.failure
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    facts: dict[str, object] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp": message.timestamp,
        "group": group,
        "exception_type": name,
        "exception_message": _text_of(error),
        "attempts": message.attempt,
    }
    headers = without_origin(message.headers) + tuple(
        (PREFIX + fact, str(value).encode("utf-8", "replace"))
        for fact, value in facts.items()
        if value is not None
    )
    return OutputRecord(topic, message.value, message.key, headers)


def _text_of(error: BaseException | None) -> str:
    try:
        return str(error)[:_LONGEST_TEXT]
    except Exception:  # it is the user's
        return ""
