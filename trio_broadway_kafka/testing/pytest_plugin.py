"""A pytest plugin with a real Apache Kafka, loaded only where it is asked for.

Ask with ``pytest_plugins = ["trio_broadway_kafka.testing.pytest_plugin"]`` in the
top-level conftest.py, or with ``-p trio_broadway_kafka.testing.pytest_plugin``. It is not
among the plugins that pytest loads by itself: those would import this library, and trio with
it, into every test run of an environment where it happens to be installed.

The fixtures are synchronous, so they work with and without pytest-trio.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest

from trio_broadway_kafka.testing._broker import DEFAULT_VERSION, KafkaBroker, start_kafka
from trio_broadway_kafka.testing._jars import BrokerUnavailable, find_java, kafka_jars
from trio_broadway_kafka.testing._topics import is_reachable

__all__ = ["kafka_broker", "kafka_group", "kafka_topic"]

# Seconds within which a Kafka that was given with --kafka-bootstrap must answer.
REACHABLE_WITHIN = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kafka", "Apache Kafka (trio_broadway_kafka)")
    group.addoption(
        "--kafka-bootstrap",
        metavar="HOST:PORT",
        help="Use this Kafka for the kafka_* fixtures instead of starting a local one. "
        "Tests make topics and groups with unique names there, and delete the topics.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "kafka_topic(partitions=1, config={}): how the fixture kafka_topic makes its topic",
    )


@pytest.fixture(scope="session")
def kafka_broker(request: pytest.FixtureRequest) -> Iterator[KafkaBroker]:
    """A real Apache Kafka of one node, the same for all tests; see `KafkaBroker`.

    It is started when the first test asks for it, or is your own with
    ``--kafka-bootstrap``. Tests that stop or kill a broker start one for themselves.
    """
    own = request.config.getoption("--kafka-bootstrap")
    if own is not None:
        if not is_reachable(own, timeout=REACHABLE_WITHIN):
            pytest.fail(
                f"no Kafka answered at {own!r} (--kafka-bootstrap) within "
                f"{REACHABLE_WITHIN:g} s: is the address right, and does it run?",
                pytrace=False,
            )
        yield KafkaBroker(own)
        return
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as running:
        try:
            # A first download takes a while: its progress must be seen, not captured.
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                find_java()
                kafka_jars(DEFAULT_VERSION)
            broker = running.enter_context(start_kafka())
        except BrokerUnavailable as error:
            pytest.fail(str(error), pytrace=False)
        yield broker


@pytest.fixture
def kafka_topic(request: pytest.FixtureRequest, kafka_broker: KafkaBroker) -> Iterator[str]:
    """The name of a fresh topic, deleted afterwards.

    ``@pytest.mark.kafka_topic(partitions=3, config={"cleanup.policy": "compact"})`` says how
    it is made; without it there is one partition.
    """
    marker = request.node.get_closest_marker("kafka_topic")
    options = {} if marker is None else _topic_options(marker)
    topic = _unique_name(request)
    try:
        kafka_broker.create_topic(topic, **options)
    except Exception as error:
        pytest.fail(f"the topic {topic} was not made with {options}: {error}", pytrace=False)
    yield topic
    kafka_broker.delete_topic(topic)


@pytest.fixture
def kafka_group(request: pytest.FixtureRequest) -> str:
    """The name of a consumer group that nobody has used."""
    return _unique_name(request)


def _topic_options(marker: pytest.Mark) -> dict[str, Any]:
    """The marker's arguments, or a failed test that says what is wrong with them."""
    partitions = marker.kwargs.get("partitions", 1)
    config = marker.kwargs.get("config", {})
    problem = None
    if marker.args:
        problem = f"its arguments have names, so {marker.args[0]!r} can't stand alone"
    elif unknown := marker.kwargs.keys() - {"partitions", "config"}:
        problem = f"there is no {', '.join(map(repr, sorted(unknown)))}"
    elif not isinstance(partitions, int) or partitions < 1:
        problem = f"partitions must be a whole number of 1 or more, not {partitions!r}"
    elif not isinstance(config, Mapping) or not all(
        isinstance(text, str) for pair in config.items() for text in pair
    ):
        problem = f"config must be texts by name, not {config!r}"
    if problem is not None:
        pytest.fail(
            "@pytest.mark.kafka_topic(partitions=1, config={'cleanup.policy': 'compact'}) "
            f"is how to write it: {problem}",
            pytrace=False,
        )
    return dict(marker.kwargs)


def _unique_name(request: pytest.FixtureRequest) -> str:
    """Says which test it was of, in the letters that Kafka allows in a topic's name."""
    test = re.sub(r"[^a-zA-Z0-9._-]+", "-", request.node.name)[:100]
    return f"{test}-{uuid.uuid4().hex[:12]}"
