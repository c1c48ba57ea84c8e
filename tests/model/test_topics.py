"""Names of topics, and patterns of names."""

from __future__ import annotations

from typing import Any

import pytest

from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._topics import check_topics, matching

EXISTING = {"orders", "orders-eu", "orders.v2", "returns", "__consumer_offsets", "_mine"}


def test_topics_are_names_in_any_iterable() -> None:
    assert check_topics(["a", "^b.*"]) == ("a", "^b.*")
    assert check_topics(name for name in "ab") == ("a", "b")


@pytest.mark.parametrize(
    ("topics", "says"),
    [
        ("flights", r"topics must be a list of names: write topics=\['flights'\]"),
        ([], "topics is empty: name at least one"),
        ([""], "topics holds '', which is not a topic's name"),
        (["a", b"b"], "topics holds b'b', which is not"),
        (["a", None], "topics holds None, which is not"),
        (None, "topics must be a list of names, not None"),
        (7, "topics must be a list of names, not 7"),
        (["a", "^b("], r"the pattern '\^b\(', which Python's re refuses: .*unterminated"),
    ],
)
def test_bad_topics_are_refused(topics: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_topics(topics)


@pytest.mark.parametrize(
    ("topics", "found"),
    [
        (["returns"], ["returns"]),
        (["not-there"], ["not-there"]),
        (["^orders"], ["orders", "orders-eu", "orders.v2"]),
        (["^orders$"], ["orders"]),
        (["^orders-.*"], ["orders-eu"]),
        (["^(?:orders|returns)$"], ["orders", "returns"]),
        (["^rders"], []),
        # Names first, as they were given, and none twice.
        (["orders.v2", "^orders", "a", "a"], ["orders.v2", "orders", "orders-eu", "a"]),
        # Kafka's own topics only by name.
        (["^_"], ["_mine"]),
        (["__consumer_offsets"], ["__consumer_offsets"]),
    ],
)
def test_patterns_match_from_the_beginning_of_a_name(
    topics: list[str], found: list[str]
) -> None:
    assert matching(topics, EXISTING) == found
