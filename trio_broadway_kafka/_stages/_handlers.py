"""What a user's handler is wrapped in where something needs that; else it is bare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

from trio_broadway_kafka._model._message import Message, Prepared

__all__ = ["going_on_from_prepared", "lane_of_prepared", "nothing", "telling"]


async def nothing(message: Message) -> None:
    """Where there is none."""


def going_on_from_prepared(
    handle: Callable[[Message], Awaitable[object]],
) -> Callable[[Message], Awaitable[object]]:
    """A handler whose message starts from what ``prepare_messages`` made of it."""

    async def handle_prepared(message: Message) -> object:
        record = message._raw
        assert isinstance(record, Prepared)
        message._route = record.message._route
        if record.message._failure is not None:
            message._failure = record.message._failure
            return None
        return await handle(message)

    return handle_prepared


def lane_of_prepared(
    lane_of: Callable[[Message], Hashable],
) -> Callable[[Message], Hashable]:
    """An ordering function that sees what ``prepare_messages`` made of the message.

    Of one that it has failed there may be nothing that a lane could be found by.
    """

    def find(message: Message) -> Hashable:
        record = message._raw
        assert isinstance(record, Prepared)
        message._route = record.message._route
        failure = message._failure = record.message._failure
        try:
            return lane_of(message)
        except Exception:
            if isinstance(failure, Exception):
                raise failure from None
            raise

    return find


def telling(
    handle: Callable[[Message], Awaitable[object]], finished: Callable[[], None]
) -> Callable[[Message], Awaitable[object]]:
    """A handler that tells when it has returned.

    The flag of the message is set after this, but before any other task runs.
    """

    async def handle_and_tell(message: Message) -> object:
        result = await handle(message)
        finished()
        return result

    return handle_and_tell
