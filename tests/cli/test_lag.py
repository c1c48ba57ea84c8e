"""``python -m trio_broadway_kafka lag``, as people and scripts use it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from trio_broadway_kafka._cli._main import main
from trio_broadway_kafka.testing import KafkaBroker

GROUP = "lag-of-{}"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_broadway_kafka", "lag", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def lagging(kafka_broker: KafkaBroker, kafka_topic: str) -> Sequence[str]:
    """A group that has committed 3 of 10, 10 of 10 and nothing of 4: how to ask for it."""
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for partition, count in enumerate((10, 10, 4)):
        for _ in range(count):
            producer.produce(kafka_topic, b"v", partition=partition)
    assert producer.flush(30) == 0
    group = GROUP.format(kafka_topic)
    member = Consumer({"bootstrap.servers": kafka_broker.bootstrap, "group.id": group})
    offsets = [TopicPartition(kafka_topic, n, at) for n, at in enumerate((3, 10))]
    member.commit(offsets=offsets, asynchronous=False)
    member.close()
    return group, "--bootstrap", kafka_broker.bootstrap


@pytest.mark.kafka_topic(partitions=3)
def test_it_shows_each_partition_that_the_group_has_committed(
    lagging: Sequence[str], kafka_topic: str
) -> None:
    done = run(*lagging)
    assert (done.returncode, done.stderr) == (0, "")
    head, names, *lines, total = done.stdout.splitlines()
    assert head == f"{lagging[0]}: empty, classic protocol, 0 members"
    assert names.split() == ["PARTITION", "COMMITTED", "END", "LAG", "MEMBER"]
    assert [line.split() for line in lines] == [
        [f"{kafka_topic}/0", "3", "10", "7", "-"],
        [f"{kafka_topic}/1", "10", "10", "0", "-"],
    ]
    assert total == "7 behind in 2 partitions."


@pytest.mark.kafka_topic(partitions=3)
def test_scripts_get_json(lagging: Sequence[str], kafka_topic: str) -> None:
    done = run(*lagging, "--json")
    found = json.loads(done.stdout)
    assert (found["group"], found["state"], found["members"]) == (lagging[0], "EMPTY", 0)
    assert found["lag"] == 7
    assert found["partitions"][0] == {
        "topic": kafka_topic,
        "partition": 0,
        "committed": 3,
        "begin": 0,
        "end": 10,
        "lag": 7,
        "member": "",
    }


@pytest.mark.kafka_topic(partitions=3)
def test_other_topics_are_left_out(lagging: Sequence[str]) -> None:
    found = json.loads(run(*lagging, "--json", "--topic", "another").stdout)
    assert (found["partitions"], found["lag"]) == ([], 0)


@pytest.mark.kafka_topic(partitions=3)
def test_watching_shows_the_pace_until_ctrl_c(lagging: Sequence[str]) -> None:
    command = [sys.executable, "-m", "trio_broadway_kafka", "lag", *lagging, "--watch", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        looks = 0
        for line in process.stdout:
            looks += line.startswith(lagging[0])
            if looks == 3:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(30) == 130
    assert "PER S" in rest
    assert "never" in rest  # nobody works at it


@pytest.mark.kafka_topic(partitions=3)
def test_members_are_named(lagging: Sequence[str], kafka_topic: str) -> None:
    member = Consumer(
        {
            "bootstrap.servers": lagging[2],
            "group.id": lagging[0],
            "client.id": "a-client",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        member.subscribe([kafka_topic])
        while not member.assignment():
            member.poll(0.1)
        found = json.loads(run(*lagging, "--json").stdout)
    finally:
        member.close()
    assert (found["state"], found["members"]) == ("STABLE", 1)
    assert [one["partition"] for one in found["partitions"]] == [0, 1, 2]
    assert {one["member"].split(" @ ")[0] for one in found["partitions"]} == {"a-client"}
    assert found["partitions"][2]["committed"] is None
    assert found["lag"] == 11


def test_a_group_that_is_not_there_is_said(kafka_broker: KafkaBroker) -> None:
    done = run("no-such-group", "--bootstrap", kafka_broker.bootstrap)
    assert done.returncode == 1
    assert "there is no group 'no-such-group'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["0", "x", "nan", "1e9"])
def test_a_wrong_interval_is_said(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lag", "g", "--bootstrap", "x:1", "--watch", seconds])
    assert ended.value.code == 2
    assert "is no number of seconds" in capsys.readouterr().err
