"""``python -m trio_broadway_kafka run``: a pipeline as a program, signals and exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from confluent_kafka import Producer

from trio_broadway_kafka import ConfigError
from trio_broadway_kafka._cli._run import opening_of
from trio_broadway_kafka.testing import KafkaBroker

APP = """
import os, sys
import trio
from trio_broadway_kafka import Stages, open_pipeline


async def handle(message):
    print("began", flush=True)
    await trio.sleep(float(os.environ["SECONDS"]))
    print("ended", flush=True)
    if os.environ.get("FAIL"):
        raise LookupError("it failed")


def pipeline():
    return open_pipeline(
        kafka={
            "bootstrap.servers": os.environ["BOOTSTRAP"],
            "group.id": "run-" + os.environ["TOPIC"],
        },
        topics=[os.environ["TOPIC"]],
        stages=Stages(handle_message=handle),
        stop_at=os.environ.get("STOP_AT"),
    )


async def main():
    pass


def nothing():
    return 7


number = 7
"""


class App:
    """A folder with that module, and a topic with one record."""

    def __init__(self, folder: Path, bootstrap: str, topic: str) -> None:
        (folder / "app.py").write_text(APP)
        self._folder = folder
        self._environment = {**os.environ, "BOOTSTRAP": bootstrap, "TOPIC": topic}
        producer = Producer({"bootstrap.servers": bootstrap})
        producer.produce(topic, b"v", b"k", partition=0)
        assert producer.flush(30) == 0

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trio_broadway_kafka", "run", "app:pipeline", *options]
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def app(tmp_path: Path, kafka_broker: KafkaBroker, kafka_topic: str) -> App:
    return App(tmp_path, kafka_broker.bootstrap, kafka_topic)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(app: App, number: signal.Signals) -> None:
    with app.start(SECONDS="1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(number)
        out, log = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "ended\n")
    assert f"{number.name}: draining; once more cancels" in log


def test_the_second_signal_cancels(app: App) -> None:
    with app.start(SECONDS="1000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGINT)
        while "draining" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")


def test_it_ends_where_stop_at_says(app: App) -> None:
    with app.start(SECONDS="0", STOP_AT="end") as process:
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "began\nended\n")


def test_a_pipeline_that_fails_is_1_with_its_traceback(app: App) -> None:
    with app.start(SECONDS="0", FAIL="yes") as process:
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "LookupError: it failed" in log


def test_the_dashboard_is_served_beside_it(app: App) -> None:
    with app.start("--dashboard", "0", SECONDS="1") as process:
        assert process.stderr is not None
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())):
            pass
        with urllib.request.urlopen(f"{found[0]}health", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("app", "is no MODULE:FUNCTION"),
        ("no_such_module_here:pipeline", "there is no module 'no_such_module_here'"),
        ("app:missing", "app has no 'missing'"),
        ("app:number", "is no function but a int"),
        ("app:main", "is an async function: write def"),
        ("app:nothing", "returned a int: it must return open_pipeline"),
    ],
)
def test_what_is_no_pipeline_is_said(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    with pytest.raises(ConfigError, match=re.escape(words)):
        opening_of(text)
    sys.modules.pop("app", None)
