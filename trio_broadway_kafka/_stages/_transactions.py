"""Transactions: outputs leave together with the offsets of what they were made of.

What is settled and has outputs is finished at once, but waits here: that it is finished can't
be committed other than in a transaction, and each one takes the outputs of just what its
offsets and their maps (see `_model._offset_map`) tell of. After an abort the same outputs go
into the next one, for epochs that are still alive; no handler runs again. What does not fit
in a map yet, behind an unfinished message, waits, or a crash would repeat it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._stages._outputs import Leaving, Outputs

__all__ = ["Transactions"]

# A topic is missing; it may be made meanwhile, but not for ever.
_MISSING = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"})


class Transactions(Outputs):
    """Lets the outputs of settled messages leave in transactions.

    Args:
        make: makes the producer.
        delivery_timeout: seconds for which outputs are tried whose topic is missing.
        held: as for `Outputs`, and so are the rest.
    """

    is_transactional = True

    def __init__(
        self,
        make: Callable[[], KafkaProducer],
        *,
        delivery_timeout: float,
        held: Callable[[int], object],
        finished: Callable[[], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        super().__init__(make, held=held, finished=finished, failed=failed)
        self._delivery_timeout = delivery_timeout
        self._pending: list[Leaving] = []
        # Of the transaction under way: its offsets, and what leaves in it.
        self._under_way: tuple[Sequence[OffsetCommit], Collection[Leaving]] | None = None
        self._missing_since: float | None = None

    async def open(self, *, is_asked_for: bool) -> None:
        """Take over the ``transactional_id``: whoever had it is fenced."""
        await self._nursery.start(self._run, self._new_producer())

    def _leave(self, leaving: Leaving) -> int:
        self._note_leaving(leaving)
        self._pending.append(leaving)
        return leaving.flag

    async def wait_delivered(self, partitions: Collection[PartitionOffsets]) -> None:
        """Nothing: what can leave leaves with the next commit, and the rest can't."""

    async def commit(
        self,
        offsets: Callable[[], list[OffsetCommit]],
        commit: Callable[[Sequence[OffsetCommit]], Awaitable[Sequence[OffsetCommit]]],
        asked: Callable[[Sequence[OffsetCommit]], None],
    ) -> Sequence[OffsetCommit] | None:
        """See `Outputs.commit`; in a transaction, with what the offsets cover.

        Raises:
            KafkaFailure: it was aborted; where ``retriable``, the next one takes the same.
            FencedError: another process has taken the ``transactional_id``.
        """
        self._drop_dead()
        wanted = offsets()
        if not wanted:
            return None
        asked(wanted)
        covered = {(o.topic, o.partition, o.epoch): o for o in wanted}
        leaving = [one for one in self._pending if _is_covered(one, covered)]
        assert self._producer is not None
        self._under_way = wanted, leaving
        try:
            committed = await self._producer.transact(
                [record for one in leaving for record in one.records], wanted
            )
        except KafkaFailure as failure:
            self._under_way = None
            raise self._judged(failure) from failure.__cause__
        self._note_made()
        return committed

    async def outcome(self) -> Sequence[OffsetCommit]:
        """See `Outputs.outcome`.

        Raises:
            KafkaFailure: nobody can tell.
        """
        if self._under_way is None:
            return ()
        assert self._producer is not None
        if not await self._producer.outcome():
            self._under_way = None
            return ()
        return self._note_made()

    def _note_made(self) -> Sequence[OffsetCommit]:
        """What was under way is committed."""
        assert self._under_way is not None
        offsets, leaving = self._under_way
        self._under_way = self._missing_since = None
        left = set(leaving)
        self._pending = [one for one in self._pending if one not in left]
        for one in leaving:
            self._note_left(one)
        return offsets

    def _drop_dead(self) -> None:
        """Forget the outputs of epochs that have ended: the next owner makes them anew."""
        dead = [one for one in self._pending if not one.segment.partition.live]
        if dead:
            self._pending = [one for one in self._pending if one.segment.partition.live]
            for one in dead:
                one.flag = 0  # they have not left
                self._note_left(one)

    def _judged(self, failure: KafkaFailure) -> KafkaFailure:
        """The failure, for good if a topic has been missing for too long."""
        if failure.code not in _MISSING:
            return failure
        now = trio.current_time()
        if self._missing_since is None:
            self._missing_since = now
        if now - self._missing_since < self._delivery_timeout:
            return failure
        return KafkaFailure(str(failure), code=failure.code)


def _is_covered(leaving: Leaving, covered: dict[tuple[str, int, int], OffsetCommit]) -> bool:
    """Whether who reads these offsets next takes the message for finished."""
    partition = leaving.segment.partition
    commit = covered.get((partition.topic, partition.partition, partition.epoch))
    if commit is None:
        return False
    # The map that was made last is this one: nothing has been awaited since.
    behind = partition.ahead.end if commit.metadata else commit.offset
    return leaving.segment.offset_of(leaving.index) < behind
