"""`open_dashboard`: what is served, by whom it may be asked, and how it ends."""

from __future__ import annotations

import importlib.resources
import json
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from trio_broadway_kafka._model._errors import ConfigError, KafkaFailure
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.dashboard._actions import ACTIONS, Actions
from trio_broadway_kafka.dashboard._health import STALLED, Progress, Verdict, health
from trio_broadway_kafka.dashboard._http import (
    Request,
    Response,
    Routes,
    serve_connection,
    text,
)
from trio_broadway_kafka.dashboard._recorder import Recorder
from trio_broadway_kafka.dashboard._snapshot import snapshot

__all__ = ["Dashboard", "open_dashboard"]

_log = logging.getLogger("trio_broadway_kafka.dashboard")

EVERY: Final = 1.0  # seconds between two snapshots
ENDS_EVERY: Final = 5.0  # between two questions for the partitions' ends
HEARTBEAT: Final = 15.0
KEPT: Final = 300  # points of the charts that a page that is opened is given
MAX_CONNECTIONS: Final = 100

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


def open_dashboard(
    pipeline: Pipeline,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    page: bool = True,
    metrics: Callable[[], bytes] | None = None,
    allowed_hosts: Iterable[str] = (),
    stalled: float = STALLED,
    token: str | None = None,
    show_keys: bool = False,
) -> AbstractAsyncContextManager[Dashboard]:
    """Serve what a pipeline does: ``async with open_dashboard(pipeline) as dashboard: ...``.

    Inside the pipeline's block, so that it ends first. It answers ``/`` (the page),
    ``/events`` (its stream: a JSON object a second), ``/snapshot`` (one of them), ``/health``,
    ``/ready`` and ``/metrics``. There is no value or header in any of it, no key without
    `show_keys`, and without a `token` nothing that changes the pipeline.

    Args:
        pipeline: an open one.
        host: the address to listen at. ``0.0.0.0`` lets the network in: there is no password.
        port: 0 for any that is free; `Dashboard.url` tells which.
        page: False for ``/health``, ``/ready`` and ``/metrics`` alone.
        metrics: gives the text of ``/metrics``, such as
            ``partial(prometheus_client.generate_latest, registry)``; None for none.
        allowed_hosts: names by which it may be asked for the page, beside ``localhost`` and
            `host`: what stands in the browser's address line. The probes and metrics may
            be asked for by any.
        stalled: seconds after which ``/ready`` says no if a partition that has work has not
            moved what may be committed. More than the longest handler takes.
        token: lets who knows it have messages that wait for another attempt be tried now, or
            for the last time (`Pipeline.retry_now`, `Pipeline.give_up`): the page asks for it.
        show_keys: name the hot keys; otherwise a hash tells them apart.

    Raises:
        ConfigError: an argument is wrong, or h11 is missing.
        OSError: the port is taken.
    """
    if not isinstance(pipeline, Pipeline):
        raise ConfigError(
            f"open_dashboard wants an open pipeline, not {type(pipeline).__name__}: write "
            "async with open_pipeline(...) as pipeline, open_dashboard(pipeline): ..."
        )
    if not (isinstance(port, int) and 0 <= port <= 65535):
        raise ConfigError(f"port must be a number from 0 to 65535, not {port!r}")
    if not stalled > 0:
        raise ConfigError(f"stalled must be more than 0 seconds, not {stalled!r}")
    if token is not None and len(token) < 16:
        raise ConfigError("token must have 16 characters or more, as secrets.token_hex() makes")
    hosts = {"localhost", "127.0.0.1", "[::1]", host.lower(), *map(str.lower, allowed_hosts)}
    return _serve(
        Dashboard(pipeline, page, metrics, stalled, token, show_keys), host, port, hosts
    )


@asynccontextmanager
async def _serve(
    dashboard: Dashboard, host: str, port: int, hosts: set[str]
) -> AsyncGenerator[Dashboard]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        error.add_note(f"open_dashboard: {host}:{port} can't be listened at; port=0 takes any")
        raise
    name = f"[{host}]" if ":" in host else host
    dashboard.url = f"http://{name}:{listeners[0].socket.getsockname()[1]}/"
    dashboard.pipeline._told.add(dashboard.recorder)
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve(stream: trio.SocketStream) -> None:
        async with limit:
            await serve_connection(
                stream,
                dashboard.routes,
                hosts=hosts,
                open_to_all=dashboard.PROBES,
                posts=ACTIONS,
            )

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dashboard.watch)
            nursery.start_soon(dashboard.ask_for_ends)
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            _log.info("%s: %s", dashboard.pipeline.name, dashboard.url)
            yield dashboard
            nursery.cancel_scope.cancel()
    finally:
        dashboard.pipeline._told.remove(dashboard.recorder)
        for listener in listeners:
            listener.socket.close()


class Dashboard:
    """What is served. `open_dashboard` makes it.

    Attributes:
        url: where.
        pipeline: whose.
    """

    PROBES: Final = frozenset({"/health", "/ready", "/metrics"})

    def __init__(
        self,
        pipeline: Pipeline,
        page: bool,
        metrics: Callable[[], bytes] | None,
        stalled: float,
        token: str | None,
        show_keys: bool,
    ) -> None:
        self.url = ""
        self.pipeline = pipeline
        self._wall_time = pipeline._client.wall_time
        self.recorder: Recorder = Recorder(self._wall_time)
        self._metrics = metrics
        self._progress = Progress(stalled)
        self._last: dict[str, Any] = {}
        self._points: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._changed = trio.Event()
        self._may_act = token is not None
        self._show_keys = show_keys
        routes: dict[str, Callable[[Request], Response]] = {
            "/health": lambda _: _verdict(self.health()),
            "/ready": lambda _: _verdict(self.ready()),
        }
        if metrics is not None:
            routes["/metrics"] = self._show_metrics
        if token is not None:
            actions = Actions(pipeline, token)
            routes["/retry-now"] = actions.retry_now
            routes["/give-up"] = actions.give_up
        if page:
            routes["/events"] = lambda _: Response(
                content_type="text/event-stream", stream=self._stream()
            )
            routes["/snapshot"] = self._show_snapshot
            static = importlib.resources.files(__package__) / "static"
            for file in static.iterdir():
                kind = TYPES.get(file.name.rpartition(".")[2])
                if kind is not None:
                    path = "/" if file.name == "index.html" else f"/{file.name}"
                    answer = Response(body=file.read_bytes(), content_type=kind)
                    routes[path] = partial(_same, answer)
        self.routes: Routes = routes

    # The probes.

    def health(self) -> Verdict:
        """Whether the pipeline is alive: its client is polled."""
        revoke_timeout = self.pipeline._options.revoke_timeout
        return health(
            self.pipeline.topology().state, self.pipeline.since_poll(), revoke_timeout
        )

    def ready(self) -> Verdict:
        """Whether the pipeline has its partitions and gets on with them."""
        return self._progress.ready(
            self.pipeline.topology().state,
            self.pipeline.statistics(),
            self.pipeline._listener.assigned_once.value,
            trio.current_time(),
        )

    def _show_metrics(self, request: Request) -> Response:
        assert self._metrics is not None
        body = self._metrics()
        return Response(body=body, content_type="text/plain; version=0.0.4; charset=utf-8")

    def _show_snapshot(self, request: Request) -> Response:
        return Response(body=_json(self._look()), content_type="application/json")

    # The page.

    async def watch(self) -> None:
        """Take a snapshot every second, for all pages together, until cancelled."""
        while True:
            self._last = self._look()
            self._points.append(_point_of(self._last))
            self._progress.look(self.pipeline.statistics(), trio.current_time())
            changed, self._changed = self._changed, trio.Event()
            changed.set()
            await trio.sleep(EVERY)

    async def ask_for_ends(self) -> None:
        """Ask for the partitions' ends now and then: what is paused tells of none."""
        while True:
            try:
                with trio.move_on_after(ENDS_EVERY):
                    await self.pipeline.refresh_lag()
            except KafkaFailure as failure:
                _log.debug("the partitions' ends: %s", failure.code)
            except (trio.ClosedResourceError, RuntimeError):
                pass  # it is being closed
            await trio.sleep(ENDS_EVERY)

    def _look(self) -> dict[str, Any]:
        found = snapshot(
            self.pipeline, self.recorder, self._wall_time(), show_keys=self._show_keys
        )
        found["health"] = vars(self.health())
        found["ready"] = vars(self.ready())
        found["may_act"] = self._may_act
        return found

    async def _stream(self) -> AsyncGenerator[bytes]:
        """The stream of one page: what the charts held, then a snapshot a second."""
        yield b"retry: 2000\n\n" + _event("history", [*self._points])
        while True:
            yield _event("snapshot", self._last)
            with trio.move_on_after(HEARTBEAT) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                yield b": still here\n\n"


def _same(answer: Response, request: Request) -> Response:
    return answer


def _verdict(verdict: Verdict) -> Response:
    return text(200 if verdict.ok else 503, verdict.reason)


def _point_of(found: dict[str, Any]) -> dict[str, Any]:
    """What the charts are made of."""
    lags = [one["lag"] for one in found["partitions"] if one["lag"] is not None]
    latency = found["end_to_end"] or {}
    return {
        "at": found["at"],
        "received": found["counts"]["received"],
        "succeeded": found["counts"]["succeeded"],
        "failed": found["counts"]["failed"],
        "lag": sum(lags),
        "p50": latency.get("p50"),
        "p99": latency.get("p99"),
        "stages": {
            one["name"]: [one["busy_s"], one["idle_s"], one["backpressured_s"]]
            for one in found["stages"]
        },
    }


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: ".encode() + _json(data) + b"\n\n"


def _json(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), allow_nan=False, default=_number).encode()


def _number(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value)
