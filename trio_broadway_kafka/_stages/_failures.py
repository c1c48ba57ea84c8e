"""Settling failed messages by their policies."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence

import trio

from trio_broadway_kafka._model._batch import Failed
from trio_broadway_kafka._model._dead_letters import dead_letter
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._message import Message, Retried
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._policies import (
    POLICIES,
    DeadLetter,
    FailurePolicy,
    OnFailure,
    PausePartition,
    Retry,
    Skip,
    Stage,
    Stop,
    last_of,
    turn_of,
)
from trio_broadway_kafka._model._retries import TryAgain, TryAgainTogether
from trio_broadway_kafka._model._segment import DEAD_LETTERED, SKIPPED, Segment

__all__ = ["Failures"]

_log = logging.getLogger("trio_broadway_kafka")


Finish = Callable[[Segment, int, Message, int], int]


class Failures:
    """Applies ``on_failure`` to messages whose handler failed.

    Args:
        on_failure: the policy, or what chooses it.
        handle_failed: the user's, called before messages are acknowledged as failed.
        told: called with each failed message, its policy, and where it failed; None if nobody
            needs it.
        finish: gives the flag of a message that is settled, 0 while its outputs leave.
        succeeded: how many messages have succeeded.
        pause: called with the assignment that is to be paused, and for how many seconds.
        group: the consumer group's name, for dead letters.

    Attributes:
        failed: how many times a handler failed.
        retried: how many times a message was to be tried again.
    """

    def __init__(
        self,
        on_failure: OnFailure,
        handle_failed: Callable[[list[Message]], Awaitable[object]] | None = None,
        told: Callable[[Message, FailurePolicy, Stage], None] | None = None,
        *,
        finish: Finish,
        succeeded: Callable[[], int],
        pause: Callable[[PartitionOffsets, float], None],
        group: str | None = None,
    ) -> None:
        self._on_failure = on_failure
        self._finish = finish
        self._succeeded = succeeded
        self._pause = pause
        self._group = group
        self._consecutive = 0  # dead letters, since so many had succeeded:
        self._succeeded_before = -1
        self._handle_failed = handle_failed
        self._told = told
        self.failed = 0
        self.retried = 0

    async def settle(
        self, message: Message, error: BaseException, partition: PartitionOffsets
    ) -> int | TryAgain:
        """Decide what becomes of a message. Returns its flag (see `_model._segment`; 0 if it
        is left unfinished), or when it is to be tried again.

        Raises:
            BaseException: `error` itself, with a note that says where, under `Stop`; or
                what ``handle_failed`` raised.
            ConfigError: ``on_failure`` returned something that is not a policy.
        """
        message._failure = error
        assert message._special is not None
        stage: Stage = message._special.stage or "handle_message"
        match self._policy_of(message, error, self._on_failure, stage):
            case Stop():
                note_where(error, message)
                raise error
            case Skip():
                await self._give_up([(message, None)])
                return SKIPPED
            case DeadLetter() as letter:
                await self._give_up([(message, letter)])
                return DEAD_LETTERED
            case Retry() as retry:
                return 0 if partition.draining else self._try_again(message, retry)
            case PausePartition() as pause:
                self._pause_for(message, partition, pause)
                return 0

    async def settle_batch(
        self,
        failed: Sequence[Failed],
        on_failure: OnFailure | None,
    ) -> TryAgainTogether | None:
        """Settle the failed messages of a batch, by its own policy if it has one.

        Those that are skipped come first: no other failure loses them. Raises as `settle`.
        Returns those that are to be tried again, as a batch of their own.
        """
        policy = self._on_failure if on_failure is None else on_failure
        given_up: list[tuple[Failed, DeadLetter | None]] = []
        again: list[Failed] = []
        due = 0.0
        stopping: Failed | None = None
        for one in failed:
            one.message._failure = one.error
            match self._policy_of(one.message, one.error, policy, "handle_batch"):
                case Stop():
                    stopping = stopping or one
                case Skip():
                    given_up.append((one, None))
                case DeadLetter() as letter:
                    given_up.append((one, letter))
                case Retry() as retry:
                    if not one.segment.partition.draining:
                        again.append(one)
                        due = max(due, self._try_again(one.message, retry).due)
                case PausePartition() as pause:
                    self._pause_for(one.message, one.segment.partition, pause)
        if given_up:
            await self._give_up([(one.message, chosen) for one, chosen in given_up])
            for one, chosen in given_up:
                flag = SKIPPED if chosen is None else DEAD_LETTERED
                one.segment.flags[one.index] = self._finish(
                    one.segment, one.index, one.message, flag
                )
        if stopping is not None:
            note_where(stopping.error, stopping.message)
            raise stopping.error
        return TryAgainTogether(due, again) if again else None

    def _policy_of(
        self, message: Message, error: BaseException, policy: OnFailure, stage: Stage
    ) -> FailurePolicy:
        """What is to be done now."""
        self.failed += 1
        chosen: object = policy if isinstance(policy, POLICIES) else policy(message)
        if not isinstance(chosen, POLICIES):
            raise ConfigError(
                f"on_failure returned {chosen!r} for {message!r}; it must return a policy such "
                "as Stop() or Skip()"
            ) from error
        if isinstance(message._raw, Retried) and message._raw.is_last:
            chosen = last_of(chosen)
        chosen = self._turn_of(chosen, message, error)
        if self._told is not None:
            self._told(message, chosen, stage)
        return chosen

    def _turn_of(
        self, policy: FailurePolicy, message: Message, error: BaseException
    ) -> FailurePolicy:
        policy = turn_of(policy, message)
        if not isinstance(policy, DeadLetter):
            return policy
        if policy.topic == message.topic:
            raise ConfigError(
                f"{message!r} comes from {policy.topic!r}, where its dead letter would go"
            ) from error
        if policy.max_consecutive != math.inf:
            succeeded = self._succeeded()
            if succeeded != self._succeeded_before:
                self._succeeded_before, self._consecutive = succeeded, 0
            self._consecutive += 1
            if self._consecutive > policy.max_consecutive:
                return self._turn_of(policy.then, message, error)
        return policy

    def _try_again(self, message: Message, retry: Retry) -> TryAgain:
        wait = retry.wait_after(message.attempt)
        assert wait is not None  # or it were not its turn
        self.retried += 1
        _log.info(
            "trying %r again in %.1f s (attempt %d failed): %s",
            message,
            wait,
            message.attempt,
            type(message.failure).__name__,
        )
        return TryAgain(trio.current_time() + wait)

    def _pause_for(
        self, message: Message, partition: PartitionOffsets, policy: PausePartition
    ) -> None:
        seconds = policy.seconds
        until = "until it is resumed" if seconds == math.inf else f"for {seconds:g} s"
        _log.warning(
            "pausing %r %s for %r: %s",
            partition,
            until,
            message,
            type(message.failure).__name__,
        )
        self._pause(partition, seconds)

    async def _give_up(self, given_up: Sequence[tuple[Message, DeadLetter | None]]) -> None:
        """Messages are to be acknowledged as failed: ``handle_failed`` comes first, then the
        dead letters."""
        for message, letter in given_up:
            # The type only: an exception's text may hold what the message holds. And no
            # message in the record: who keeps records would keep payloads.
            what = "skipped" if letter is None else f"a dead letter to {letter.topic}:"
            _log.warning("%s %s: %s", what, repr(message), type(message.failure).__name__)
            message._outputs = ()
        if self._handle_failed is not None:
            result = await self._handle_failed([message for message, _ in given_up])
            if result is not None:
                raise TypeError(
                    f"handle_failed returned a {type(result).__name__}; it must return None"
                )
        for message, letter in given_up:
            if letter is not None:
                record = dead_letter(message, letter.topic, self._group)
                message._make_special().outputs.append(record)


def note_where(error: BaseException, message: Message) -> None:
    """Note on an exception which message it came from; never the payload."""
    error.add_note(
        f"while handling {message.topic}/{message.partition}@{message.offset} "
        f"(attempt {message.attempt})"
    )
