"""The same seed, the same run: trio's scheduler under a seeded generator.

The only module that knows trio's private names: its one random generator, the flag that makes
it sort each batch of runnable tasks before it shuffles them by that generator, and the queue of
tasks that can run.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Awaitable, Callable, Generator, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio._core import _run

from trio_broadway_kafka import _assignment

__all__ = ["OutOfSteps", "Skewed", "seeded_scheduler", "simulate"]

T = TypeVar("T")


class OutOfSteps(Exception):
    """A simulation took so many steps that it probably spins."""


class Skewed(random.Random):
    """A generator under which a task sometimes sits out a turn of the scheduler.

    trio runs every task that can run once a turn, so two tasks never drift apart by two
    checkpoints; here they do. Real trio never does that: what only this finds is to be looked
    at before it is called a fault.

    Args:
        seed: anything that `random.Random` takes.
        skew: how often a task sits out, from 0 to 1.
    """

    def __init__(self, seed: int | str, skew: float) -> None:
        super().__init__(seed)
        self._skew = skew

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Shuffle the tasks of a turn; the last one may be put off to the next."""
        super().shuffle(x)
        if len(x) > 1 and self.random() < self._skew and isinstance(x[-1], trio.lowlevel.Task):
            _run.GLOBAL_RUN_CONTEXT.runner.runq.append(x.pop())


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
    seed: int | random.Random,
    *,
    horizon: float = 600.0,
    steps: int = 1_000_000,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run a program on trio, so that the same seed is the same run; no time passes.

    The order in which tasks run is drawn from `seed`, and the clock jumps to the next moment
    at which something is to happen. Use no threads in it, no other source of randomness, and
    don't iterate over sets of strings.

    Args:
        main: the program, a function without arguments.
        seed: of the order of tasks; or a generator, which `main` may draw from as well.
        horizon: seconds, of trio's clock, that it may take. (Without an end a deadlock would
            wait for ever.)
        steps: steps of tasks that it may take. (In a loop of checkpoints time stands still.)
        instruments: trio's. What one of them raises is logged, and the run goes on.

    Returns:
        What `main` returns.

    Raises:
        trio.TooSlowError: `horizon` is over: probably a deadlock.
        OutOfSteps: probably tasks that wake one another for ever.
        BaseException: what `main` raises.
    """
    # It brings pytest along, which is not needed for the rest of this room.
    from trio.testing import MockClock

    rng = random.Random(seed) if isinstance(seed, int) else seed
    limit = _StepLimit(steps)

    async def run() -> T:
        with trio.fail_after(horizon), limit.scope:
            return await main()
        raise OutOfSteps(f"more than {steps} steps")

    # Handlers have 2 ms at a time. Here each look says that those are over: the more turns,
    # the more orders are seen.
    with seeded_scheduler(_Limited(rng, limit)), _paced(itertools.count().__next__):
        try:
            return trio.run(
                run, clock=MockClock(autojump_threshold=0), instruments=[limit, *instruments]
            )
        except trio.TrioInternalError as error:
            if isinstance(error.__cause__, OutOfSteps):
                raise error.__cause__ from None
            raise


@contextmanager
def _paced(clock: Callable[[], float]) -> Generator[None]:
    before, _assignment.pace = _assignment.pace, clock
    try:
        yield
    finally:
        _assignment.pace = before


class _StepLimit(trio.abc.Instrument):
    """Cancels when so many steps have been taken; `ends` where they are taken once more."""

    def __init__(self, steps: int) -> None:
        self.steps = self.left = steps
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if not self.left:
            self.scope.cancel()

    @property
    def ends(self) -> bool:
        return self.left < -self.steps


class _Limited(random.Random):
    """Raises in trio's own loop where tasks go on in spite of their cancellation.

    That is trio's internal error, and no task is unwound: the last resort.
    """

    def __init__(self, rng: random.Random, limit: _StepLimit) -> None:
        super().__init__(0)
        self._rng = rng
        self._limit = limit

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if self._limit.ends:
            raise OutOfSteps(
                f"more than {self._limit.steps} steps, and as many again after all "
                "was cancelled"
            )
        self._rng.shuffle(x)
