from __future__ import annotations

from tests.broker._fixtures import facts
from tests.faults._network import network

__all__ = ["facts", "network"]
