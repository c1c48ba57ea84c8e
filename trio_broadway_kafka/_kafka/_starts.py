"""Where partitions start that do not start from the group's committed offset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition as Native,
)

from trio_broadway_kafka._kafka._client import OffsetCommit, TopicPartition
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._translate import error_of
from trio_broadway_kafka._kafka._waiting import Waiting
from trio_broadway_kafka._model._moments import StartFrom, milliseconds

__all__ = ["Starts"]

TIMEOUT: Final = 1.0
"""Seconds of one look-up, during which nothing is polled; it takes a few ms."""

AGAIN: Final = 0.5
"""Seconds between two tries of one that had no answer."""


class Starts:
    """Looks up ``start_from`` for the first assignment of each partition. Blocks.

    What can't be looked up now waits: nothing may be read of it, from wherever. A partition
    that was lost before anything of it was committed has not been started in the group's
    eyes: it starts there again.

    Args:
        start_from: as in `Session`.
    """

    def __init__(self, consumer: Consumer, start_from: StartFrom, reports: Reports) -> None:
        self._consumer = consumer
        self._start_from = start_from
        # Where each has started and what was committed then; None once a commit counts.
        self._begun: dict[TopicPartition, tuple[int, int] | None] = {}
        self._waiting = Waiting(reports, AGAIN)
        self.forget = self._waiting.forget
        self.is_due = self._waiting.is_due

    @property
    def waiting(self) -> list[Native]:
        """What waits for its start, with the committed offsets."""
        return list(self._waiting.partitions.values())

    def first(self, committed: Iterable[Native]) -> list[Native]:
        """Those of `committed` that are assigned for the first time, to be looked up."""
        if self._start_from == "committed":
            return []
        return [p for p in committed if TopicPartition(p.topic, p.partition) not in self._begun]

    def again(self, committed: Iterable[Native]) -> dict[TopicPartition, int]:
        """The starts of those whose earlier assignments have left no commit behind."""
        found: dict[TopicPartition, int] = {}
        for native in committed:
            place = TopicPartition(native.topic, native.partition)
            begun = self._begun.get(place)
            if begun is not None and begun[1] == native.offset:
                found[place] = begun[0]
        return found

    def committed(self, offsets: Sequence[OffsetCommit]) -> None:
        """These were committed: from now on the committed offset is where they start."""
        for offset in offsets:
            place = TopicPartition(offset.topic, offset.partition)
            if place in self._begun:
                self._begun[place] = None

    def assign(
        self,
        partitions: Sequence[Native],
        starts: Mapping[TopicPartition, int],
        waiting: Sequence[Native],
    ) -> None:
        """Assign what librdkafka would assign by itself, with where to start.

        What is `waiting` is held at the end: its committed offset may be one that is no longer
        there, which is fatal under auto.offset.reset=error.
        """
        held = [TopicPartition(p.topic, p.partition) for p in waiting]
        offsets = dict.fromkeys(held, OFFSET_END) | dict(starts)
        explicit = [
            Native(*place, offsets.get(place, OFFSET_STORED))
            for place in (TopicPartition(p.topic, p.partition) for p in partitions)
        ]
        try:
            self._consumer.incremental_assign(explicit)
        except KafkaException as error:
            if error_of(error).name() != "_STATE":
                raise
            self._consumer.assign(explicit)  # an eager assignor: these are all there are

    def look_up(self, committed: Sequence[Native]) -> dict[TopicPartition, int]:
        """The starts of these; what is missing among them waits."""
        for native in committed:
            place = TopicPartition(native.topic, native.partition)
            self._waiting.partitions.setdefault(place, native)
        found: dict[TopicPartition, int] = {}
        match self._start_from:
            case datetime() as when:
                found = self._offsets(committed, milliseconds(when))
                # No record at or after it.
                late = [place for place, offset in found.items() if offset < 0]
                ends = self._offsets([Native(*place) for place in late], OFFSET_END)
                found = {p: o for p, o in found.items() if o >= 0} | ends
            case "earliest":
                found = self._offsets(committed, OFFSET_BEGINNING)
            case _:
                found = self._offsets(committed, OFFSET_END)
        for place, start in found.items():
            self._begun[place] = (start, self._waiting.partitions.pop(place).offset)
        self._waiting.asked()
        return found

    def _offsets(self, partitions: Sequence[Native], at: int) -> dict[TopicPartition, int]:
        """What the brokers say, of those partitions for which they do.

        Args:
            partitions: what to ask for.
            at: milliseconds, or one of the logical offsets, which Kafka takes in their place
                (https://kafka.apache.org/protocol#The_Messages_ListOffsets).
        """
        if not partitions:
            return {}
        asked = [Native(p.topic, p.partition, at) for p in partitions]
        try:
            answers = self._consumer.offsets_for_times(asked, timeout=TIMEOUT)
        except KafkaException as exception:
            self._complain(error_of(exception), asked[0])
            return {}
        found: dict[TopicPartition, int] = {}
        for answer in answers:
            if answer.error is None:
                found[TopicPartition(answer.topic, answer.partition)] = answer.offset
            else:
                self._complain(answer.error, answer)
        return found

    def _complain(self, error: KafkaError, about: Native) -> None:
        where = f"{about.topic} [{about.partition}]"
        self._waiting.complain(error, f"looking up where {where} starts")
