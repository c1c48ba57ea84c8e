"""The page in a real browser: what it shows while a pipeline runs, stalls, fails, rebalances
and ends. Needs Chromium (Debian's package chromium); a CI must have it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from tests.dashboard._client import Shown, shown
from trio_broadway_kafka import Batch, Batcher, Message, Retry, Skip, Stages, open_pipeline
from trio_broadway_kafka.dashboard import open_dashboard
from trio_broadway_kafka.testing import FakeBroker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and os.environ.get("CI") == "true":
    raise RuntimeError("CI must have Chromium: the page's tests would be left out")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

PATIENCE = 15_000  # milliseconds


@contextmanager
def page_of(url: str, **options: Any) -> Iterator[Any]:
    """The page in a browser of its own. Errors in its scripts fail the test."""
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**options)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    assert problems == []


async def look(it: Shown, scenario: Callable[[Any], None], **options: Any) -> None:
    """Run a scenario in a browser, in a thread of its own."""

    def run() -> None:
        with page_of(it.dashboard.url, **options) as page:
            scenario(page)

    with trio.fail_after(60):
        await trio.to_thread.run_sync(run)


def says(page: Any, selector: str, words: str) -> None:
    """Wait until something says this."""
    page.locator(selector).filter(has_text=words).first.wait_for()


async def test_a_running_pipeline_shows_its_figures_stages_and_batches() -> None:
    async def enrich(message: Message) -> None: ...

    async def store(batch: Batch) -> None: ...

    stages = Stages(
        handle_message=enrich,
        concurrency=7,
        batchers={"default": Batcher(handle_batch=store, size=5)},
    )

    async with shown(stages) as it:
        it.broker.produce("t", *[b"v"] * 25)

        def scenario(page: Any) -> None:
            says(page, "h1", "orders")
            for badge in ("open", "alive", "ready"):
                says(page, "#badges", badge)
            says(page, ".figure", "25succeeded since opening")
            says(page, "[data-stage=handle_message]", "enrich")
            says(page, "[data-stage=handle_message]", "of 7 at work")
            says(page, '[data-stage="handle_batch:default"]', "store (batcher default)")
            says(page, "#batches", "size")
            says(page, "#partition-count", "2")
            assert page.locator("#rate canvas").count() == 1
            assert page.locator("#latency canvas").count() == 1

        await look(it, scenario)


async def test_a_stuck_message_shows_with_its_stage_and_the_strip_behind_it() -> None:
    async def handle(message: Message) -> None:
        if message.offset == 2:
            await trio.sleep_forever()

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=4)
    async with shown(stages, stalled=3) as it:
        it.broker.produce("t", *[b"v"] * 10, partition=1)

        def scenario(page: Any) -> None:
            row = '[data-partition="t/1"]'
            says(page, row, "2: runs in handle_message")
            strip = page.get_by_role("img", name="7 finished behind what is not")
            strip.wait_for()
            assert page.locator(f"{row} svg rect").count() == 7
            says(page, "#badges", "not ready: t/1 stands at 2")

        await look(it, scenario)


async def test_failures_are_counted_by_their_type_and_what_became_of_them() -> None:
    async def handle(message: Message) -> None:
        if message.offset == 1:
            raise LookupError("nobody may see this")
        if message.offset == 2:
            raise ValueError("nor this")

    def on_failure(message: Message) -> Retry | Skip:
        return Skip() if isinstance(message.failure, ValueError) else Retry(wait_initial=60)

    stages = Stages(handle_message=handle, on_failure=on_failure, ordering="unordered")
    async with shown(stages) as it:
        it.broker.produce("t", *[b"v"] * 4, partition=0)

        def scenario(page: Any) -> None:
            says(page, "#failures tr", "LookupErrorhandle_messageRetry1")
            says(page, "#failures tr", "ValueErrorhandle_messageSkip1")
            says(page, '[data-partition="t/0"]', "1: waits to be tried again in handle_message")
            assert "nobody" not in page.content()

        await look(it, scenario)


async def test_rebalances_show_in_their_order() -> None:
    async with shown() as it:

        def scenario(page: Any) -> None:
            says(page, "#partition-count", "2")
            trio.from_thread.run_sync(it.broker.lose, it.pipeline._client)
            says(page, "#events li", "lost 2 of t")
            says(page, "#events li", "assigned 2 of t")
            first = page.locator("#events li").first.inner_text()
            assert "assigned" in first  # the newest comes first

        await look(it, scenario)


async def test_the_end_of_the_pipeline_is_said_and_another_one_is_found_by_itself() -> None:
    broker = FakeBroker(topics={"t": 1})

    async def handle(message: Message) -> None: ...

    def opened() -> Any:
        return open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        )

    ended, again = trio.Event(), trio.Event()

    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[str]) -> None:
            async with opened() as pipeline, open_dashboard(pipeline, port=0) as dashboard:
                task_status.started(dashboard.url)
                await ended.wait()
            port = int(dashboard.url.rstrip("/").rpartition(":")[2])
            await again.wait()
            async with opened() as pipeline, open_dashboard(pipeline, port=port):
                await trio.sleep_forever()

        def scenario() -> None:
            with page_of(url) as page:
                says(page, "#badges", "alive")
                trio.from_thread.run_sync(ended.set)
                says(page, "#gone", "The pipeline is gone")
                trio.from_thread.run_sync(again.set)
                page.locator("#gone").wait_for(state="hidden")
                says(page, "#badges", "alive")

        url = await nursery.start(serve)
        with trio.fail_after(60):
            await trio.to_thread.run_sync(scenario)
        nursery.cancel_scope.cancel()


async def test_two_hundred_partitions_are_filtered_by_keyboard_on_a_phone_in_the_dark() -> None:
    async with shown(broker=FakeBroker(topics={"t": 200})) as it:
        it.broker.produce("t", b"v", partition=77)

        def scenario(page: Any) -> None:
            says(page, "#partition-count", "200")
            assert page.locator("#partitions tbody tr").count() == 200
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == "filter"
            page.keyboard.type("t/77")
            says(page, "#partition-count", "1 of 200")
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
            says(page, "#partition-count", "0 of 200")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, "the page is wider than the phone"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == "rgb(18, 22, 28)"

        options = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
        await look(it, scenario, **options)


async def test_who_knows_the_token_has_a_stuck_message_given_up() -> None:
    async def handle(message: Message) -> None:
        raise LookupError

    policy = Retry(attempts=10, wait_initial=1000, wait_max=1000, then=Skip())
    async with shown(
        Stages(handle_message=handle, on_failure=policy), token="0123456789abcdef"
    ) as it:
        it.broker.produce("t", b"v", partition=1)

        def scenario(page: Any) -> None:
            page.on("dialog", lambda dialog: dialog.accept("0123456789abcdef"))
            row = page.locator('[data-partition="t/1"]')
            row.get_by_role("button", name="give up").click()
            says(page, "#said", "t/1@0: done")
            says(page, "#failures tr", "LookupErrorhandle_messageSkip")
            row.get_by_role("button").first.wait_for(state="detached")

        await look(it, scenario)
