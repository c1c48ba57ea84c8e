"""A TCP proxy that does to connections what networks do: delay, slice, swallow, cut, reset.

::

    async with open_proxy(to_port) as proxy:
        ...                    # clients connect to 127.0.0.1:proxy.port
        proxy.delay = 0.2      # each piece comes so much later
        proxy.slice = 7        # ... and in pieces of at most so many bytes
        proxy.swallow()        # nothing comes through, and nobody is told: a partition
        proxy.heal()           # all is well again, for new connections and old ones
        proxy.reset()          # all connections are reset
        proxy.cut()            # all are closed, and new ones too, until `heal`
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio
import trio.lowlevel

__all__ = ["Proxy", "open_proxy"]

PIECE = 65_536
"""Bytes that are read at once."""


@dataclass(eq=False)
class _Pair:
    """The two ends of a connection through the proxy."""

    client: trio.SocketStream
    server: trio.SocketStream
    scope: trio.CancelScope


class Proxy:
    """What is done to the connections; may be changed at any time.

    Attributes:
        port: where to connect to, on 127.0.0.1.
        delay: seconds by which each piece comes later, in both directions, in order.
        slice: bytes that come at most at once.
        accepted: connections so far.
        passed: bytes that have come through, to the server and back.
    """

    def __init__(self, port: int, to_port: int) -> None:
        self.port = port
        self.delay = 0.0
        self.slice: float = math.inf
        self.accepted = 0
        self.passed = [0, 0]
        self._to_port = to_port
        self._pairs: set[_Pair] = set()
        self._is_cut = False
        self._open = trio.Event()
        self._open.set()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._pairs)

    def swallow(self) -> None:
        """Let nothing through any more, and tell nobody: each end waits for the other."""
        if self._open.is_set():
            self._open = trio.Event()

    def cut(self) -> None:
        """Close all connections, and new ones at once, until `heal`."""
        self._is_cut = True
        for pair in self._pairs:
            pair.scope.cancel()

    def reset(self) -> None:
        """Reset all connections; new ones are served."""
        for pair in self._pairs:
            for end in (pair.client, pair.server):
                # Closed without lingering, a connection is reset.
                linger = struct.pack("ii", 1, 0)
                with suppress(OSError):
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            pair.scope.cancel()

    def heal(self) -> None:
        """All is well again. What was swallowed comes through now, as packets that are sent
        again do."""
        self.delay, self.slice, self._is_cut = 0.0, math.inf, False
        self._open.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        async with client:
            if self._is_cut:
                return
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._to_port)
            except OSError:
                return
            async with server:
                with trio.CancelScope() as scope:
                    pair = _Pair(client, server, scope)
                    self._pairs.add(pair)
                    try:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._pump, client, server, 0, scope)
                            nursery.start_soon(self._pump, server, client, 1, scope)
                    finally:
                        self._pairs.discard(pair)

    async def _pump(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        way: int,
        scope: trio.CancelScope,
    ) -> None:
        """Pass on what comes, each piece when its time has come."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](math.inf)

        async def read() -> None:
            async with send:
                while data := await source.receive_some(PIECE):
                    send.send_nowait((trio.current_time() + self.delay, data))

        async def write() -> None:
            async for due, data in receive:
                await trio.sleep_until(due)
                while data:
                    await self._open.wait()
                    size = min(self.slice, len(data))
                    piece, data = data[: int(size)], data[int(size) :]
                    self.passed[way] += len(piece)
                    await sink.send_all(piece)
                    if data:
                        await trio.lowlevel.checkpoint()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(write)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()  # one end has gone: so does the other


@asynccontextmanager
async def open_proxy(to_port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of a port of 127.0.0.1, while the block runs."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = Proxy(listener.socket.getsockname()[1], to_port)
        nursery.start_soon(trio.serve_listeners, proxy._serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
