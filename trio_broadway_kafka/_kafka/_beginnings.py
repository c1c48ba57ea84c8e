"""What has to be known of a partition before anything is read of it: where it begins.

That is its committed offset, and what else was finished, as the metadata tell; and where it
starts in place of that. To begin without would handle again what is finished, and make the
outputs of transactions a second time. So what Kafka does not tell now waits: librdkafka holds
it, paused, and Kafka is asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition as Native

from trio_broadway_kafka._kafka._client import AssignedPartition, TopicPartition
from trio_broadway_kafka._kafka._partitions import Partitions, TopicIds
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._starts import Starts
from trio_broadway_kafka._kafka._translate import error_of
from trio_broadway_kafka._kafka._waiting import Waiting
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._moments import StartFrom

__all__ = ["Beginnings"]

ASKING: Final = "asking for committed offsets"

AGAIN: Final = 1.0
"""Seconds between two tries."""

COMMITTED_TIMEOUT: Final = 3.0
"""Seconds for the question in a rebalance, which takes a millisecond."""

COMMITTED_AGAIN_TIMEOUT: Final = 0.25
"""Seconds for the later ones, during which nothing is polled: there may be many, for Kafka does
not tell while a transaction holds the offsets (of a process that was killed: for a minute)."""


class Beginnings:
    """Begins the epochs of assigned partitions, each once all is known of it. Blocks.

    Args:
        partitions: where the epochs are.
        start_from: as in `Session`.
        topic_ids: asks for the ids of topics; those that are not known are missing.
        first_offset: where a partition without a committed offset starts, if it is known.

    Attributes:
        starts: where they start that do not start from the committed offset.
    """

    def __init__(
        self,
        consumer: Consumer,
        partitions: Partitions,
        start_from: StartFrom,
        reports: Reports,
        topic_ids: TopicIds,
        first_offset: int | None,
    ) -> None:
        self.starts = Starts(consumer, start_from, reports)
        self._consumer = consumer
        self._partitions = partitions
        self._reports = reports
        self._topic_ids = topic_ids
        self._first_offset = first_offset
        # Assigned, and it is not known what the group has committed of it.
        self._unknown = Waiting(reports, AGAIN)
        self._ids: dict[str, str] = {}

    def assign(self, partitions: Sequence[Native]) -> list[AssignedPartition]:
        """Begin what librdkafka has been given, in its callback; what can't yet waits."""
        known = self._ask(partitions, COMMITTED_TIMEOUT)
        starts = self._starts_of(known)
        waiting = [*self._unknown.partitions.values(), *self.starts.waiting]
        if starts or waiting:
            self.starts.assign(partitions, starts, waiting)
            self._partitions.pause_unowned(waiting)
        return self._begin(known, starts)

    def again(self) -> list[AssignedPartition]:
        """Ask again for what waits, if it is time to. Returns what begins."""
        begun: list[AssignedPartition] = []
        if self._unknown.is_due():
            unknown = list(self._unknown.partitions.values())
            known = self._ask(unknown, COMMITTED_AGAIN_TIMEOUT)
            starts = self._starts_of(known)
            begun += self._begin(known, starts)
            self._seek(begun)
        if self.starts.is_due():
            waiting = self.starts.waiting
            starts = self.starts.look_up(waiting)
            begun += self._begin(waiting, starts)
            self._partitions.seek(starts)
        return begun

    def forget(self, partitions: Sequence[Native]) -> None:
        """These are not ours any more."""
        self.starts.forget(partitions)
        self._unknown.forget(partitions)

    def _ask(self, partitions: Sequence[Native], timeout: float) -> list[Native]:
        """What is committed of these, as far as Kafka tells; the rest waits."""
        for p in partitions:
            self._unknown.partitions[TopicPartition(p.topic, p.partition)] = p
        answers: list[Native] = []
        try:
            answers = self._consumer.committed(list(partitions), timeout=timeout)
        except KafkaException as exception:
            self._unknown.complain(error_of(exception), ASKING)
        known: list[Native] = []
        # Anew each time: a topic may have been made anew under the same name.
        ids = self._topic_ids({p.topic for p in answers}) if answers else {}
        for answer in answers:
            if answer.error is not None:
                self._unknown.complain(answer.error, ASKING)
            elif answer.offset < 0 or not answer.metadata or answer.topic in ids:
                del self._unknown.partitions[TopicPartition(answer.topic, answer.partition)]
                known.append(answer)
        self._ids.update(ids)  # some begin later, when their start is known
        self._unknown.asked()
        return known

    def _starts_of(self, known: Sequence[Native]) -> dict[TopicPartition, int]:
        starts = self.starts.again(known)
        if first := self.starts.first(known):
            starts |= self.starts.look_up(first)
        return starts

    def _begin(
        self, known: Sequence[Native], starts: Mapping[TopicPartition, int]
    ) -> list[AssignedPartition]:
        """Begin the epochs of those that do not wait for their start."""
        waiting = {(p.topic, p.partition) for p in self.starts.waiting}
        return self._partitions.assign(
            [p for p in known if (p.topic, p.partition) not in waiting],
            ids=self._ids,
            first_offset=self._first_offset,
            starts=starts,
        )

    def _seek(self, begun: Sequence[AssignedPartition]) -> None:
        """Read these, which librdkafka holds at the end, from where they begin."""
        offsets: dict[TopicPartition, int] = {}
        for one in begun:
            known = (one.start, one.committed, self._first_offset)
            offset = next((offset for offset in known if offset is not None), None)
            if offset is None:
                self._reports.fail(
                    KafkaFailure(
                        f"{one.topic} [{one.partition}] has no committed offset, and "
                        "auto.offset.reset does not say where to begin",
                        code="_AUTO_OFFSET_RESET",
                    )
                )
                return
            offsets[TopicPartition(one.topic, one.partition)] = offset
        self._partitions.seek(offsets)
