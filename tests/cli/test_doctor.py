"""``python -m trio_broadway_kafka doctor``: what it finds, and what it says to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from trio_broadway_kafka.testing import KafkaBroker


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_broadway_kafka", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def findings(*arguments: str) -> tuple[int, list[dict[str, str]]]:
    done = run(*arguments, "--json")
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.kafka_topic(partitions=3)
def test_where_all_is_well_it_says_so(kafka_broker: KafkaBroker, kafka_topic: str) -> None:
    done = run("--bootstrap", kafka_broker.bootstrap, "--topic", kafka_topic, "--group", "new")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(None, 2) for line in done.stdout.splitlines()[:-1]]
    assert {status for status, _, _ in lines} == {"ok"}
    assert [about for _, about, _ in lines] == [
        *("versions", "network", "brokers", "network", "versions", "group", "topic", "clock")
    ]
    assert f"{kafka_topic}: 3 partitions, replicated 1 ×" in done.stdout
    assert "new: not there yet, and may be used" in done.stdout
    assert "group.protocol=consumer can be used" in done.stdout
    assert done.stdout.endswith("No problem was found.\n")


def test_a_topic_that_is_missing_is_a_problem_with_advice(kafka_broker: KafkaBroker) -> None:
    code, found = findings("--bootstrap", kafka_broker.bootstrap, "--topic", "no-such-topic")
    assert code == 1
    (problem,) = [one for one in found if one["status"] == "problem"]
    assert problem["found"] == "no-such-topic: it does not exist"
    assert "create_topics=True" in problem["advice"]


def test_records_from_the_future_tell_of_a_wrong_clock(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    ahead = int((time.time() + 600) * 1000)
    producer.produce(kafka_topic, b"v", partition=0, timestamp=ahead)
    assert producer.flush(30) == 0
    code, found = findings("--bootstrap", kafka_broker.bootstrap, "--topic", kafka_topic)
    assert code == 0
    (warning,) = [one for one in found if one["status"] == "warning"]
    assert warning["about"] == "clock"
    assert "s from the future" in warning["found"]


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, found = findings("--bootstrap", f"127.0.0.1:{port}")
    assert code == 1
    assert found[-1]["found"] == f"127.0.0.1:{port}, a bootstrap server: Connection refused"
    assert "is Kafka running there" in found[-1]["advice"]


def test_settings_that_do_not_fit_the_port_are_a_problem(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    file = tmp_path / "client.properties"
    file.write_text(
        f"bootstrap.servers={kafka_broker.bootstrap}\nsecurity.protocol=SASL_PLAINTEXT\n"
        "sasl.mechanisms=PLAIN\nsasl.username=somebody\nsasl.password=hunter2\n"
    )
    done = run("--config", str(file))
    assert done.returncode == 1
    assert "do security.protocol, sasl.* and ssl.* fit the listener" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
