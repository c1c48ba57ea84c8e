"""What Prometheus is shown of pipelines."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from trio_broadway_kafka import (
    Batch,
    Batcher,
    KafkaFailure,
    Message,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.instruments._metrics import COUNTERS, GAUGES, HISTOGRAMS
from trio_broadway_kafka.instruments.prometheus import PrometheusInstrument
from trio_broadway_kafka.testing import FakeBroker

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(text: str) -> Series:
    """All samples, without the labels that tell pipelines apart where they are these."""
    return {
        (
            sample.name.removeprefix("broadway_kafka_"),
            tuple(
                (name, value)
                for name, value in sorted(sample.labels.items())
                if (name, value) not in (("pipeline", "orders"), ("group", ""))
            ),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(series: Series, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric, by the values of their labels in the order of the names."""
    return {
        tuple(value for _, value in labels): value
        for (found, labels), value in series.items()
        if found == name
    }


class Scraper:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.instrument = PrometheusInstrument(self.registry)

    def __call__(self) -> Series:
        return scraped(generate_latest(self.registry).decode())


@pytest.fixture
def scrape() -> Scraper:
    return Scraper()


async def handle(message: Message) -> None:
    await trio.sleep(0.5)
    if message.offset == 1 and message.attempt == 1:
        raise LookupError
    if message.offset == 2:
        raise KeyError


def on_failure(message: Message) -> Retry | Skip:
    return (
        Retry(wait_initial=1)
        if isinstance(message.failure, LookupError)
        and not isinstance(message.failure, KeyError)
        else Skip()
    )


async def test_each_metric_of_a_pipeline_has_its_value(
    autojump_clock: trio.testing.MockClock, scrape: Scraper
) -> None:
    broker = FakeBroker(topics={"t": 2}, poll_interval=math.inf)
    broker.produce("t", *[b"v"] * 4, partition=0)

    async def store(batch: Batch) -> None:
        await trio.sleep(2)

    stages = Stages(
        handle_message=handle,
        ordering="unordered",
        concurrency=4,
        on_failure=on_failure,
        batchers={"default": Batcher(handle_batch=store, size=2)},
    )
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        name="orders",
        stages=stages,
        instruments=[scrape.instrument],
        max_in_flight=50,
    ) as pipeline:
        await trio.sleep(1)
        during = scrape()
        await pipeline.wait_caught_up()
        await pipeline.commit()
        found = scrape()
    assert of(during, "in_flight_messages") == {
        ("handle_batch:default",): 2,
        ("handle_message",): 0,
    }
    assert of(during, "queue_capacity")["handle_message",] == 50
    assert of(during, "partition_unfinished_messages") == {("0", "t"): 3, ("1", "t"): 0}
    assert of(during, "partition_lag_seconds") == {
        ("0", "t"): pytest.approx(1, abs=0.1),
        ("1", "t"): 0,
    }
    assert of(found, "messages_received_total") == {("0", "t"): 4}
    assert of(found, "messages_processed_total") == {
        ("handle_batch", "dead_lettered", "t"): 0,
        ("handle_batch", "skipped", "t"): 1,
        ("handle_batch", "succeeded", "t"): 3,
    }
    assert of(found, "failures_total") == {
        ("KeyError", "handle_message"): 1,
        ("LookupError", "handle_message"): 1,
    }
    assert of(found, "retries_total") == {("handle_message",): 1}
    assert of(found, "dead_letters_total") == {("t",): 0}
    assert of(found, "rebalances_total") == {("assigned",): 2}
    assert of(found, "commits_total")["ok",] >= 1
    assert of(found, "commit_duration_seconds_count") == {(): of(found, "commits_total")["ok",]}
    assert of(found, "partition_committed_offset") == {("0", "t"): 4}
    assert of(found, "partition_highest_seen_offset") == {("0", "t"): 3}
    assert of(found, "partition_highest_finished_offset") == {("0", "t"): 3}
    assert of(found, "partition_end_offset") == {("0", "t"): 4, ("1", "t"): 0}
    assert of(found, "partition_lag_messages") == {("0", "t"): 0, ("1", "t"): 0}
    assert of(found, "partition_paused") == {("0", "t"): 0, ("1", "t"): 0}
    assert of(found, "partition_oldest_unfinished_age_seconds")["0", "t"] == 0
    assert set(of(found, "partition_assignment_epoch")) == {("0", "t"), ("1", "t")}
    busy = of(found, "stage_time_seconds_total")
    assert busy["handle_message", "busy"] == pytest.approx(2.5, abs=0.1)
    assert busy["handle_batch:default", "busy"] == pytest.approx(4, abs=0.1)
    assert of(found, "batch_duration_seconds_count") == {("default",): 2}
    assert of(found, "batch_duration_seconds_sum")["default",] == pytest.approx(4, abs=0.1)
    sizes = of(found, "batch_size_messages_bucket")
    assert sizes["default", "1", "timeout"] == 1
    assert sizes["default", "1", "size"] == 0
    assert sizes["default", "3", "size"] == sizes["default", "+Inf", "size"] == 1
    assert of(found, "process_duration_seconds_count") == {("handle_message",): 5}
    assert of(found, "end_to_end_latency_seconds_count") == {("t",): 2}


def every_metric() -> Iterator[str]:
    yield from COUNTERS
    yield from GAUGES
    yield from (f"{name}_bucket" for name in HISTOGRAMS)


async def test_every_metric_that_is_described_is_shown(
    autojump_clock: trio.testing.MockClock, scrape: Scraper
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 3)
    stages = Stages(
        handle_message=handle,
        on_failure=lambda m: Retry(attempts=2, wait_initial=0, then=Skip()),
        batchers={"default": Batcher(handle_batch=take_batch)},
    )
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        name="orders",
        stages=stages,
        instruments=[scrape.instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.commit()
        names = {name for name, _ in scrape()}
    assert names >= set(every_metric())


async def take_batch(batch: Batch) -> None: ...


async def test_lost_and_revoked_partitions_and_refused_commits_count(
    autojump_clock: trio.testing.MockClock, scrape: Scraper
) -> None:
    broker = FakeBroker(topics={"t": 1})
    client = broker.client()
    async with open_pipeline(
        client=client,
        topics=["t"],
        name="orders",
        stages=Stages(handle_message=handle, on_failure=Skip()),
        instruments=[scrape.instrument],
    ):
        broker.fail_next("commit", KafkaFailure("no", code="REQUEST_TIMED_OUT", retriable=True))
        broker.produce("t", b"v")
        await trio.sleep(5)
        broker.lose(client)
        await trio.sleep(5)
    found = scrape()
    assert of(found, "rebalances_total")["lost",] == 1
    assert of(found, "commits_total")["failed",] == 1
    assert of(found, "commits_total")["ok",] >= 1


async def test_counters_go_on_when_a_pipeline_of_the_same_name_is_opened_again(
    autojump_clock: trio.testing.MockClock, scrape: Scraper
) -> None:
    broker = FakeBroker(topics={"t": 1})
    for round_ in (1, 2):
        broker.produce("t", b"v")
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            name="orders",
            stages=Stages(handle_message=handle, on_failure=Skip()),
            instruments=[scrape.instrument],
        ) as pipeline:
            await pipeline.wait_caught_up()
        found = scrape()
        assert sum(of(found, "messages_processed_total").values()) == round_
        assert of(found, "process_duration_seconds_count")["handle_message",] == round_
    assert of(found, "partition_end_offset") == {}  # no pipeline is open


async def test_two_pipelines_are_told_apart(
    autojump_clock: trio.testing.MockClock, scrape: Scraper
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")

    async with (
        open_pipeline(
            client=broker.client(group="a"),
            topics=["t"],
            name="one",
            stages=Stages(handle_message=handle),
            instruments=[scrape.instrument],
        ) as one,
        open_pipeline(
            client=broker.client(group="b"),
            topics=["t"],
            name="two",
            stages=Stages(handle_message=handle),
            instruments=[scrape.instrument],
        ) as two,
    ):
        await one.wait_caught_up()
        await two.wait_caught_up()
    received = of(scrape(), "messages_received_total")
    assert received == {("0", "one", "t"): 1, ("0", "two", "t"): 1}


async def test_a_server_of_another_thread_is_answered_while_it_runs_and_afterwards(
    scrape: Scraper,
) -> None:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=scrape.registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"

    def fetch() -> Series:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return scraped(answer.read().decode())

    try:
        assert await trio.to_thread.run_sync(fetch) == {}
        broker = FakeBroker(topics={"t": 1})
        broker.produce("t", b"v")
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            name="orders",
            stages=Stages(handle_message=take),
            instruments=[scrape.instrument],
        ) as pipeline:
            await pipeline.wait_caught_up()
            found = await trio.to_thread.run_sync(fetch)
            assert of(found, "partition_highest_seen_offset") == {("0", "t"): 0}
        found = await trio.to_thread.run_sync(fetch)
        assert of(found, "messages_processed_total")["handle_message", "succeeded", "t"] == 1
    finally:
        await trio.to_thread.run_sync(server.shutdown)
        server.server_close()
        await trio.to_thread.run_sync(thread.join)


async def take(message: Message) -> None: ...


def test_after_trios_end_what_was_counted_is_still_shown(scrape: Scraper) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")

    async def main() -> None:
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            name="orders",
            stages=Stages(handle_message=take),
            instruments=[scrape.instrument],
        ) as pipeline:
            await pipeline.wait_caught_up()

    trio.run(main)
    found = scrape()
    assert of(found, "messages_processed_total")["handle_message", "succeeded", "t"] == 1
