"""The acknowledger: one task that knows what was received, and commits what is finished.

Its channel is unbounded (what it holds is bounded by ``max_in_flight``) and fed by
`send_nowait`: ``await send`` is a checkpoint, where a cancellation would lose what was to
be sent. What is finished needs no sending: it is a flag in the segment.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol

import trio
from trio_util import AsyncBool, periodic

from trio_broadway_kafka._kafka._client import (
    AssignedPartition,
    KafkaClient,
    OffsetCommit,
    TopicPartition,
)
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment

__all__ = ["Acknowledger", "CommitListener"]

_log = logging.getLogger("trio_broadway_kafka")

# Seconds after which a commit without an answer is computed anew and tried again, and
# between two tries of one that was refused for now.
_COMMIT_DEADLINE = 30.0
_RETRY_AFTER = 0.1

_TOO_LONG = "OFFSET_METADATA_TOO_LARGE"

# The member is not (or no longer) one: its partitions are gone or about to go, and the
# client will report it. Trying again can't help.
_NOT_A_MEMBER = frozenset(
    {"UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "STALE_MEMBER_EPOCH", "FENCED_MEMBER_EPOCH"}
)


class CommitListener(Protocol):
    """Who is told of commits. Synchronous; durations are seconds from request to answer."""

    def committed(self, offsets: Sequence[OffsetCommit], duration: float) -> None:
        """Kafka has committed these."""

    def commit_failed(
        self, offsets: Sequence[OffsetCommit], failure: KafkaFailure, duration: float
    ) -> None:
        """Kafka has refused these, or not answered."""


class Outputs(Protocol):
    """What leaves with the offsets."""

    is_transactional: bool

    async def commit(
        self,
        offsets: Callable[[], list[OffsetCommit]],
        commit: Callable[[Sequence[OffsetCommit]], Awaitable[Sequence[OffsetCommit]]],
        asked: Callable[[Sequence[OffsetCommit]], None],
    ) -> Sequence[OffsetCommit] | None:
        """Commit what `offsets` gives by `commit`, or with the outputs. None for nothing."""
        ...

    async def outcome(self) -> Sequence[OffsetCommit]:
        """What a `commit` that was cancelled has committed. Waits until that is certain."""
        ...


class Acknowledger:
    """Commits the finished prefix of every assigned partition.

    Args:
        client: where to commit.
        partitions: the live assignments; the source adds and removes them.
        interval: seconds between commits; 0 commits whenever something finished, inf
            only when asked to.
        outputs: what leaves with the offsets.
        told: who is told of commits, None if nobody is.
        overfull: called with a partition of which more is finished beyond the committed
            offset than its metadata hold.
        committed: called with what was committed.
        unanswered: called with the time since when a commit has had no answer, and with inf
            once it has one, or nobody waits for it any more.
    """

    def __init__(
        self,
        client: KafkaClient,
        partitions: Mapping[TopicPartition, PartitionOffsets],
        interval: float,
        outputs: Outputs,
        told: CommitListener | None = None,
        *,
        overfull: Callable[[PartitionOffsets], object] = bool,
        committed: Callable[[Sequence[OffsetCommit]], object] = bool,
        unanswered: Callable[[float], object] = bool,
    ) -> None:
        self._client = client
        self._partitions = partitions
        self._interval = interval
        self._told = told
        self._outputs = outputs
        self._commit = outputs.commit
        self._overfull = overfull
        self._committed = committed
        self._asked: Sequence[OffsetCommit] = ()  # and not answered
        self._unanswered = unanswered
        self._has_maps = True
        self._send: trio.MemorySendChannel[Sequence[Segment] | Callable[[], object]]
        self._send, self._inbox = trio.open_memory_channel(math.inf)
        self._lock = trio.Lock()
        self._something_finished = AsyncBool()
        self.scope: trio.CancelScope = trio.CancelScope(shield=True)

    def received(self, segments: Sequence[Segment]) -> None:
        """These segments arrived. Never waits."""
        self._send.send_nowait(segments)

    def finished(self) -> None:
        """Something has finished: to be told only when the interval is 0. Never waits."""
        self._something_finished.value = True

    # Else a Ctrl-C could end this task, and the last commit would wait for it in vain. So
    # it comes out in the program's main task.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Take in what is sent, until `scope` is cancelled."""
        with self.scope:
            async for item in self._inbox:
                if callable(item):
                    item()
                else:
                    for segment in item:
                        segment.partition.add(segment)

    async def commit_regularly(self) -> None:
        """Commit every interval, until cancelled.

        Raises:
            KafkaFailure: the broker refused for good.
        """
        if self._interval == 0:
            while True:
                await self._something_finished.wait_value(True)
                self._something_finished.value = False
                await self.try_to_commit()
        elif math.isinf(self._interval):
            await trio.sleep_forever()
        else:
            async with aclosing(periodic(self._interval)) as ticks:
                async for _ in ticks:
                    await self.try_to_commit()

    async def try_to_commit(self) -> None:
        """Commit what has finished, unless that has no answer for long, or is refused to who
        is no member any more: both are logged.

        Raises:
            KafkaFailure: the broker refused for good.
        """
        with trio.move_on_after(_COMMIT_DEADLINE) as scope:
            try:
                await self._commit_all(is_tried_again=True)
            except trio.ClosedResourceError:
                await trio.sleep_forever()  # the client has failed, and has said so
            except KafkaFailure as failure:
                if failure.code not in _NOT_A_MEMBER:
                    raise
                _log.warning("commit refused, the partitions are being lost: %s", failure)
        if scope.cancelled_caught:
            _log.warning("no answer to a commit for %.0f s; trying again", _COMMIT_DEADLINE)
            self._something_finished.value = True  # maybe nothing else will
            if self._asked and self._told is not None:
                unanswered = KafkaFailure(
                    f"no answer to a commit for {_COMMIT_DEADLINE:g} s",
                    code="_TIMED_OUT",
                    retriable=True,
                )
                self._told.commit_failed(self._asked, unanswered, _COMMIT_DEADLINE)

    async def commit(self) -> None:
        """Commit what has finished as of now. Waits until it is done: set a deadline.

        What is tried again is computed again, so an older offset never follows a newer.

        Raises:
            KafkaFailure: the broker refused for good, or this is not a member.
        """
        await self._commit_all(is_tried_again=False)

    async def _commit_all(self, *, is_tried_again: bool) -> None:
        """As `commit`; one that is tried again when cancelled goes on waiting for an answer."""
        await self.settled()
        refused: str | None = None
        while True:
            async with self._lock:
                asked_at = trio.current_time()
                has_answer = False
                try:
                    if settled := await self._outputs.outcome():
                        self._note_committed(settled)
                        self._tell(settled, asked_at, settled)
                    committed = await self._commit(
                        lambda: self._offsets(self._partitions.values()),
                        self._client.commit,
                        self._note_asked,
                    )
                except KafkaFailure as failure:
                    has_answer = True
                    asked = self._asked
                    self._tell(asked, asked_at, failure)
                    if failure.code == _TOO_LONG and any(one.metadata for one in asked):
                        self._forgo_maps()
                        continue
                    if not failure.retriable:
                        raise
                    if refused != failure.code:
                        _log.info("commit refused for now: %s", failure)
                    refused = failure.code
                else:
                    has_answer = True
                    if committed is not None:
                        self._note_committed(committed)
                        self._tell(self._asked, asked_at, committed)
                    return
                finally:
                    if has_answer or not is_tried_again:
                        self._unanswered(math.inf)
            await trio.sleep(_RETRY_AFTER)

    async def commit_the_last(self, name: str) -> None:
        """Commit what has finished, on leaving; failing to is logged under a `name`."""
        try:
            await self.commit()
        except trio.ClosedResourceError:
            pass  # the client has failed, and has said so
        except KafkaFailure as failure:
            _log.error(
                "%s: the last commit failed, and what it held is handled again: %s",
                name,
                failure,
            )

    def _forgo_maps(self) -> None:
        """Commit offsets alone from now on."""
        self._has_maps = False
        _log.warning(
            "the broker takes less metadata with an offset than the 4096 characters of its "
            "default (offset.metadata.max.bytes), so what is finished out of order is handled "
            "again after a restart"
        )

    def _offsets(self, partitions: Collection[PartitionOffsets]) -> list[OffsetCommit]:
        offsets = []
        for state in partitions:
            if not self._has_maps:
                state.ahead.topic_id = ""
            if state.live and (new := state.next_commit()) is not None:
                if state.ahead.is_full and state.is_map_full():
                    self._overfull(state)
                # Outputs have left with what was told: it must not be handled again.
                if not (self._outputs.is_transactional and state.ahead.takes_back):
                    offsets.append(
                        OffsetCommit(state.topic, state.partition, state.epoch, *new)
                    )
        return offsets

    def _note_committed(self, committed: Sequence[OffsetCommit]) -> None:
        for commit in committed:
            state = self._partitions.get(TopicPartition(commit.topic, commit.partition))
            if state is not None and state.epoch == commit.epoch:
                state.note_committed(commit.offset, commit.metadata)

    async def settled(self) -> None:
        """Wait until everything sent before has been taken in."""
        seen = trio.Event()
        self._send.send_nowait(seen.set)
        await seen.wait()

    def _note_asked(self, offsets: Sequence[OffsetCommit]) -> None:
        self._asked = offsets
        self._unanswered(trio.current_time())

    async def release(
        self,
        assigned: Sequence[AssignedPartition],
        partitions: Collection[PartitionOffsets],
        deadline: float,
    ) -> None:
        """Let go of revoked partitions, with what has finished of them; in transactions that
        is committed before, until `deadline`."""
        await self.settled()
        if self._outputs.is_transactional:
            with trio.move_on_at(deadline) as scope:
                await self.commit_the_last(", ".join(map(repr, partitions)))
            if scope.cancelled_caught:
                _log.warning(
                    "no transaction could be committed as %s went away: it is handled again",
                    ", ".join(map(repr, partitions)),
                )
            self._client.release(assigned, ())
            return
        offsets = self._offsets(partitions)
        answered = partial(self._tell, offsets, trio.current_time())
        self._client.release(assigned, offsets, answered)

    def _tell(
        self,
        asked: Sequence[OffsetCommit],
        asked_at: float,
        answer: Sequence[OffsetCommit] | Exception,
    ) -> None:
        self._asked = ()
        if not isinstance(answer, Exception):
            self._committed(answer)
        if self._told is None:
            return
        duration = trio.current_time() - asked_at
        if isinstance(answer, KafkaFailure):
            self._told.commit_failed(asked, answer, duration)
        elif answer and not isinstance(answer, Exception):  # else they had ended, or it closed
            self._told.committed(answer, duration)
