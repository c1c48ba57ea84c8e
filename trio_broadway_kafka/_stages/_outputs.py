"""Outputs: records that leave with the acknowledgement of a message.

A message is finished when it is acknowledged AND its outputs are delivered: only then its
flag is set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._model._errors import DeadLetterFailed, KafkaFailure
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._output_record import OutputRecord
from trio_broadway_kafka._model._segment import DEAD_LETTERED, Segment
from trio_broadway_kafka._stages._tasks import ShieldWhenStarted

__all__ = ["Leaving", "Outputs"]


class Leaving:
    """A message that is settled, and whose outputs are on their way.

    Attributes:
        segment, index: where its flag is.
        flag: what that will be.
        records: the outputs.
        size: their bytes.
        unanswered: how many of them are not delivered.
    """

    __slots__ = ("flag", "index", "records", "segment", "size", "unanswered")

    def __init__(
        self, segment: Segment, index: int, flag: int, records: list[OutputRecord]
    ) -> None:
        self.segment = segment
        self.index = index
        self.flag = flag
        self.records = records
        self.size = sum(record.size for record in records)
        self.unanswered = len(records)


class Outputs:
    """Lets the outputs of settled messages leave, each as soon as it can.

    Args:
        make: makes the producer, when the first output is to leave. Without it none can.
        held: told of the bytes of outputs that wait.
        finished: called when messages have finished.
        failed: told of a delivery that has failed for good: the pipeline ends.

    Attributes:
        is_transactional: whether offsets are committed by the producer.
        sent: how many outputs have left, with their messages finished, by their topics.
        scope: cancelling it abandons the producer.
        closed: set while no producer runs.
    """

    is_transactional = False

    def __init__(
        self,
        make: Callable[[], KafkaProducer] | None = None,
        *,
        held: Callable[[int], object] = bool,
        finished: Callable[[], object] = bool,
        failed: Callable[[BaseException], object] = bool,
    ) -> None:
        self._make = make
        self._held = held
        self._finished = finished
        self._failed = failed
        self._producer: KafkaProducer | None = None
        self._nursery: trio.Nursery
        self._answered = trio.lowlevel.ParkingLot()
        self._delivered: trio.Event | None = None
        self.sent: Counter[str] = Counter()
        self.scope = trio.CancelScope()
        self.closed = trio.Event()
        self.closed.set()

    def start(self, nursery: trio.Nursery) -> None:
        """Let all tasks be those of `nursery`."""
        self._nursery = nursery
        nursery.start_soon(self._tell)

    async def open(self, *, is_asked_for: bool) -> None:
        """Have a producer before anything is handled, where one will be needed.

        Its first record takes half a second otherwise: an idempotent producer asks for an id
        as soon as it can, and again later if that is too soon (librdkafka 2.16).
        """
        if is_asked_for:
            self._get_producer()

    async def commit(
        self,
        offsets: Callable[[], list[OffsetCommit]],
        commit: Callable[[Sequence[OffsetCommit]], Awaitable[Sequence[OffsetCommit]]],
        asked: Callable[[Sequence[OffsetCommit]], None],
    ) -> Sequence[OffsetCommit] | None:
        """Commit `offsets`, as they are then. Returns what was committed, None for nothing.

        Args:
            offsets: gives what is to be committed, of what is finished now.
            commit: commits it as a consumer does.
            asked: told of what will be asked for.
        """
        wanted = offsets()
        if not wanted:
            return None
        asked(wanted)
        return await commit(wanted)

    async def outcome(self) -> Sequence[OffsetCommit]:
        """What a `commit` that was cancelled has committed, as far as anybody is told: nothing.

        To repeat one does no harm, but in transactions.
        """
        return ()

    def finish(self, segment: Segment, index: int, message: Message, flag: int) -> int:
        """The flag of a message that is settled: 0 until its outputs have left. Never waits."""
        special = message._special
        if special is None or not special.outputs:
            return flag
        if segment.partition.cut_off:  # its handler resisted: its outcome is dropped
            return 0
        return self._leave(Leaving(segment, index, flag, special.outputs))

    def _leave(self, leaving: Leaving) -> int:
        """Let outputs leave. Returns the flag that the message has meanwhile."""
        self._note_leaving(leaving)
        producer = self._get_producer()

        def answered(failure: KafkaFailure | None) -> None:
            self._note_answer(leaving, failure)

        for record in leaving.records:
            producer.produce(record, answered)
        return 0

    def _note_answer(self, leaving: Leaving, failure: KafkaFailure | None) -> None:
        leaving.unanswered -= 1
        if failure is not None:
            self._failed(_of_dead_letter(failure, leaving))
            leaving.flag = 0  # it stays unfinished
        if leaving.unanswered:
            return
        if leaving.flag:
            leaving.segment.flags[leaving.index] = leaving.flag
        self._note_left(leaving)

    def _note_leaving(self, leaving: Leaving) -> None:
        partition = leaving.segment.partition
        partition.leaving += 1
        partition.output_bytes += leaving.size
        self._held(leaving.size)

    def _note_left(self, leaving: Leaving) -> None:
        partition = leaving.segment.partition
        partition.leaving -= 1
        partition.output_bytes -= leaving.size
        if leaving.flag:
            self.sent.update(record.topic for record in leaving.records)
        self._answered.unpark()  # once for all that are answered together
        if self._delivered is not None:
            self._delivered.set()
            self._delivered = None

    async def _tell(self) -> None:
        while True:
            await self._answered.park()
            self._finished()

    async def wait_delivered(self, partitions: Collection[PartitionOffsets]) -> None:
        """Wait until no output of these is on its way."""
        while any(partition.leaving for partition in partitions):
            if self._delivered is None:
                self._delivered = trio.Event()
            await self._delivered.wait()

    # The producer.

    def _get_producer(self) -> KafkaProducer:
        if self._producer is None:
            self._nursery.start_soon(self._run, self._new_producer())
        assert self._producer is not None
        return self._producer

    def _new_producer(self) -> KafkaProducer:
        if self._make is None:
            raise RuntimeError("there is nowhere to produce to")
        self._producer = self._make()
        self.closed = trio.Event()
        return self._producer

    @trio.lowlevel.enable_ki_protection  # as the source: leaving needs it
    async def _run(
        self,
        producer: KafkaProducer,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            with self.scope:
                await producer.run(task_status=ShieldWhenStarted(self.scope, task_status))
        finally:
            self.closed.set()

    def stop(self) -> None:
        """Close the producer; `closed` is set when that is done."""
        if self._producer is not None:
            self._producer.stop()


def _of_dead_letter(failure: KafkaFailure, leaving: Leaving) -> KafkaFailure:
    if leaving.flag != DEAD_LETTERED:
        return failure
    where = leaving.segment.partition
    offset = leaving.segment.offset_of(leaving.index)
    text = f"the dead letter of {where.topic}/{where.partition}@{offset}: {failure}"
    return DeadLetterFailed(text, code=failure.code, retriable=failure.retriable)
