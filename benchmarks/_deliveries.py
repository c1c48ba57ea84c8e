"""A producer whose deliveries trio tasks wait for, with nothing but confluent's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager

import trio
from confluent_kafka import KafkaError, KafkaException, Message as Record, Producer

__all__ = ["Deliveries", "open_deliveries"]


class Deliveries:
    """A producer, and a thread that serves its delivery reports.

    The thread reports once for all that one poll brought, not once for each record: a way
    into trio's thread costs 10 µs.
    """

    def __init__(self, settings: Mapping[str, object]) -> None:
        self._producer = Producer(dict(settings))
        self._token = trio.lowlevel.current_trio_token()
        self._delivered: list[_Sending] = []
        self._closing = False

    async def send(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]
    ) -> None:
        """Produce records, given as key and value, and return once the broker has them all.

        Cancelling ends the waiting, not the sending.

        Raises:
            KafkaException: one of them was given up, after ``delivery.timeout.ms``.
        """
        records = list(records)
        sending = _Sending(len(records), self._delivered)
        for key, value in records:
            self._producer.produce(topic, value, key, on_delivery=sending.report)
        if records:
            await sending.over.wait()
        if sending.error is not None:
            raise KafkaException(sending.error)

    def serve_reports(self) -> None:
        """Poll until `close`, in a thread of its own."""
        while not self._closing:
            self._producer.poll(0.1)
            if self._delivered:
                delivered = self._delivered.copy()
                self._delivered.clear()
                self._token.run_sync_soon(_end, delivered)

    def close(self) -> None:
        """Let `serve_reports` return."""
        self._closing = True


class _Sending:
    """What one call of `Deliveries.send` waits for."""

    def __init__(self, count: int, delivered: list[_Sending]) -> None:
        self.left = count
        self.error: KafkaError | None = None
        self.over = trio.Event()
        self._delivered = delivered

    def report(self, error: KafkaError | None, record: Record) -> None:
        """A delivery report, in the polling thread."""
        self.error = self.error or error
        self.left -= 1
        if not self.left:
            self._delivered.append(self)


def _end(delivered: Iterable[_Sending]) -> None:
    for sending in delivered:
        sending.over.set()


@asynccontextmanager
async def open_deliveries(settings: Mapping[str, object]) -> AsyncGenerator[Deliveries]:
    """A producer for the block. Open it around the pipeline, which needs it to the end."""
    deliveries = Deliveries(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, deliveries.serve_reports)
        try:
            yield deliveries
        finally:
            deliveries.close()
