from __future__ import annotations

from tests.faults._network import network

__all__ = ["network"]
