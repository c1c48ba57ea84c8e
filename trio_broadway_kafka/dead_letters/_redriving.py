"""Sending letters back to the topics they came from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from trio_broadway_kafka._kafka._client import KafkaClient, Session
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._model._errors import ConfigError, KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._policies import is_count
from trio_broadway_kafka._model._segment import SUCCEEDED
from trio_broadway_kafka._stages._tasks import ShieldWhenStarted
from trio_broadway_kafka.dead_letters._letter import ALL, Selection
from trio_broadway_kafka.dead_letters._reader import Found, Reader, client_of, reading

__all__ = ["Redriven", "redrive"]

_log = logging.getLogger("trio_broadway_kafka")


@dataclass(slots=True)
class Redriven:
    """What came of it so far.

    Attributes:
        sent: letters that were sent back (or would be), by topic.
        not_meant: letters that were left, as the selection does not mean them.
        at_limit: letters that were left, as they have been sent back often enough.
        without_origin: records that were left, as they do not say where they came from.
        read: offsets of the topic that have been read,
        total: of so many.
        is_full: it ended early: what was left is scattered among what was sent back, and no
            more of that can be remembered (see ``docs/failures.md``).
    """

    sent: dict[str, int] = field(default_factory=dict[str, int])
    not_meant: int = 0
    at_limit: int = 0
    without_origin: int = 0
    read: int = 0
    total: int = 0
    is_full: bool = False

    @property
    def count(self) -> int:
        """Letters that were sent back (or would be)."""
        return sum(self.sent.values())


async def redrive(
    topic: str,
    *,
    kafka: Mapping[str, object] | None = None,
    selection: Selection = ALL,
    max_count: float = math.inf,
    max_replays: float = 3,
    dry_run: bool = False,
    output: Output | None = None,
    progress: Callable[[Redriven], object] | None = None,
    open_timeout: float = 30.0,
    close_timeout: float = 5.0,
    client: KafkaClient | None = None,
) -> Redriven:
    """Send letters back to the topics they came from, up to where their topic ends now.

    Each goes by its key, with its value and headers as they were, and with a header that
    counts how often it was sent back. It is acknowledged once it is delivered, so that the
    next redrive passes it over; what is left here stays for one to come. A crash in between
    may send a letter twice. Cancelling it acknowledges what was delivered.

    Args:
        topic: the dead-letter topic.
        kafka: as for `read`.
        selection: which letters; others are left.
        max_count: how many at most.
        max_replays: letters that have been sent back so often are left, or what always
            fails would go round for ever.
        dry_run: only look: nothing is sent and nothing acknowledged.
        output: how to produce; ``transactional_id`` is not for this.
        progress: called now and then.
        open_timeout: seconds within which the broker must answer.
        close_timeout: seconds for acknowledging the last ones.
        client: in place of `kafka`, for tests.

    Raises:
        ConfigError: an option is wrong.
        ExceptionGroup: of `KafkaFailure`: Kafka refused, or a topic is missing.
    """
    for name, number in (("max_count", max_count), ("max_replays", max_replays)):
        if not is_count(number):
            raise ConfigError(
                f"{name} must be a whole number of 1 or more, or math.inf, not {number!r}"
            )
    output = output or Output()
    if output.transactional_id is not None:
        raise ConfigError("a redrive has no transactions: leave transactional_id out")
    session = Session(topics=(topic,), open_timeout=open_timeout, close_timeout=close_timeout)
    chosen = client_of(kafka, client, topic, session)
    result = Redriven()
    async with reading(chosen, topic, session) as reader:
        run = _Run(reader, selection, max_replays, result)
        if dry_run:
            await run.look(max_count, progress)
            return result
        producer = chosen.producer(output)
        async with trio.open_nursery() as nursery:
            await nursery.start(_run, producer)
            try:
                await run.send(producer, max_count, progress)
            finally:
                with trio.move_on_after(close_timeout, shield=True) as closing:
                    await run.wait_answered()
                    await reader.acknowledger.commit()
                if closing.cancelled_caught:
                    _log.warning(
                        "no answer from Kafka within close_timeout (%g s): the last letters "
                        "may be sent back again",
                        close_timeout,
                    )
                producer.stop()
    return result


async def _run(producer: KafkaProducer, *, task_status: trio.TaskStatus[None]) -> None:
    # What is on its way is waited for, though all is cancelled: it ends by `stop`.
    with trio.CancelScope() as scope:
        await producer.run(task_status=ShieldWhenStarted(scope, task_status))


class _Run:
    """One redrive, over what a reader finds."""

    def __init__(
        self, reader: Reader, selection: Selection, max_replays: float, result: Redriven
    ) -> None:
        self._reader = reader
        self._selection = selection
        self._max_replays = max_replays
        self._result = result
        self._unanswered = 0
        self._all_answered = trio.Event()
        self._failed: KafkaFailure | None = None

    def _choose(self, letters: Sequence[Found], room: float) -> list[Found]:
        """Those to be sent back, and count the others."""
        result = self._result
        chosen: list[Found] = []
        for one in letters:
            letter = one.letter
            if len(chosen) >= room:
                break
            if letter.came_from is None or letter.came_from[0] == letter.topic:
                result.without_origin += 1
            elif not self._selection.takes(letter):
                result.not_meant += 1
            elif letter.replays >= self._max_replays:
                result.at_limit += 1
            else:
                chosen.append(one)
        return chosen

    def _note(self, letters: Sequence[Found], progress: object) -> None:
        for one in letters:
            assert one.letter.came_from is not None
            to = one.letter.came_from[0]
            self._result.sent[to] = self._result.sent.get(to, 0) + 1
        self._tell(progress)

    def _tell(self, progress: object) -> None:
        self._result.read, self._result.total = self._reader.passed, self._reader.total
        if callable(progress):
            progress(self._result)

    async def look(self, max_count: float, progress: object) -> None:
        while letters := await self._reader.next():
            self._note(self._choose(letters, max_count - self._result.count), progress)
            if self._result.count >= max_count:
                return
        self._tell(progress)

    async def send(self, producer: KafkaProducer, max_count: float, progress: object) -> None:
        reader = self._reader
        while letters := await reader.next():
            async with reader.lock:
                # Some may have gone to another member since they were read.
                here = [one for one in letters if one.segment.partition.live]
                chosen = self._choose(here, max_count - self._result.count)
                await self._deliver(producer, chosen)
            self._note(chosen, progress)
            await reader.acknowledger.commit()
            if self._result.count >= max_count:
                return
            if reader.is_full:
                self._result.is_full = True
                return
        self._tell(progress)

    async def _deliver(self, producer: KafkaProducer, letters: Sequence[Found]) -> None:
        """Produce letters, and note which were delivered.

        Raises:
            KafkaFailure: one could not be.
        """
        self._unanswered += len(letters)
        for one in letters:
            producer.produce(one.letter.sent_back(), partial(self._answered, one))
        await self.wait_answered()
        if self._failed is not None:
            raise self._failed

    def _answered(self, one: Found, failure: KafkaFailure | None) -> None:
        self._unanswered -= 1
        self._failed = self._failed or failure
        if failure is None:
            one.segment.flags[one.index] = SUCCEEDED
        if not self._unanswered:
            self._all_answered.set()

    async def wait_answered(self) -> None:
        """Wait until nothing is on its way."""
        if self._unanswered:
            self._all_answered = trio.Event()
            await self._all_answered.wait()
