"""The program of docs/commands.md, run as the page says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.docs._blocks import python_blocks
from trio_broadway_kafka.testing import KafkaBroker

COMMAND = "run orders:pipeline --dashboard 0"


def test_the_pipeline_runs_until_a_signal(tmp_path: Path, kafka_broker: KafkaBroker) -> None:
    (tmp_path / "orders.py").write_text(python_blocks("commands.md")["orders.py"])
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "trio_broadway_kafka", *COMMAND.split()],
        cwd=tmp_path,
        env={**os.environ, "BOOTSTRAP": kafka_broker.bootstrap},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "http://127.0.0.1" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert "SIGTERM: draining" in log
