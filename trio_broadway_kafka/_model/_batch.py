"""One batch: the messages of a call of ``handle_batch``, and where they came from."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trio_broadway_kafka._model._message import Message, Route, messages_of
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._output_record import OutputRecord
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment

__all__ = ["Batch", "Failed", "Trigger"]

Trigger = Literal["size", "timeout", "flush", "drain", "revoke", "pressure"]

_SUCCESS = bytes((SUCCEEDED,))

# What a message is when the stage begins: data, batcher and batch key and mode, outputs.
_Start = tuple[Any, Route | None, Sequence[OutputRecord]]


@dataclass(frozen=True, slots=True)
class Failed:
    """A message of a batch that failed: why, and where its flag is."""

    message: Message
    error: BaseException
    segment: Segment
    index: int


class Batch:
    """Messages that one call of ``handle_batch`` gets, in the order in which they came.

    Iterating makes the messages; `raw_values` and `raw_keys` give the records' bytes
    without that.

    Attributes:
        batcher: the batcher's name.
        key: the ``batch_key`` that its messages share.
        weight: the sum of what ``weigh`` returned for them; their number without it.
        trigger: what closed it: ``"size"``, ``"timeout"``, ``"flush"`` (a message with
            ``batch_mode="flush"``), ``"drain"`` (also where a partition is paused by its
            policy), ``"revoke"`` (a partition is taken away),
            or ``"pressure"`` (``max_in_flight`` is reached and nothing else could leave).
    """

    __slots__ = (
        "_are_messages",
        "_failed",
        "_items",
        "_messages",
        "_opened_at",
        "_runs",
        "_starts",
        "batcher",
        "key",
        "trigger",
        "weight",
    )

    def __init__(self, batcher: str, key: Hashable, opened_at: float) -> None:
        self.batcher: str = batcher
        self.key: Hashable = key
        self.weight: float = 0
        self.trigger: Trigger = "size"
        self._opened_at = opened_at
        self._failed = False  # before it was handled: its messages are only to be settled
        # Messages, or records of which nobody has asked for messages yet.
        self._items: list[Any] = []
        self._are_messages = True
        self._messages: tuple[Message, ...] | None = None
        # What the messages were when the stage began; None where nobody asks for it.
        self._starts: list[_Start] | None = None
        # Where they are, in the same order: [segment, index of the first, behind the last].
        self._runs: list[tuple[Segment, int, int]] = []

    def __repr__(self) -> str:
        # Never the key: reprs end in logs.
        return f"<Batch of {len(self)} messages for {self.batcher!r}, {self.trigger}>"

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages."""
        if self._messages is None:
            made = self._items if self._are_messages else messages_of(self._items)
            self._messages = tuple(made)
        return self._messages

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self._items)

    def raw_values(self) -> list[bytes | None]:
        """The values of the records, as Kafka has them."""
        return self._read("value")

    def raw_keys(self) -> list[bytes | None]:
        """The keys of the records, as Kafka has them."""
        return self._read("key")

    def _read(self, field: Literal["key", "value"]) -> list[bytes | None]:
        if self._are_messages:  # of which some may be tried again, and so are of two kinds
            return [getattr(item._raw, field)() for item in self._items]
        # The method of the client's class: a lookup a batch, not one a message.
        raws = self._items
        return list(map(getattr(type(raws[0]), field), raws)) if raws else []

    # What follows is for the stages.

    def _add(self, item: Any, weight: float, segment: Segment, index: int) -> None:
        """Add one message, or one record."""
        self._items.append(item)
        self.weight += weight
        runs = self._runs
        if runs and runs[-1][0] is segment and runs[-1][2] == index:
            runs[-1] = (segment, runs[-1][1], index + 1)
        else:
            runs.append((segment, index, index + 1))

    def _add_records(self, records: Sequence[Any], segment: Segment, first: int) -> None:
        """Add records that follow one another in a segment."""
        self._are_messages = False
        self._items += records
        self.weight += len(records)
        self._runs.append((segment, first, first + len(records)))

    @property
    def _first_record(self) -> Any:
        """What its first message is made of."""
        first = self._items[0]
        return first._record if self._are_messages else first

    def _partitions(self) -> set[PartitionOffsets]:
        """The assignments that its messages belong to."""
        return {segment.partition for segment, _, _ in self._runs}

    def _note_starts(self) -> None:
        """Remember what the messages are now, for those that will be tried again."""
        if self._are_messages:
            self._starts = [(m.data, m._route, tuple(m._outputs)) for m in self._items]

    def _again(self, failed: Sequence[Failed]) -> Batch:
        """A batch of those that failed, each as it was when the stage began."""
        again = Batch(self.batcher, self.key, self._opened_at)
        again.trigger = self.trigger
        weight = self.weight / len(self)  # as in `_without`
        starts = None
        if self._starts is not None:
            starts = dict(zip(map(id, self._items), self._starts, strict=True))
        for one in failed:
            record = one.message._again()
            if starts is None:
                again._add(record, weight, one.segment, one.index)
            else:
                message = Message(record)
                message.data, message._route, message._outputs = starts[id(one.message)]
                again._add(message, weight, one.segment, one.index)
        again._are_messages = starts is not None
        return again

    def _places(self) -> Iterator[tuple[Segment, int]]:
        """Segment and index of each message."""
        for segment, first, behind in self._runs:
            for index in range(first, behind):
                yield segment, index

    def _finish(self) -> None:
        """All its messages have succeeded."""
        for segment, first, behind in self._runs:
            segment.flags[first:behind] = _SUCCESS * (behind - first)

    def _has_special(self) -> bool:
        """Whether a message has more to it than its record, such as a failure."""
        made = self._items if self._are_messages else self._messages
        return made is not None and any(message._special is not None for message in made)

    def _without(self, partitions: Collection[PartitionOffsets]) -> int:
        """Drop the messages of these assignments, and what is finished.

        Returns how many there were.
        """
        if not any(segment.partition in partitions for segment, _, _ in self._runs):
            return 0
        count = len(self)
        kept = [
            (item, segment, index)
            for item, (segment, index) in zip(self._items, self._places(), strict=True)
            if segment.partition not in partitions and not segment.flags[index]
        ]
        # Not weighed again: a share of what it weighed will do for what is left.
        weight = self.weight / count
        self.weight = 0
        self._items, self._runs, self._messages = [], [], None
        for item, segment, index in kept:
            self._add(item, weight, segment, index)
        return count - len(kept)
