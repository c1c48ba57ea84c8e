"""The proxy does to connections what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.faults._proxy import Proxy, open_proxy

PATIENCE = 10.0


@asynccontextmanager
async def echo_behind_a_proxy() -> AsyncIterator[Proxy]:
    async def echo(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                async for data in stream:
                    await stream.send_all(data)
            except trio.BrokenResourceError:
                pass

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            async with open_proxy(listener.socket.getsockname()[1]) as proxy:
                yield proxy
            nursery.cancel_scope.cancel()


async def connect(proxy: Proxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some()
        assert piece, "it was closed"
        data += piece
    return data


async def test_it_passes_on_what_comes_both_ways() -> None:
    async with echo_behind_a_proxy() as proxy, await connect(proxy) as stream:
        await stream.send_all(b"x" * 300_000)
        assert await receive(stream, 300_000) == b"x" * 300_000
        assert (proxy.accepted, proxy.connections) == (1, 1)
        assert proxy.passed == [300_000, 300_000]


async def test_delay_holds_each_way_up_and_keeps_the_order() -> None:
    async with echo_behind_a_proxy() as proxy, await connect(proxy) as stream:
        proxy.delay = 0.2
        began_at = trio.current_time()
        for number in range(10):
            await stream.send_all(b"%d" % number)
        assert await receive(stream, 10) == b"0123456789"
        assert 0.4 <= trio.current_time() - began_at < 2


async def test_slice_makes_small_pieces_of_it() -> None:
    async with echo_behind_a_proxy() as proxy, await connect(proxy) as stream:
        proxy.slice = 3
        await stream.send_all(b"0123456789")
        assert await receive(stream, 10) == b"0123456789"


async def test_what_is_swallowed_is_told_to_nobody_and_comes_when_it_is_healed() -> None:
    async with echo_behind_a_proxy() as proxy, await connect(proxy) as stream:
        proxy.swallow()
        await stream.send_all(b"lost?")
        with trio.move_on_after(0.3) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        assert proxy.connections == 1
        proxy.heal()
        assert await receive(stream, 5) == b"lost?"


async def test_cut_closes_what_is_there_and_what_comes_until_it_is_healed() -> None:
    async with echo_behind_a_proxy() as proxy, await connect(proxy) as stream:
        await stream.send_all(b"x")
        await receive(stream, 1)
        proxy.cut()
        assert await stream.receive_some() == b""
        async with await connect(proxy) as second:
            assert await second.receive_some() == b""
        proxy.heal()
        async with await connect(proxy) as third:
            await third.send_all(b"y")
            assert await receive(third, 1) == b"y"


async def test_reset_is_an_error_at_the_client_and_the_next_connection_works() -> None:
    async with echo_behind_a_proxy() as proxy, await connect(proxy) as stream:
        await stream.send_all(b"x")
        await receive(stream, 1)
        proxy.reset()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        async with await connect(proxy) as second:
            await second.send_all(b"y")
            assert await receive(second, 1) == b"y"


async def test_a_server_that_is_away_is_a_connection_that_ends() -> None:
    with trio.fail_after(PATIENCE):
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await listener.aclose()
        async with open_proxy(port) as proxy, await connect(proxy) as stream:
            assert await stream.receive_some() == b""
