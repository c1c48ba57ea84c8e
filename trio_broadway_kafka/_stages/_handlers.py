"""What a user's handler is wrapped in where something needs that; else it is bare."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import trio

from trio_broadway_kafka._model._message import Message, Prepared, Retried
from trio_broadway_kafka._model._options import Stages

__all__ = [
    "check_prepared",
    "going_on_from_prepared",
    "lane_of_prepared",
    "nothing",
    "telling",
    "within_time",
]

T = TypeVar("T")

Handle = Callable[[Message], Awaitable[object]]
Prepare = Callable[[list[Message]], Awaitable[object]]


async def nothing(message: Message) -> None:
    """Where there is none."""


def within_time(stages: Stages) -> Stages:
    """The same stages, whose handlers are cancelled after ``handler_timeout`` seconds, and
    raise a TooSlowError then."""
    seconds = stages.handler_timeout
    if math.isinf(seconds):
        return stages
    handle, prepare = stages.handle_message, stages.prepare_messages
    return replace(
        stages,
        handle_message=None if handle is None else _within(seconds, handle),
        prepare_messages=None if prepare is None else _within(seconds, prepare),
        batchers={
            name: replace(batcher, handle_batch=_within(seconds, batcher.handle_batch))
            for name, batcher in stages.batchers.items()
        },
    )


def _within(
    seconds: float, handle: Callable[[T], Awaitable[Any]]
) -> Callable[[T], Awaitable[Any]]:
    @wraps(handle)
    async def handle_within(argument: T) -> Any:
        # What it returns goes through: the stages tell of the mistake.
        with trio.fail_after(seconds):
            return await handle(argument)

    return handle_within


def going_on_from_prepared(handle: Handle, prepare: Prepare) -> Handle:
    """A handler whose message starts from what ``prepare_messages`` made of it.

    One that it has failed has failed; when that is tried again, it is prepared alone.
    """

    async def handle_prepared(message: Message) -> object:
        prepared = message._prepared
        if prepared is None:
            await _prepare_again(message, prepare)
        else:
            message._route = prepared._route
            message._outputs = prepared._outputs
            if prepared._failure is not None:
                message._fail_in_preparing(prepared._failure)
        if message._failure is not None:
            return None
        return await handle(message)

    return handle_prepared


async def _prepare_again(message: Message, prepare: Prepare) -> None:
    try:
        result = await prepare([message])
    except Exception as error:
        message._fail_in_preparing(error)
        return
    check_prepared(result, [message])
    if message._failure is not None:
        message._fail_in_preparing(message._failure)
        return
    start = Message(message._record)
    start.data, start._route = message.data, message._route
    start._outputs = message._outputs
    message._raw = Retried(Prepared(start), message.attempt)


def check_prepared(result: object, messages: list[Message]) -> None:
    """Check what ``prepare_messages`` returned.

    Raises:
        TypeError: it is not None.
    """
    if result is not None:
        mistake = TypeError(
            f"prepare_messages returned a {type(result).__name__}; it must return "
            "None: change the messages in place"
        )
        where = f"{messages[0].topic}/{messages[0].partition}"
        mistake.add_note(f"for {len(messages)} messages of {where}")
        raise mistake


def lane_of_prepared(
    lane_of: Callable[[Message], Hashable],
) -> Callable[[Message], Hashable]:
    """An ordering function that sees what ``prepare_messages`` made of the message.

    Of one that it has failed there may be nothing that a lane could be found by.
    """

    def find(message: Message) -> Hashable:
        prepared = message._prepared
        if prepared is None:  # to be prepared again
            return object()
        message._route = prepared._route
        if prepared._failure is not None:
            message._fail_in_preparing(prepared._failure)
        try:
            return lane_of(message)
        except Exception:
            failure = message._failure
            if isinstance(failure, Exception):
                raise failure from None
            raise

    return find


def telling(handle: Handle, finished: Callable[[], None]) -> Handle:
    """A handler that tells when it has returned.

    The flag of the message is set after this, but before any other task runs.
    """

    async def handle_and_tell(message: Message) -> object:
        result = await handle(message)
        finished()
        return result

    return handle_and_tell
