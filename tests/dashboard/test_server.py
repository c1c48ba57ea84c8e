"""What the server answers, to whom, and that it ends when it is told to."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from tests.dashboard._client import ask, connect, next_event, shown
from trio_broadway_kafka import ConfigError, Message, Skip, Stages, open_pipeline
from trio_broadway_kafka.dashboard import open_dashboard
from trio_broadway_kafka.instruments.prometheus import PrometheusInstrument
from trio_broadway_kafka.testing import FakeBroker

SECRET = b"a payload that nobody else may see"


async def test_the_probes_say_yes_with_the_reason() -> None:
    async with shown() as it:
        health = await ask(it.port, "/health")
        assert (health.status, health.words) == (
            200,
            "the client is polled, and the loop turns",
        )
        await trio.sleep(0.2)
        ready = await ask(it.port, "/ready")
        assert (ready.status, ready.words) == (200, "there is nothing to do")
        it_drains = it.pipeline.drain()
        await it_drains
        ready = await ask(it.port, "/ready")
        assert (ready.status, ready.words) == (503, "the pipeline is drained")


async def test_a_snapshot_tells_where_the_pipeline_stands_and_no_payload() -> None:
    async def handle(message: Message) -> None:
        if message.offset == 1:
            raise ValueError(SECRET)

    async with shown(Stages(handle_message=handle, on_failure=Skip())) as it:
        it.broker.produce("t", *[SECRET] * 3, key=SECRET, headers=[("h", SECRET)], partition=0)
        await it.pipeline.wait_caught_up()
        await it.pipeline.commit()
        answer = await ask(it.port, "/snapshot")
        assert answer.headers["content-type"] == "application/json"
        found = json.loads(answer.body)
    assert SECRET not in answer.body
    assert (found["name"], found["state"], found["topics"]) == ("orders", "open", ["t"])
    assert found["counts"]["received"] == 3
    assert (found["counts"]["succeeded"], found["counts"]["skipped"]) == (2, 1)
    assert found["again_after_crash"] == 0
    assert [one["name"] for one in found["stages"]] == ["handle_message"]
    (failure,) = found["lately"]["failures"]
    assert (failure["type"], failure["stage"], failure["policy"], failure["count"]) == (
        "ValueError",
        "handle_message",
        "Skip",
        1,
    )
    partition = found["partitions"][0]
    assert (partition["committed"], partition["lag"], partition["unfetched"]) == (3, 0, 0)


async def test_a_stuck_message_shows_as_what_holds_its_partition() -> None:
    async def handle(message: Message) -> None:
        if message.offset == 2:
            await trio.sleep_forever()

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=4)
    async with shown(stages) as it:
        it.broker.produce("t", *[b"v"] * 10, partition=1)
        await trio.sleep(0.3)
        await it.pipeline.commit()
        found = json.loads((await ask(it.port, "/snapshot")).body)
    partition = found["partitions"][1]
    assert (partition["blocker"]["offset"], partition["blocker"]["stage"]) == (
        2,
        "handle_message",
    )
    assert (partition["blocker"]["doing"], partition["blocker"]["attempt"]) == ("running", 1)
    assert partition["strip"]["first"] == 2
    assert partition["strip"]["behind"] == 10
    assert partition["strip"]["finished"] == [0.0, *[1.0] * 7]
    assert (partition["in_flight"], partition["behind_gap"], partition["unfetched"]) == (
        1,
        7,
        0,
    )
    assert found["again_after_crash"] == 7


@pytest.mark.parametrize("show_keys", [False, True])
async def test_keys_that_messages_wait_for_are_named_only_if_that_is_wanted(
    show_keys: bool,
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep_forever()

    async with shown(Stages(handle_message=handle), show_keys=show_keys) as it:
        it.broker.produce("t", *[b"v"] * 4, key=b"somebody", partition=1)
        it.broker.produce("t", *[b"v"] * 2, key=b"another", partition=1)
        await trio.sleep(0.3)
        body = (await ask(it.port, "/snapshot")).body
    keys = json.loads(body)["hot_keys"]
    assert [(one["place"], one["waiting"]) for one in keys] == [("t/1", 3), ("t/1", 1)]
    assert (b"somebody" in body) is show_keys
    assert keys[0]["key"] == ("somebody" if show_keys else "#729d7d63")


async def test_a_page_is_told_what_was_and_then_a_snapshot_a_second() -> None:
    async with shown() as it:
        stream = await connect(it.port)
        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        so_far = bytearray()
        history = await next_event(stream, "history", so_far)
        assert history[0]["received"] == 0
        first = await next_event(stream, "snapshot", so_far)
        it.broker.produce("t", b"v")
        second = await next_event(stream, "snapshot", so_far)
        assert second["at"] - first["at"] == pytest.approx(1, abs=0.3)
        assert second["counts"]["received"] == 1
        await stream.aclose()


async def test_a_reader_that_does_not_read_does_not_keep_the_block_from_ending() -> None:
    async with shown() as it:
        stream = await connect(it.port)
        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream.receive_some(10)
        it.dashboard._last = {"long": "x" * 50_000_000}
        it.dashboard._changed.set()
        await trio.sleep(0.2)
        ending = time.perf_counter()
    assert time.perf_counter() - ending < 1
    await stream.aclose()


async def test_the_page_and_what_it_loads_are_there() -> None:
    async with shown() as it:
        page = await ask(it.port, "/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for name in ("app.js", "style.css", "uPlot.iife.min.js", "uPlot.min.css"):
            assert name in page.body.decode()
            assert (await ask(it.port, f"/{name}")).status == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        head = await ask(it.port, "/", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(page.body))


async def test_another_path_or_method_is_refused_in_words() -> None:
    async with shown() as it:
        missing = await ask(it.port, "/nothing")
        assert missing.status == 404
        assert "there is /" in missing.words
        assert (await ask(it.port, "/../../etc/passwd")).status == 404
        assert (await ask(it.port, "/", method="POST")).status == 405


async def test_who_asks_by_another_name_gets_the_probes_only() -> None:
    """A page of elsewhere whose name leads here (DNS rebinding) must not read this one."""
    async with shown(allowed_hosts=["Kafka.example"]) as it:
        for path in ("/", "/events", "/snapshot"):
            assert (await ask(it.port, path, host="evil.example")).status == 421
        assert (await ask(it.port, "/", host="kafka.example:80")).status == 200
        assert (await ask(it.port, "/", host="127.0.0.1:1")).status == 200
        assert (await ask(it.port, "/", host="[::1]:8765")).status == 200
        assert (await ask(it.port, "/health", host="10.1.2.3:8765")).status == 200


async def test_a_connection_serves_one_request_after_another() -> None:
    async with shown() as it:
        stream = await connect(it.port)
        for _ in range(3):
            assert (await ask(it.port, "/health", stream=stream)).status == 200
        await stream.aclose()


@pytest.mark.parametrize(
    "rubbish", [b"\x16\x03\x01\x02\x00\x01\x00\n\n", b"GET / HTTP/1.1\r\n\r\n", b"A" * 20_000]
)
async def test_what_is_no_http_is_refused_and_the_next_one_is_served(rubbish: bytes) -> None:
    async with shown() as it:
        stream = await connect(it.port)
        await stream.send_all(rubbish)
        with trio.fail_after(5):
            answer = await stream.receive_some()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        await stream.aclose()
        assert (await ask(it.port, "/health")).status == 200


async def test_metrics_are_there_if_given_and_page_and_stream_are_not_if_unwanted() -> None:
    registry = CollectorRegistry()
    broker = FakeBroker(topics={"t": 1})

    async def handle(message: Message) -> None: ...

    async with (
        open_pipeline(
            client=broker.client(),
            topics=["t"],
            name="orders",
            stages=Stages(handle_message=handle),
            instruments=[PrometheusInstrument(registry)],
        ) as pipeline,
        open_dashboard(
            pipeline, port=0, page=False, metrics=partial(generate_latest, registry)
        ) as dashboard,
    ):
        await pipeline.wait_assigned()
        port = int(dashboard.url.rstrip("/").rpartition(":")[2])
        metrics = await ask(port, "/metrics", host="10.0.0.1")
        assert metrics.status == 200
        assert 'broadway_kafka_partition_paused{group="",partition="0"' in metrics.words
        assert (await ask(port, "/health")).status == 200
        for path in ("/", "/events", "/snapshot", "/app.js"):
            assert (await ask(port, path)).status == 404


async def test_a_route_that_fails_is_a_500_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> bytes:
        raise LookupError

    async with shown(metrics=fail) as it:
        assert (await ask(it.port, "/metrics")).status == 500
        assert "/metrics failed" in caplog.text
        assert (await ask(it.port, "/health")).status == 200


async def test_a_port_that_is_taken_is_named() -> None:
    async with shown() as it:
        with pytest.raises(OSError, match="in use") as caught:
            async with open_dashboard(it.pipeline, port=it.port):
                pass
    assert f"127.0.0.1:{it.port} can't be listened at" in caught.value.__notes__[0]


async def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="wants an open pipeline, not str"):
        open_dashboard("pipeline")  # type: ignore[arg-type]
    async with shown() as it:
        with pytest.raises(ConfigError, match="port must be"):
            open_dashboard(it.pipeline, port=70_000)
        with pytest.raises(ConfigError, match="stalled must be"):
            open_dashboard(it.pipeline, stalled=0)


async def test_after_its_block_it_hears_nothing_more() -> None:
    async with shown() as it:
        async with open_dashboard(it.pipeline, port=0) as second:
            pass
        before = len(second.recorder.events)
        it.broker.lose(it.pipeline._client)  # type: ignore[arg-type]
        await trio.sleep(0.5)
        assert len(second.recorder.events) == before
        assert {event.kind for event in it.dashboard.recorder.events} >= {"lost"}
