"""The options users set, checked when they are given: type, default, meaning, and what
NOT to do, in one place per option."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._policies import OnFailure, Stop, check_on_failure

__all__ = [
    "Batcher",
    "Ordering",
    "PipelineOptions",
    "Stages",
    "StagesFactory",
    "check_stages",
]

Ordering = Literal["key", "partition", "unordered"] | Callable[[Message], Hashable]
HandleMessage = Callable[[Message], Awaitable[None]]
PrepareMessages = Callable[[list[Message]], Awaitable[None]]
HandleFailed = Callable[[list[Message]], Awaitable[None]]
HandleBatch = Callable[[Batch], Awaitable[None]]

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
class Batcher:
    """What collects messages, and what handles the batches.

    Messages with the same ``batch_key`` share batches. A batch leaves when it is full, when
    `timeout` has passed since its first message, when a message with
    ``batch_mode="flush"`` is in it, and when the pipeline or one of its partitions ends.

    Attributes:
        handle_batch: ``async def handle_batch(batch) -> None``. Raising fails the whole
            batch, ``message.fail(reason)`` one message of it.
        size: the weight at which a batch is full: a number of messages, unless there is
            `weigh`. Do NOT set it above ``max_in_flight``: such a batch never fills.
        weigh: ``(Message) -> float``, what a message counts in a batch, such as its bytes:
            ``lambda message: len(message.data)``. A batch is never heavier than `size`,
            unless a single message is.
        timeout: seconds from the first message of a batch, never extended. inf waits
            until it is full.
        concurrency: how many batches are handled at once. Batches of the same
            ``batch_key`` never overlap, unless the ordering is ``"unordered"``.
        on_failure: as `Stages.on_failure`, which it is unless given.

    Raises:
        ConfigError: naming the option that is wrong.
    """

    handle_batch: HandleBatch
    size: float = 100
    weigh: Callable[[Message], float] | None = None
    timeout: float = 1.0
    concurrency: int = 1
    on_failure: OnFailure | None = None

    def __post_init__(self) -> None:
        _check_handler("handle_batch", self.handle_batch)
        _check_concurrency(self.concurrency)
        if self.weigh is not None and (not callable(self.weigh) or _is_async(self.weigh)):
            raise ConfigError(f"weigh must be a plain function, not {self.weigh!r}")
        if not _is_number(self.size) or not self.size > 0:
            raise ConfigError(f"size must be a number above 0, not {self.size!r}")
        if self.weigh is None and (not isinstance(self.size, int) or self.size < 1):
            raise ConfigError(
                f"size must be a whole number of messages, 1 or more, not {self.size!r}; "
                "with weigh= it may be any weight"
            )
        if not _is_number(self.timeout) or not self.timeout >= 0:
            raise ConfigError(f"timeout must be seconds of 0 or more, not {self.timeout!r}")
        if self.on_failure is not None:
            _check_on_failure(self.on_failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What a pipeline does with its messages.

    Attributes:
        handle_message: ``async def handle_message(message) -> None``, called for each
            message, up to `concurrency` at once. It changes the message in place and
            returns nothing. Raising, or ``message.fail(reason)``, fails the message.
            Without one, messages go straight to the batcher ``"default"``.
        prepare_messages: ``async def prepare_messages(messages) -> None``, called with what
            arrived together of one partition, once, before any of it is handled: for what is
            done better for many at once, such as a look-up. It may change the messages, and
            fail them: those are not handled. Raising fails them all. What is being prepared
            has not started: leaving drops it.
        handle_failed: ``async def handle_failed(messages) -> None``, called with a list of
            messages before they are acknowledged as failed (see `Skip`), once for each;
            ``message.failure`` says why. If it raises, the pipeline stops, and they are
            handled again after a restart.
        batchers: by name; a message goes to the one that its ``batcher`` names. Without
            any, a message is acknowledged as soon as it is handled.
        ordering: which messages are handled one after another, in offset order.
            ``"key"``: those with the same key in the same partition (messages without a
            key share one lane per partition). ``"partition"``: those of a partition.
            ``"unordered"``: none. A function ``(Message) -> Hashable``: those for which
            it returns the same; it must be quick and must not raise on good messages.
            Everything else runs side by side. If in doubt, use ``"key"``.
        concurrency: how many messages are handled at once, over all partitions. If in
            doubt, use what your database or service can take; do NOT set it to the
            number of partitions: it does not depend on that.
        handler_timeout: seconds that a call of ``handle_message``, ``handle_batch`` or
            ``prepare_messages`` may take; then it is cancelled and fails with a
            ``trio.TooSlowError``, of which `on_failure` decides. What does not wait in trio,
            such as a thread, can't be cancelled.
        on_failure: what happens to a failed message: a policy (`Stop`, the default, `Skip`,
            `Retry`, `PausePartition`), or a function ``(Message) -> policy`` that looks at
            ``message.failure``; it must be quick.

    Raises:
        ConfigError: naming the option that is wrong.
    """

    handle_message: HandleMessage | None = None
    prepare_messages: PrepareMessages | None = None
    handle_failed: HandleFailed | None = None
    batchers: Mapping[str, Batcher] = field(default_factory=dict)
    ordering: Ordering = "key"
    concurrency: int = 16
    handler_timeout: float = math.inf
    on_failure: OnFailure = Stop()

    def __post_init__(self) -> None:
        if self.handle_message is not None:
            _check_handler("handle_message", self.handle_message)
        if self.prepare_messages is not None:
            _check_handler("prepare_messages", self.prepare_messages)
        if self.handle_failed is not None:
            _check_handler("handle_failed", self.handle_failed)
        self._check_batchers()
        if not callable(self.ordering) and self.ordering not in _ORDERINGS:
            raise ConfigError(
                f"ordering must be one of {', '.join(map(repr, _ORDERINGS))} or a function "
                f"of the message, not {self.ordering!r}"
            )
        if _is_async(self.ordering):
            raise ConfigError("ordering must be a plain function, not an async one")
        _check_concurrency(self.concurrency)
        if not _is_number(self.handler_timeout) or not self.handler_timeout > 0:
            raise ConfigError(
                f"handler_timeout must be seconds above 0, not {self.handler_timeout!r}"
            )
        _check_on_failure(self.on_failure)

    def check_bound(self, max_in_flight: int) -> None:
        """Check that every batch can become full.

        Raises:
            ConfigError: naming the batcher whose batches can't.
        """
        for name, batcher in self.batchers.items():
            if batcher.weigh is None and batcher.size > max_in_flight:
                raise ConfigError(
                    f"size={batcher.size} of batcher {name!r} is above "
                    f"max_in_flight={max_in_flight}: its batches would never be full"
                )

    def _check_batchers(self) -> None:
        batchers: Any = self.batchers
        if not isinstance(batchers, Mapping):
            raise ConfigError(
                'batchers must be a dict by name, such as {"default": Batcher(...)}, not '
                f"{batchers!r}"
            )
        for name, batcher in batchers.items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"a batcher's name must be a text, not {name!r}")
            if not isinstance(batcher, Batcher):
                raise ConfigError(f"batcher {name!r} must be a Batcher(...), not {batcher!r}")
        if batchers and self.handle_message is None and "default" not in batchers:
            raise ConfigError(
                "without a handle_message all messages go to the batcher 'default', and there "
                f"is none among {', '.join(map(repr, batchers))}"
            )


StagesFactory = Callable[[str, int], Stages | AbstractAsyncContextManager[Stages]]


def check_stages(stages: object) -> None:
    """Check what was given as the stages.

    Raises:
        ConfigError: they are neither stages nor a function that may return some.
    """
    if isinstance(stages, Stages):
        return
    if inspect.isasyncgenfunction(stages) or _is_async(stages):
        raise ConfigError(
            "stages must be a Stages(...) or a plain function of topic and partition, not an "
            "async one: for stages that are entered and left, decorate it with "
            "contextlib.asynccontextmanager and yield them"
        )
    if isinstance(stages, type) or not callable(stages):
        raise ConfigError(
            "stages must be a Stages(...), or a function of topic and partition that "
            f"returns one, not {stages!r}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_handler(name: str, handler: object) -> None:
    if not _is_async(handler):
        raise ConfigError(
            f"{name} must be an async function, not {handler!r}: "
            "write 'async def', with trio.to_thread.run_sync inside it for what blocks"
        )


def _check_concurrency(concurrency: object) -> None:
    if not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigError(
            f"concurrency must be a whole number of 1 or more, not {concurrency!r}"
        )


def _check_on_failure(on_failure: object) -> None:
    if _is_async(on_failure):
        raise ConfigError("on_failure must be a plain function, not an async one")
    check_on_failure(on_failure)


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
