"""A client that delivers nothing at or beyond the partitions' stops.

The stages see partitions that end at their stops, so what they finish of them, and what is
committed, ends there: exact to the message, and over gaps, for the end is reported as soon as
anything beyond the stop has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import trio

from trio_broadway_kafka._kafka._client import (
    Answered,
    AssignedPartition,
    Chunk,
    ClientEvents,
    KafkaClient,
    OffsetCommit,
    PartitionEnd,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._stops import Stops

__all__ = ["StoppingClient"]


class StoppingClient:
    """A `KafkaClient` over another one, and the events of that one.

    Args:
        client: the one that does the work.
        stops: where its partitions end.
    """

    def __init__(self, client: KafkaClient, stops: Stops) -> None:
        self._client = client
        self._stops = stops
        self._events: ClientEvents
        self._may_fetch = False
        self._wanted = 0

    def begin(self) -> None:
        """Let fetches through: it is known where to stop."""
        self._may_fetch = True
        if self._wanted:
            self._client.fetch(self._wanted)

    # What the stages ask for.

    async def run(
        self,
        events: ClientEvents,
        session: Session,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `KafkaClient`."""
        self._events = events
        await self._client.run(self, session, task_status=task_status)

    def fetch(self, count: int) -> None:
        """See `KafkaClient`."""
        self._wanted = count
        if self._may_fetch:
            self._client.fetch(count)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `KafkaClient`."""
        self._client.pause(partitions)

    def resume(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """See `KafkaClient`. What was at its stop comes there again, or is read again."""
        self._client.resume(positions)

    async def commit(self, offsets: Sequence[OffsetCommit]) -> Sequence[OffsetCommit]:
        """See `KafkaClient`."""
        return await self._client.commit(offsets)

    def release(
        self,
        partitions: Sequence[AssignedPartition],
        offsets: Sequence[OffsetCommit],
        answered: Answered | None = None,
    ) -> None:
        """See `KafkaClient`."""
        self._client.release(partitions, offsets, answered)

    async def end_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `KafkaClient`. No end lies beyond a partition's stop."""
        ends = await self._client.end_offsets(partitions)
        stops = {partition: self._stops.stop(partition) for partition in ends}
        return {
            partition: end if (stop := stops[partition]) is None else min(end, stop)
            for partition, end in ends.items()
        }

    async def begin_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """See `KafkaClient`."""
        return await self._client.begin_offsets(partitions)

    async def offsets_at(
        self, partitions: Sequence[TopicPartition], when: datetime
    ) -> dict[TopicPartition, int | None]:
        """See `KafkaClient`."""
        return await self._client.offsets_at(partitions, when)

    async def committed_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int | None]:
        """See `KafkaClient`."""
        return await self._client.committed_offsets(partitions)

    async def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """See `KafkaClient`."""
        return await self._client.partitions(topics)

    def wall_time(self) -> float:
        """See `KafkaClient`."""
        return self._client.wall_time()

    def since_poll(self) -> float:
        """See `KafkaClient`."""
        return self._client.since_poll()

    @property
    def topics(self) -> Sequence[str]:
        """See `KafkaClient`."""
        return self._client.topics

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Refuse: where to stop was fixed for the topics at opening.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a pipeline with stop_at can't change its topics: where it ends was fixed for "
            f"them when it opened; open another one for {', '.join(topics)}"
        )

    def producer(self, output: Output) -> KafkaProducer:
        """As the client it wraps."""
        return self._client.producer(output)

    def stop(self) -> None:
        """See `KafkaClient`."""
        self._client.stop()

    # What the client reports.

    def assigned(self, partitions: Sequence[AssignedPartition]) -> None:
        """See `ClientEvents`."""
        for assigned in partitions:
            place = TopicPartition(assigned.topic, assigned.partition)
            base = assigned.committed if assigned.start is None else assigned.start
            stop = self._stops.stop(place)
            if base is not None and stop is not None and base >= stop:
                self._client.pause([place])  # nothing of it is needed
        self._events.assigned(partitions)

    def revoking(self, partitions: Sequence[AssignedPartition]) -> None:
        """See `ClientEvents`."""
        self._events.revoking(partitions)

    def lost(self, partitions: Sequence[AssignedPartition]) -> None:
        """See `ClientEvents`."""
        self._events.lost(partitions)

    def fetched(self, chunks: Sequence[Chunk], ends: Sequence[PartitionEnd]) -> None:
        """See `ClientEvents`."""
        kept: list[Chunk] = []
        reported: list[PartitionEnd] = []
        at_stop: list[TopicPartition] = []
        for chunk in chunks:
            place = TopicPartition(chunk.topic, chunk.partition)
            messages = self._stops.below(place, chunk.messages)
            if len(messages) == len(chunk.messages):
                kept.append(chunk)
                continue
            if messages:
                size = sum(len(message.value() or b"") for message in messages)
                kept.append(replace(chunk, messages=list(messages), size=size))
            stop = self._stops.stop(place)
            assert stop is not None
            at_stop.append(place)
            reported.append(PartitionEnd(*place, chunk.epoch, stop))
        for end in ends:
            place = TopicPartition(end.topic, end.partition)
            stop = self._stops.stop(place)
            if stop is None:
                self._stops.saw(place, end.offset)
            elif end.offset >= stop:
                at_stop.append(place)
                end = replace(end, offset=stop)
            reported.append(end)
        if at_stop:
            self._client.pause(at_stop)
        if kept:
            self._wanted = 0
        elif chunks:
            # The client's fetch was answered, but not that of the stages.
            self._client.fetch(self._wanted)
        if kept or reported:
            self._events.fetched(kept, reported)

    def failed(self, error: BaseException) -> None:
        """See `ClientEvents`."""
        self._events.failed(error)
