"""The same seed, the same run: trio's scheduler under a seeded generator.

The only module that knows trio's two private names: its one random generator, and the flag
that makes it sort each batch of runnable tasks before it shuffles them by that generator.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run
from trio.testing import MockClock

__all__ = ["OutOfSteps", "seeded_scheduler", "simulate"]

T = TypeVar("T")


class OutOfSteps(Exception):
    """A simulation took so many steps that it probably spins."""


@contextmanager
def seeded_scheduler(rng: random.Random) -> Generator[None]:
    """Have trio draw all its choices from `rng`, in a block that calls `trio.run`.

    Garbage collection is off meanwhile: a finalizer may run anywhere.
    """
    generator, deterministic = _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING
    collected = gc.isenabled()
    _run._r = rng
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    gc.disable()
    try:
        yield
    finally:
        _run._r = generator
        _run._ALLOW_DETERMINISTIC_SCHEDULING = deterministic  # type: ignore[misc]
        if collected:
            gc.enable()


def simulate(
    main: Callable[[], Awaitable[T]],
    rng: random.Random,
    *,
    horizon: float = 60.0,
    steps: int = 1_000_000,
) -> T:
    """Run `main` under `rng` and an autojump clock, and return what it returns.

    Use no threads in it, and don't iterate over sets of strings.

    Args:
        main: the program; all its randomness must be `rng`'s too.
        rng: who is seeded alike sees the same run.
        horizon: virtual seconds that it may take. (Without one a deadlock waits for ever.)
        steps: steps of tasks that it may take. (In a loop of checkpoints time stands still.)

    Raises:
        trio.TooSlowError: `horizon` is over: probably a deadlock.
        OutOfSteps: probably tasks that wake one another for ever.
    """
    limit = _StepLimit(steps)

    async def run() -> T:
        with trio.fail_after(horizon), limit.scope:
            return await main()
        raise OutOfSteps(f"more than {steps} steps")

    with seeded_scheduler(rng):
        return trio.run(run, clock=MockClock(autojump_threshold=0), instruments=[limit])


class _StepLimit(trio.abc.Instrument):
    def __init__(self, steps: int) -> None:
        self.left = steps
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if not self.left:
            self.scope.cancel()
