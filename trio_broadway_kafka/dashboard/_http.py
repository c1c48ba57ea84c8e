"""HTTP/1.1 for a few small answers, on h11: one task a connection, each wait with a deadline.

A server of its own, since those at hand keep a nursery from ending: hypercorn's trio worker
shields its sends, so one stalled reader of an event stream holds up the cancellation.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

import h11
import trio

__all__ = ["Request", "Response", "Routes", "serve_connection", "text"]

_log = logging.getLogger("trio_broadway_kafka.dashboard")

HEADERS_WITHIN: Final = 10.0  # seconds for a request to arrive
IDLE: Final = 60.0  # between two requests
SEND_WITHIN: Final = 10.0  # for a reader to take what is sent
MAX_EVENT: Final = 16 * 1024  # bytes of a request's head

SECURITY: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'",
    ),
)


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        method: GET, HEAD or POST.
        path: without the query.
        host: of the address, without its port.
        headers: by their names in lower case.
        body: of a POST.
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """What is answered: a body, or a stream of parts that ends with the connection."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    stream: AsyncGenerator[bytes] | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())


Routes = Mapping[str, Callable[[Request], Response]]
"""By path."""


def text(status: int, words: str) -> Response:
    """A line of text."""
    return Response(status, f"{words}\n".encode())


async def serve_connection(
    stream: trio.SocketStream,
    routes: Routes,
    *,
    hosts: Collection[str],
    open_to_all: Collection[str],
    posts: Collection[str] = (),
) -> None:
    """Answer the requests of one connection, until it ends or is idle for too long.

    Args:
        stream: the connection.
        routes: what there is.
        hosts: by which names it may be asked: a page of elsewhere that a browser was lured
            to must not read what is here (DNS rebinding).
        open_to_all: paths that may be asked for by any name.
        posts: paths that take POST, and nothing else.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_EVENT)
    async with stream:
        try:
            while True:
                with trio.fail_after(IDLE):
                    request = await _next_request(stream, connection)
                if request is None:
                    return
                response = _answer(request, routes, hosts, open_to_all, posts)
                await _send(stream, connection, request, response)
                if connection.our_state is not h11.DONE or response.stream is not None:
                    return
                if connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await _refuse(stream, connection, error.error_status_hint)
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def _next_request(
    stream: trio.SocketStream, connection: h11.Connection
) -> Request | None:
    """The next request, None if there is no more."""
    found: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            with trio.fail_after(HEADERS_WITHIN if found is not None else IDLE):
                connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            found = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_EVENT:
                raise h11.RemoteProtocolError("too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            assert found is not None
            return _request_of(found, body)
        elif isinstance(event, h11.ConnectionClosed):
            return None


def _request_of(event: h11.Request, body: bytes) -> Request:
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers
    }
    host = headers.get("host", "")
    is_ipv6 = host.startswith("[")
    name = host.partition("]")[0] + "]" if is_ipv6 else host.partition(":")[0]
    path = event.target.decode("latin-1").partition("?")[0]
    return Request(event.method.decode("latin-1"), path, name.lower(), headers, body)


def _answer(
    request: Request,
    routes: Routes,
    hosts: Collection[str],
    open_to_all: Collection[str],
    posts: Collection[str],
) -> Response:
    route = routes.get(request.path)
    if request.host not in hosts and request.path not in open_to_all:
        return text(421, f"not asked as {request.host!r}: see allowed_hosts of open_dashboard")
    if route is None:
        return text(404, f"there is no {request.path}: there is {', '.join(sorted(routes))}")
    takes = ("POST",) if request.path in posts else ("GET", "HEAD")
    if request.method not in takes:
        return text(405, f"there is only {takes[0]}")
    try:
        return route(request)
    except Exception:
        _log.exception("%s failed", request.path)
        return text(500, "it failed: the program's log says why")


async def _send(
    stream: trio.SocketStream,
    connection: h11.Connection,
    request: Request,
    response: Response,
) -> None:
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", response.content_type),
        ("Cache-Control", "no-store"),
        *SECURITY,
        *response.headers,
    ]
    if response.stream is None:
        headers.append(("Content-Length", str(len(response.body))))
    else:
        headers.append(("Connection", "close"))
    out = connection.send(h11.Response(status_code=response.status, headers=headers)) or b""
    is_head = request.method == "HEAD"
    if response.stream is None:
        if not is_head:
            out += connection.send(h11.Data(data=response.body)) or b""
        out += connection.send(h11.EndOfMessage()) or b""
    with trio.fail_after(SEND_WITHIN):
        await stream.send_all(out)
    if response.stream is not None and not is_head:
        async with aclosing(response.stream) as parts:
            async for part in parts:
                with trio.fail_after(SEND_WITHIN):
                    await stream.send_all(connection.send(h11.Data(data=part)) or b"")


async def _refuse(stream: trio.SocketStream, connection: h11.Connection, status: int) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    head = h11.Response(
        status_code=status, headers=[("Connection", "close"), ("Content-Length", "0")]
    )
    try:
        out = (connection.send(head) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        with trio.move_on_after(SEND_WITHIN):
            await stream.send_all(out)
    except (trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError):
        pass
