"""A pipeline on a FakeBroker with its dashboard, and what a client of it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import trio

from trio_broadway_kafka import Message, Pipeline, Stages, open_pipeline
from trio_broadway_kafka.dashboard import Dashboard, open_dashboard
from trio_broadway_kafka.testing import FakeBroker

__all__ = ["Answer", "Shown", "ask", "connect", "next_event", "shown", "take"]


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def words(self) -> str:
        return self.body.decode().strip()


@dataclass
class Shown:
    """A pipeline that is shown."""

    broker: FakeBroker
    pipeline: Pipeline
    dashboard: Dashboard
    streamed: trio.Event  # somebody has begun to read the stream

    @property
    def port(self) -> int:
        return int(self.dashboard.url.rstrip("/").rpartition(":")[2])


async def take(message: Message) -> None: ...


@asynccontextmanager
async def shown(
    stages: Stages | None = None,
    *,
    broker: FakeBroker | None = None,
    max_in_flight: int = 1_000,
    **options: Any,
) -> AsyncGenerator[Shown]:
    """Open both, over topic "t" of two partitions unless a broker is given."""
    broker = broker or FakeBroker(topics={"t": 2})
    async with (
        open_pipeline(
            client=broker.client(),
            topics=["t"],
            name="orders",
            stages=stages or Stages(handle_message=take),
            max_in_flight=max_in_flight,
            drain_timeout=0,
        ) as pipeline,
        open_dashboard(pipeline, port=0, **options) as dashboard,
    ):
        await pipeline.wait_assigned()
        streamed = trio.Event()
        stream = dashboard._stream

        def begin() -> AsyncGenerator[bytes]:
            streamed.set()
            return stream()

        dashboard._stream = begin  # type: ignore[method-assign]
        yield Shown(broker, pipeline, dashboard, streamed)


async def connect(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    host: str = "localhost",
    stream: trio.SocketStream | None = None,
) -> Answer:
    """Ask for something, on a connection of its own unless one is given."""
    own = stream is None
    stream = stream or await connect(port)
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", host)]
    if own:
        headers.append(("Connection", "close"))
    request = h11.Request(method=method, target=path, headers=headers)
    await stream.send_all(
        (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    )
    head: h11.Response | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
    if own:
        await stream.aclose()
    assert head is not None
    names = {name.decode().lower(): value.decode() for name, value in head.headers}
    return Answer(head.status_code, names, body)


async def next_event(stream: trio.SocketStream, wanted: str, so_far: bytearray) -> Any:
    """The next event of a kind from a stream of events."""
    while True:
        mark = f"event: {wanted}\ndata: ".encode()
        start = so_far.find(mark)
        end = so_far.find(b"\n\n", start) if start >= 0 else -1
        if end >= 0:
            found = json.loads(bytes(so_far[start + len(mark) : end]))
            del so_far[: end + 2]
            return found
        data = await stream.receive_some()
        assert data, "the stream has ended"
        so_far += data
