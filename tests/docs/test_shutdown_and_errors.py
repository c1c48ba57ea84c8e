"""Every program in docs/shutdown_and_errors.md, as a reader would run it."""

from __future__ import annotations

import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.docs._blocks import python_blocks
from tests.examples._program import committed, produce, program
from trio_broadway_kafka.testing import KafkaBroker

BLOCKS = python_blocks("shutdown_and_errors.md")
ALONE = ["committed.py", "threads.py", "cleaning_up.py"]
UNTIL_SIGNAL = ["worker.py", "until_signal.py"]


def start(
    folder: Path, name: str, *arguments: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    path = folder / name
    path.write_text(BLOCKS[name])
    return program(path, *arguments)


def test_each_program_of_the_page_is_run_here() -> None:
    assert sorted(BLOCKS) == sorted([*ALONE, *UNTIL_SIGNAL, "script.py"])


@pytest.mark.parametrize("name", ALONE)
def test_what_it_asserts_is_true(tmp_path: Path, name: str) -> None:
    with start(tmp_path, name) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("name", UNTIL_SIGNAL)
def test_it_drains_at_a_signal(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str, tmp_path: Path, name: str
) -> None:
    produce(kafka_broker, kafka_topic, b"one")
    with start(tmp_path, name, kafka_broker.bootstrap, kafka_topic, kafka_group) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{kafka_topic} 0 0\n"
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    if name == "worker.py":
        assert f"{kafka_group}: SIGTERM: draining; once more cancels" in errors
    else:
        assert output == "drained\n"
    assert committed(kafka_broker, kafka_topic, kafka_group) == 1


def test_the_scripts_exit_codes(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str, tmp_path: Path
) -> None:
    def run(topic: str, group: str = kafka_group) -> tuple[int, str]:
        with start(tmp_path, "script.py", kafka_broker.bootstrap, topic, group) as process:
            _, errors = process.communicate(timeout=30)
        return process.returncode, errors

    produce(kafka_broker, kafka_topic, b"one")
    assert run(kafka_topic) == (0, "")
    assert committed(kafka_broker, kafka_topic, kafka_group) == 1

    produce(kafka_broker, kafka_topic, b"two", b"", b"four")
    text = f"<Message {kafka_topic}/0@2> is empty"
    note = f"while handling {kafka_topic}/0@2 (attempt 1)"
    assert run(kafka_topic) == (65, f"{text}, {note}\n")
    assert committed(kafka_broker, kafka_topic, kafka_group) == 2

    code, errors = run(f"{kafka_topic}-gone")
    assert code == 75
    assert errors.startswith(f"no topic '{kafka_topic}-gone' at {kafka_broker.bootstrap}")

    code, errors = run("")
    assert (code, errors) == (78, "topics holds '', which is not a topic's name\n")
