from __future__ import annotations

pytest_plugins = ["pytester", "trio_broadway_kafka.testing.pytest_plugin"]
