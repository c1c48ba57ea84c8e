"""The program of docs/dashboard.md, and that the page names what there is."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

from confluent_kafka import Producer

from tests.docs._blocks import DOCS, python_blocks
from trio_broadway_kafka.instruments._metrics import COUNTERS, GAUGES, HISTOGRAMS
from trio_broadway_kafka.testing import KafkaBroker

PAGE = (DOCS / "dashboard.md").read_text(encoding="utf-8")


def test_every_metric_is_on_the_page_with_its_labels() -> None:
    for name, (_, labels) in (COUNTERS | GAUGES | HISTOGRAMS).items():
        (line,) = [
            row for row in PAGE.splitlines() if row.startswith("|") and f"`{name}`" in row
        ]
        for label in labels:
            assert label in line, f"{name}: {label}"


def test_the_program_shows_itself_probes_and_metrics(
    tmp_path: Path, kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for _ in range(3):
        producer.produce(kafka_topic, b"v", b"k", partition=0)
    assert producer.flush(30) == 0
    path = tmp_path / "shown.py"
    path.write_text(python_blocks("dashboard.md")["shown.py"])
    command = [sys.executable, "-W", "error", path, kafka_broker.bootstrap, kafka_topic, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().rpartition(" ")[2].strip()

            def get(name: str) -> str:
                with urllib.request.urlopen(url + name, timeout=10) as answer:
                    return str(answer.read().decode())

            assert "uPlot" in get("")
            assert get("health") == "the client is polled, and the loop turns\n"
            assert "broadway_kafka_rebalances_total" in get("metrics")
        finally:
            process.kill()


def test_the_program_prints_its_spans(
    tmp_path: Path, kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    producer.produce(kafka_topic, b"v", b"k", partition=0)
    assert producer.flush(30) == 0
    path = tmp_path / "traced.py"
    path.write_text(python_blocks("dashboard.md")["traced.py"])
    done = subprocess.run(
        [sys.executable, "-W", "error", path, kafka_broker.bootstrap, kafka_topic],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f'"name": "process {kafka_topic}"' in done.stdout
