"""What the page may do to a pipeline: only with the token, and only to what waits."""

from __future__ import annotations

import json

import h11
import pytest
import trio

from tests.dashboard._client import Shown, connect, shown
from trio_broadway_kafka import ConfigError, Message, Retry, Skip, Stages
from trio_broadway_kafka.dashboard import open_dashboard

TOKEN = "0123456789abcdef"
PLACE = {"topic": "t", "partition": 1, "offset": 0}


class Handler:
    def __init__(self) -> None:
        self.attempts = 0

    async def handle(self, message: Message) -> None:
        self.attempts += 1
        raise LookupError

    @property
    def stages(self) -> Stages:
        retry = Retry(attempts=10, wait_initial=1000, wait_max=1000, then=Skip())
        return Stages(handle_message=self.handle, on_failure=retry)


async def post(it: Shown, path: str, body: object = PLACE, **headers: str) -> tuple[int, str]:
    """What a POST is answered."""
    connection = h11.Connection(h11.CLIENT)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    stream = await connect(it.port)
    request = h11.Request(
        method="POST",
        target=path,
        headers=[
            ("Host", f"localhost:{it.port}"),
            ("Content-Length", str(len(data))),
            *({"Authorization": f"Bearer {TOKEN}"} | headers).items(),
        ],
    )
    await stream.send_all(
        (connection.send(request) or b"")
        + (connection.send(h11.Data(data=data)) or b"")
        + (connection.send(h11.EndOfMessage()) or b"")
    )
    status, words = 0, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            words += event.data
        elif isinstance(event, h11.EndOfMessage):
            await stream.aclose()
            return status, words.decode().strip()


async def waiting(it: Shown, handler: Handler) -> None:
    it.broker.produce("t", b"v", partition=1)
    with trio.fail_after(5):
        while handler.attempts < 1:  # noqa: ASYNC110 - the handler has no event to set
            await trio.sleep(0.01)
    await trio.sleep(0.05)


async def test_a_message_that_waits_is_tried_now_and_given_up() -> None:
    handler = Handler()
    async with shown(handler.stages, token=TOKEN) as it:
        await waiting(it, handler)
        assert await post(it, "/retry-now") == (200, "done")
        await trio.sleep(0.2)
        assert handler.attempts == 2
        assert await post(it, "/give-up") == (200, "done")
        await it.pipeline.wait_caught_up()
        assert it.pipeline.statistics().skipped == 1
        assert await post(it, "/retry-now") == (
            409,
            "that message does not wait to be tried again (any more)",
        )


async def test_without_the_token_or_from_elsewhere_nothing_is_done() -> None:
    handler = Handler()
    async with shown(handler.stages, token=TOKEN) as it:
        await waiting(it, handler)
        wrong = await post(it, "/retry-now", Authorization="Bearer wrong")
        assert wrong == (403, "the token is missing or wrong")
        elsewhere = await post(it, "/retry-now", Origin="https://evil.example")
        assert elsewhere == (403, "asked by a page of elsewhere")
        here = await post(it, "/retry-now", Origin=f"http://localhost:{it.port}")
        assert here == (200, "done")


async def test_without_a_token_given_there_are_no_actions() -> None:
    async with shown() as it:
        assert (await post(it, "/retry-now"))[0] == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"topic": "t"}', b"x" * 100])
async def test_what_names_no_message_is_refused(body: bytes) -> None:
    async with shown(token=TOKEN) as it:
        status, words = await post(it, "/retry-now", body)
        assert (status, words.startswith("send {")) == (400, True)


async def test_a_short_token_is_refused() -> None:
    async with shown() as it:
        with pytest.raises(ConfigError, match="16 characters or more"):
            open_dashboard(it.pipeline, token="short")
