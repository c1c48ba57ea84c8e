"""``python -m trio_broadway_kafka dead-letters``, as people and scripts use it."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.cli._command import run
from trio_broadway_kafka import ConfigError
from trio_broadway_kafka._cli._dead_letters import as_json, time_of
from trio_broadway_kafka._cli._main import connection, main
from trio_broadway_kafka.dead_letters import Letter
from trio_broadway_kafka.testing import KafkaBroker

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Topics:
    """A topic and its dead letters on a real Kafka."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.dead = f"{topic}-dead"

    def produce(self, *kinds: str, count: int = 1) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for number, kind in enumerate(kinds * count):
            producer.produce(
                self.dead,
                value=json.dumps({"order": number, "to": "Zürich"}),
                key=f"k{number}",
                headers=[
                    ("trace", b"\xff\x00"),
                    ("dead_letter.topic", self.topic.encode()),
                    ("dead_letter.partition", b"0"),
                    ("dead_letter.offset", str(number).encode()),
                    ("dead_letter.exception_type", kind.encode()),
                    ("dead_letter.exception_message", b"as [bold]planned[/bold]\nand more"),
                    ("dead_letter.attempts", b"5"),
                ],
            )
        assert producer.flush(30) == 0

    def wait_sent(self, count: int) -> None:
        """Wait until so many have been sent back."""
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "reader"})
        deadline = time.monotonic() + 30
        while reader.get_watermark_offsets(TopicPartition(self.topic, 0), 30)[1] < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        reader.close()

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(command, self.dead, *arguments, "--bootstrap", self.bootstrap)


@pytest.fixture
def topics(kafka_broker: KafkaBroker, kafka_topic: str) -> Topics:
    topics = Topics(kafka_broker.bootstrap, kafka_topic)
    kafka_broker.create_topic(topics.dead, partitions=1)
    return topics


def test_letters_are_listed_shown_and_sent_back(topics: Topics) -> None:
    topics.produce("ValueError", "app.Declined", "ValueError")
    listed = topics.run("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert lines[0].split() == [
        "LETTER", "FAILED", "AT", "FROM", "EXCEPTION", "TRIES", "REPLAYS",
    ]  # fmt: skip
    assert lines[2].startswith("0@1 ")
    assert f"{topics.topic} 0@1" in lines[2]
    assert "app.Declined: as [bold]planned[/bold] ..." in lines[2]
    assert lines[2].split()[-2:] == ["5", "0"]
    assert lines[5].split() == ["2", "ValueError", "from", topics.topic]

    shown = topics.run("show", "0@1")
    assert shown.returncode == 0
    assert "k1" in shown.stdout
    assert '"to": "Zürich"' in shown.stdout
    assert r"trace: b'\xff\x00'" in shown.stdout

    tried = topics.run("redrive", "--exception", "ValueError", "--dry-run")
    assert tried.stdout.splitlines() == [
        "Would send back 2 letters.",
        f"        2  to {topics.topic}",
        "        1  left: not of the kind asked for",
    ]
    sent = topics.run("redrive", "--exception", "ValueError")
    assert sent.stdout.splitlines()[0] == "Sent back 2 letters."
    left = [json.loads(line) for line in topics.run("list", "--json").stdout.splitlines()]
    assert [letter["exception_type"] for letter in left] == ["app.Declined"]
    sent = topics.run("redrive", "--max", "5", "--json")
    assert json.loads(sent.stdout)["sent"] == {topics.topic: 1}
    assert topics.run("list").stdout == f"No dead letters to send back in {topics.dead}.\n"


def test_ctrl_c_acknowledges_what_was_delivered_and_says_how_much(topics: Topics) -> None:
    topics.produce("ValueError", count=90_000)
    command = [sys.executable, "-m", "trio_broadway_kafka", "dead-letters", "redrive"]
    process = subprocess.Popen(
        [*command, topics.dead, "--bootstrap", topics.bootstrap, "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    topics.wait_sent(1_000)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    sent = sum(json.loads(output)["sent"].values())
    assert 800 <= sent < 90_000
    rest = json.loads(topics.run("redrive", "--dry-run", "--json").stdout)
    # The list that was on its way when it was cancelled is delivered, but not counted.
    assert 0 <= 90_000 - sent - sum(rest["sent"].values()) <= 200


def test_a_pipe_that_is_closed_is_no_error(topics: Topics) -> None:
    topics.produce("ValueError", count=20_000)
    shell = f"{sys.executable} -m trio_broadway_kafka dead-letters list {topics.dead} --json"
    done = subprocess.run(
        f"{shell} --bootstrap {topics.bootstrap} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_what_is_not_there_is_exit_code_1(topics: Topics) -> None:
    missing = topics.run("show", "0@400")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == f"there is no letter at {topics.dead} 0@400\n"
    unknown = run("list", "no-such-topic", "--bootstrap", topics.bootstrap)
    assert unknown.returncode == 1
    assert "no topic 'no-such-topic'" in unknown.stderr
    assert "Traceback" not in unknown.stderr


# The command line.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["list"], "required: topic"),
        (["show", "dead", "42"], "no place such as 0@42"),
        (["redrive", "dead", "--max", "0"], "no number of 1 or more"),
        (["redrive", "dead", "--since", "yesterday"], "is no time: give 30m, 12h, 7d"),
        ([], "required: list | show | redrive"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dead-letters", *arguments])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_without_an_address_it_is_said_how_to_give_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["dead-letters", "list", "dead"]) == 2
    assert "give --bootstrap HOST:PORT, or bootstrap.servers in" in capsys.readouterr().err


def test_a_key_that_kafka_does_not_know_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("bootstrap.servers=127.0.0.1:1\nsasl.pasword=secret\n")
    assert main(["dead-letters", "list", "dead", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert "sasl.pasword" in error
    assert "secret" not in error


def test_settings_come_from_a_file_and_the_address_from_the_command_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# ours\n\nbootstrap.servers = a:1\nsasl.password=p=q \n")
    assert connection(None, file) == {"bootstrap.servers": "a:1", "sasl.password": "p=q"}
    assert connection("b:2", file)["bootstrap.servers"] == "b:2"
    file.write_text("secret\n")
    with pytest.raises(ConfigError, match=r"line 1: expected key=value$"):
        connection(None, file)
    with pytest.raises(ConfigError, match="can't be read"):
        connection(None, tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("30m", datetime(2026, 11, 30, 11, 30, tzinfo=UTC)),
        ("1.5h", datetime(2026, 11, 30, 10, 30, tzinfo=UTC)),
        ("1w", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        ("2026-11-30T08:00+01:00", datetime(2026, 11, 30, 7, tzinfo=UTC)),
        ("2026-11-30T08:00Z", datetime(2026, 11, 30, 8, tzinfo=UTC)),
    ],
)
def test_times_are_how_long_ago_or_when(text: str, time: datetime) -> None:
    assert time_of(text, lambda: NOW) == time


@pytest.mark.parametrize("text", ["", "5", "5x", "-5m", "9" * 30 + "w", "tomorrow"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
        time_of(text, lambda: NOW)


def test_a_letter_for_scripts_has_its_payload_only_where_that_was_asked_for() -> None:
    fields: dict[str, Any] = dict.fromkeys(
        ("failed_at", "came_from", "produced_at", "group", "exception_type"), None
    )
    letter = Letter(
        topic="dead",
        partition=0,
        offset=7,
        key=None,
        value=b"\xff",
        headers=(("h", b"t"),),
        exception_message="e",
        attempts=1,
        replays=0,
        **{**fields, "failed_at": NOW},
    )
    without = as_json(letter, with_payload=False)
    assert without["failed_at"] == "2026-11-30T12:00:00+00:00"
    assert not {"key", "value", "headers"} & without.keys()
    with_it = as_json(letter, with_payload=True)
    assert (with_it["key"], with_it["value"]) == (None, {"base64": "/w=="})
    assert with_it["headers"] == [["h", "t"]]
