from __future__ import annotations

from tests.broker._fixtures import facts

__all__ = ["facts"]
