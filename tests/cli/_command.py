"""The command as people and scripts start it."""

from __future__ import annotations

import subprocess
import sys


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_broadway_kafka", "dead-letters", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
