"""What the stages see of producing: one protocol.

All methods are called in trio's thread, and all answers arrive there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output_record import OutputRecord

__all__ = ["KafkaProducer", "Produced", "stale_epoch"]

Produced = Callable[[KafkaFailure | None], None]
"""Called with None when a record is delivered, or with why it can't be. Never raises."""


class KafkaProducer(Protocol):
    """Produces records, to the brokers that a client reads from. It runs once.

    What is called before `run` is done when it has started.
    """

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and produce what is asked for, from ``started()`` until `stop`.

        Returns when the producer is closed. Cancelling it abandons what is outstanding.

        Raises:
            KafkaFailure: before ``started()``: with a ``transactional_id``, no broker has
                answered within ``open_timeout``.
        """

    def produce(self, record: OutputRecord, answered: Produced) -> None:
        """Produce a record; the order within a partition is that of the calls. Never waits.

        What may pass (an outage, a missing topic) is tried again for ``delivery_timeout``.
        """

    async def transact(
        self, records: Sequence[OutputRecord], offsets: Sequence[OffsetCommit]
    ) -> Sequence[OffsetCommit]:
        """Produce `records` and commit `offsets`, all of it or nothing, in a transaction.

        Returns what was committed. If it is cancelled and raises that, `outcome` tells what
        became of it, and is to be asked before the next one; if it was committed all the same
        it returns.

        Raises:
            KafkaFailure: nothing was done; where ``retriable``, it may be tried again. If the
                epoch of any offset has ended (code ``ILLEGAL_GENERATION``), without what is
                made of that epoch: the next owner makes it again.
            FencedError: another process has taken the ``transactional_id``.
        """
        ...

    async def outcome(self) -> bool:
        """Wait until the last transaction has ended, if `transact` was cancelled meanwhile.

        Returns whether that one was committed: else nothing was done.

        Raises:
            KafkaFailure: nobody can tell; this was the last one.
        """
        ...

    def stop(self) -> None:
        """Close: `run` returns soon. Idempotent."""


def stale_epoch() -> KafkaFailure:
    """What `KafkaProducer.transact` raises where the epoch of an offset has ended."""
    return KafkaFailure(
        "no transaction: a partition of it has been taken away",
        code="ILLEGAL_GENERATION",
        retriable=True,
    )
