"""The options users set, checked when they are given: type, default, meaning, and what
NOT to do, in one place per option."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._policies import OnFailure, Skip, Stop

__all__ = ["Ordering", "PipelineOptions", "Stages", "check_topics"]

Ordering = Literal["key", "partition", "unordered"] | Callable[[Message], Hashable]
HandleMessage = Callable[[Message], Awaitable[None]]

_ORDERINGS = ("key", "partition", "unordered")


def _is_async(function: object) -> bool:
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    # An object with `async def __call__`. (A class is not: calling it makes an object.)
    return not isinstance(function, type) and inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - its kind is asked, not its being
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What a pipeline does with its messages.

    Attributes:
        handle_message: ``async def handle_message(message) -> None``, called for each
            message, up to `concurrency` at once. It changes the message in place and
            returns nothing. Raising, or ``message.fail(reason)``, fails the message.
        ordering: which messages are handled one after another, in offset order.
            ``"key"``: those with the same key in the same partition (messages without a
            key share one lane per partition). ``"partition"``: those of a partition.
            ``"unordered"``: none. A function ``(Message) -> Hashable``: those for which
            it returns the same; it must be quick and must not raise on good messages.
            Everything else runs side by side. If in doubt, use ``"key"``.
        concurrency: how many messages are handled at once, over all partitions. If in
            doubt, use what your database or service can take; do NOT set it to the
            number of partitions: it does not depend on that.
        on_failure: what happens to a failed message: a policy (`Stop`, the default, or
            `Skip`), or a function ``(Message) -> policy`` that looks at ``message.failure``.

    Raises:
        ConfigError: naming the option that is wrong.
    """

    handle_message: HandleMessage | None = None
    ordering: Ordering = "key"
    concurrency: int = 16
    on_failure: OnFailure = Stop()

    def __post_init__(self) -> None:
        if self.handle_message is None:
            raise ConfigError(
                "Stages needs a handle_message: an async function that takes a Message"
            )
        if not _is_async(self.handle_message):
            raise ConfigError(
                f"handle_message must be an async function, not {self.handle_message!r}: "
                "write 'async def', with trio.to_thread.run_sync inside it for what blocks"
            )
        if not callable(self.ordering) and self.ordering not in _ORDERINGS:
            raise ConfigError(
                f"ordering must be one of {', '.join(map(repr, _ORDERINGS))} or a function "
                f"of the message, not {self.ordering!r}"
            )
        for name in ("ordering", "on_failure"):
            if _is_async(getattr(self, name)):
                raise ConfigError(f"{name} must be a plain function, not an async one")
        if not isinstance(self.concurrency, int) or self.concurrency < 1:
            raise ConfigError(
                f"concurrency must be a whole number of 1 or more, not {self.concurrency!r}"
            )
        if not isinstance(self.on_failure, Stop | Skip) and not callable(self.on_failure):
            raise ConfigError(
                "on_failure must be a policy such as Stop() or Skip(), or a function of the "
                f"message that returns one, not {self.on_failure!r}"
            )
        if isinstance(self.on_failure, type):
            raise ConfigError(
                f"on_failure must be an instance: write {self.on_failure.__name__}()"
            )


def check_topics(topics: Iterable[str]) -> tuple[str, ...]:
    """The topics as a tuple.

    Raises:
        ConfigError: there are none, one is not a name, or a text was given for the list.
    """
    if isinstance(topics, str):
        raise ConfigError(f"topics must be a list of names: write topics=[{topics!r}]")
    try:
        names = tuple(topics)
    except TypeError:
        raise ConfigError(f"topics must be a list of names, not {topics!r}") from None
    if not names:
        raise ConfigError("topics is empty: name at least one topic, or a pattern '^...'")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"topics holds {name!r}, which is not a topic's name")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """The numbers of `open_pipeline`, checked. Times are in seconds."""

    max_in_flight: int
    max_in_flight_bytes: int
    commit_interval: float
    open_timeout: float
    drain_timeout: float
    revoke_timeout: float
    close_timeout: float

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "max_in_flight_bytes"):
            number: Any = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise ConfigError(f"{name} must be a whole number of 1 or more, not {number!r}")
        for name in (
            "commit_interval",
            "open_timeout",
            "drain_timeout",
            "revoke_timeout",
            "close_timeout",
        ):
            seconds: Any = getattr(self, name)
            if not isinstance(seconds, int | float) or not seconds >= 0:  # NaN is refused
                raise ConfigError(f"{name} must be seconds of 0 or more, not {seconds!r}")
            if math.isinf(seconds) and name not in ("commit_interval", "drain_timeout"):
                raise ConfigError(f"{name} must be finite: nothing waits without a deadline")
