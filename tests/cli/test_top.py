"""``python -m trio_broadway_kafka top``: a dashboard's stream in a terminal."""

from __future__ import annotations

import json
import subprocess
import sys

import trio

from tests.dashboard._client import shown
from trio_broadway_kafka import Message, Stages


async def top(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(30):
        return await trio.run_process(
            [sys.executable, "-m", "trio_broadway_kafka", "top", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def test_it_shows_figures_stages_and_what_holds_the_partitions() -> None:
    async def handle(message: Message) -> None:
        await trio.sleep_forever()

    async with shown(Stages(handle_message=handle, concurrency=3)) as it:
        it.broker.produce("t", b"v", b"v", key=b"k", partition=1)
        await trio.sleep(1.2)
        done = await top(it.dashboard.url, "--once")
    text = "\n".join(" ".join(line.split()) for line in done.stdout.decode().splitlines())
    assert (done.returncode, done.stderr) == (0, b"")
    assert text.startswith("orders: open, ready, t\n")
    assert "2 in flight" in text
    assert "handle_message 1 of 3" in text
    assert "0 running in handle_message" in text


async def test_scripts_get_a_snapshot_a_line() -> None:
    async with shown() as it:
        done = await top(it.dashboard.url, "--once", "--json")
    assert json.loads(done.stdout)["name"] == "orders"


async def test_the_end_of_the_pipeline_ends_it_with_words() -> None:
    async with trio.open_nursery() as nursery:
        done: list[subprocess.CompletedProcess[bytes]] = []

        async def watch(url: str) -> None:
            done.append(await top(url))

        async with shown() as it:
            nursery.start_soon(watch, it.dashboard.url)
            await it.streamed.wait()
    assert done[0].returncode == 1
    assert b"Traceback" not in done[0].stderr


async def test_where_no_dashboard_is_it_says_so() -> None:
    async with shown(page=False) as it:
        done = await top(it.dashboard.url)
    assert done.returncode == 1
    assert b"no dashboard is there (HTTP Error 404" in done.stderr
    done = await top("127.0.0.1:8765")
    assert done.returncode == 2
    assert b"is no address such as http://" in done.stderr
