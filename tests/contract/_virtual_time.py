"""Running tests under the autojump clock without asking for the fixture in each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

__all__ = ["run_on_virtual_time"]

T = TypeVar("T")


def run_on_virtual_time(
    test: Callable[..., Awaitable[T]], *args: object, clock: None = None, **options: Any
) -> T:
    """`trio.run` for ``pytest.mark.trio(run=...)``: waiting takes no time."""
    return trio.run(test, *args, clock=MockClock(autojump_threshold=0), **options)
