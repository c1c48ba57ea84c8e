from __future__ import annotations

import pytest

pytest_plugins = ["pytester", "trio_broadway_kafka.testing.pytest_plugin"]


# The fixtures that start a Kafka, or librdkafka's mock of one.
KAFKAS = {"kafka_broker", "mock", "network", "own_broker", "secure_broker", "three_nodes"}


@pytest.hookimpl(tryfirst=True)  # before -m looks at them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real Kafka, by its fixtures: see the session `tests` in noxfile.py."""
    for item in items:
        if KAFKAS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("real_kafka")
