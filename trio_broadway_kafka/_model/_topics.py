"""What a pipeline is subscribed to: names, and patterns of names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from trio_broadway_kafka._model._errors import ConfigError

__all__ = ["check_topics", "is_pattern", "matching"]

# Kafka's own topics: whoever wants one names it.
_INTERNAL = frozenset(
    {"__cluster_metadata", "__consumer_offsets", "__share_group_state", "__transaction_state"}
)


def is_pattern(topic: str) -> bool:
    """Whether this is a pattern of names."""
    return topic.startswith("^")


def check_topics(topics: Iterable[str]) -> tuple[str, ...]:
    """The topics as a tuple.

    Raises:
        ConfigError: there are none, one is not a name, a pattern is not a regular expression,
            or a text was given for the list.
    """
    if isinstance(topics, str):
        raise ConfigError(f"topics must be a list of names: write topics=[{topics!r}]")
    try:
        names = tuple(topics)
    except TypeError:
        raise ConfigError(f"topics must be a list of names, not {topics!r}") from None
    if not names:
        raise ConfigError("topics is empty: name at least one topic, or a pattern '^...'")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"topics holds {name!r}, which is not a topic's name")
        if is_pattern(name):
            try:
                re.compile(name)
            except re.error as error:
                raise ConfigError(
                    f"topics holds the pattern {name!r}, which Python's re refuses: {error}"
                ) from None
    return names


def matching(topics: Iterable[str], existing: Collection[str]) -> list[str]:
    """The names among `topics`, and those of `existing` that its patterns match; no name twice.

    A pattern is Python's, and matches from the beginning of a name to wherever it ends: end it
    with ``$`` for the whole name.
    """
    found: dict[str, None] = {}
    for topic in topics:
        if is_pattern(topic):
            pattern = re.compile(topic)
            found.update(
                (name, None)
                for name in sorted(existing)
                if name not in _INTERNAL and pattern.match(name)
            )
        else:
            found[topic] = None
    return list(found)
