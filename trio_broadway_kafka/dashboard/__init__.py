"""A small web server beside a pipeline: its page, its health, its metrics. Needs h11: the
extra ``dashboard``."""

from trio_broadway_kafka.dashboard._server import Dashboard, open_dashboard

__all__ = ["Dashboard", "open_dashboard"]
