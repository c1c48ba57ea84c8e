"""The command line: ``python -m trio_broadway_kafka``."""

from trio_broadway_kafka._cli._main import main

__all__ = ["main"]
