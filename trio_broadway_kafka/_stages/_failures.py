"""Settling failed messages by their policies."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from trio_broadway_kafka._model._batch import Failed
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message, Prepared
from trio_broadway_kafka._model._policies import (
    FailurePolicy,
    OnFailure,
    Skip,
    Stage,
    Stop,
)
from trio_broadway_kafka._model._segment import SKIPPED

__all__ = ["Failures"]

_log = logging.getLogger("trio_broadway_kafka")


class Failures:
    """Applies ``on_failure`` to messages whose handler failed.

    Args:
        on_failure: the policy, or what chooses it.
        handle_failed: the user's, called before messages are acknowledged as failed.
        told: called with each failed message, its policy, and where it failed; None if nobody
            needs it.

    Attributes:
        failed: how many times a handler failed.
    """

    def __init__(
        self,
        on_failure: OnFailure,
        handle_failed: Callable[[list[Message]], Awaitable[object]] | None = None,
        told: Callable[[Message, FailurePolicy, Stage], None] | None = None,
    ) -> None:
        self._on_failure = on_failure
        self._handle_failed = handle_failed
        self._told = told
        self.failed = 0

    async def settle(self, message: Message, error: BaseException) -> int:
        """Decide what becomes of a message. Returns its flag (see `_model._segment`).

        Raises:
            BaseException: `error` itself, with a note that says where, under `Stop`; or
                what ``handle_failed`` raised.
            ConfigError: ``on_failure`` returned something that is not a policy.
        """
        stage: Stage = "handle_message"
        if isinstance(message._raw, Prepared) and message._raw.message._failure is not None:
            stage = "prepare_messages"
        match self._policy_of(message, error, self._on_failure, stage):
            case Stop():
                note_where(error, message)
                raise error
            case Skip():
                await self._skip([message])
                return SKIPPED

    async def settle_batch(
        self,
        failed: Sequence[Failed],
        on_failure: OnFailure | None,
    ) -> None:
        """Settle the failed messages of a batch, by its own policy if it has one.

        Those that are skipped come first: no other failure loses them. Raises as `settle`.
        """
        policy = self._on_failure if on_failure is None else on_failure
        skipped: list[Failed] = []
        stopping: Failed | None = None
        for one in failed:
            match self._policy_of(one.message, one.error, policy, "handle_batch"):
                case Stop():
                    stopping = stopping or one
                case Skip():
                    skipped.append(one)
        if skipped:
            await self._skip([one.message for one in skipped])
            for one in skipped:
                one.segment.flags[one.index] = SKIPPED
        if stopping is not None:
            note_where(stopping.error, stopping.message)
            raise stopping.error

    def _policy_of(
        self, message: Message, error: BaseException, policy: OnFailure, stage: Stage
    ) -> FailurePolicy:
        self.failed += 1
        message._failure = error
        chosen: object = policy
        if not isinstance(policy, Stop | Skip):
            chosen = policy(message)
        if isinstance(chosen, Stop | Skip):
            if self._told is not None:
                self._told(message, chosen, stage)
            return chosen
        raise ConfigError(
            f"on_failure returned {chosen!r} for {message!r}; it must return a policy such as "
            "Stop() or Skip()"
        ) from error

    async def _skip(self, messages: list[Message]) -> None:
        for message in messages:
            # The type only: an exception's text may hold what the message holds. And no
            # message in the record: who keeps records would keep payloads.
            _log.warning("skipped %s: %s", repr(message), type(message.failure).__name__)
        if self._handle_failed is not None:
            result = await self._handle_failed(messages)
            if result is not None:
                raise TypeError(
                    f"handle_failed returned a {type(result).__name__}; it must return None"
                )


def note_where(error: BaseException, message: Message) -> None:
    """Note on an exception which message it came from; never the payload."""
    error.add_note(
        f"while handling {message.topic}/{message.partition}@{message.offset} "
        f"(attempt {message.attempt})"
    )
