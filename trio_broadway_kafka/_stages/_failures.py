"""Settling a failed message by its policy."""

from __future__ import annotations

import logging

from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._policies import OnFailure, Skip, Stop
from trio_broadway_kafka._model._segment import SKIPPED

__all__ = ["Failures"]

_log = logging.getLogger("trio_broadway_kafka")


class Failures:
    """Applies ``on_failure`` to messages whose handler failed.

    Attributes:
        failed: how many times a handler failed.
    """

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self.failed = 0

    def settle(
        self, message: Message, error: BaseException, on_failure: OnFailure | None = None
    ) -> int:
        """Decide what becomes of the message. Returns its flag (see `_model._offsets`).

        `on_failure` is a batcher's own policy.

        Raises:
            BaseException: `error` itself, with a note that says where, under `Stop`.
            ConfigError: ``on_failure`` returned something that is not a policy.
        """
        self.failed += 1
        message._failure = error
        policy = self._on_failure if on_failure is None else on_failure
        if not isinstance(policy, Stop | Skip):
            policy = policy(message)
        match policy:
            case Skip():
                # The type only: an exception's text may hold what the message holds. And
                # no message in the record: who keeps records would keep payloads.
                _log.warning("skipped %s: %s", repr(message), type(error).__name__)
                return SKIPPED
            case Stop():
                note_where(error, message)
                raise error
        raise ConfigError(
            f"on_failure returned {policy!r} for {message!r}; it must return a policy such as "
            "Stop() or Skip()"
        ) from error


def note_where(error: BaseException, message: Message) -> None:
    """Note on an exception which message it came from; never the payload."""
    error.add_note(
        f"while handling {message.topic}/{message.partition}@{message.offset} "
        f"(attempt {message.attempt})"
    )
