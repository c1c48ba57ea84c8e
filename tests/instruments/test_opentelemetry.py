"""What OpenTelemetry is told of pipelines, seen through its exporters in memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.trace import SpanKind, StatusCode

from trio_broadway_kafka import (
    Batch,
    Batcher,
    Instrument,
    KafkaFailure,
    Message,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.instruments import _semconv
from trio_broadway_kafka.instruments.opentelemetry import (
    OpenTelemetryMetrics,
    OpenTelemetryTraces,
)
from trio_broadway_kafka.testing import FakeBroker

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traces:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.instrument = OpenTelemetryTraces(self.provider)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


def test_the_names_are_those_of_the_conventions() -> None:
    theirs = {
        value
        for module in (messaging_attributes, messaging_metrics)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {
        value
        for value in vars(_semconv).values()
        if isinstance(value, str) and value.startswith("messaging.")
    }
    assert ours <= theirs
    assert len(ours) == 12


async def test_a_message_is_processed_inside_a_span_that_is_linked_to_its_producers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    traces = Traces()
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", headers=[("traceparent", PARENT.encode())])
    tracer = traces.provider.get_tracer("the user's")

    async def handle(message: Message) -> None:
        with tracer.start_as_current_span("of the handler"):
            await trio.sleep(1)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        name="orders",
        stages=Stages(handle_message=handle),
        instruments=[traces.instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
    (process,) = traces.named("process t")
    (inner,) = traces.named("of the handler")
    assert process.kind is SpanKind.CONSUMER
    assert process.parent is None
    (link,) = process.links
    assert f"{link.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{link.context.span_id:016x}" == PARENT.split("-")[2]
    assert inner.parent is not None
    assert process.context is not None
    assert inner.parent.span_id == process.context.span_id
    assert dict(process.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "orders",
        "messaging.kafka.offset": 0,
        "broadway_kafka.pipeline": "orders",
    }
    (poll,) = traces.named("poll t")
    assert poll.kind is SpanKind.CLIENT
    assert (poll.attributes or {})["messaging.batch.message_count"] == 1
    assert {span.kind for span in traces.named("commit orders")} == {SpanKind.CLIENT}


async def test_a_batch_has_one_span_with_a_link_for_each_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    traces = Traces()
    broker = FakeBroker(topics={"t": 1})
    for number in range(3):
        parent = f"00-{number + 1:032x}-{number + 1:016x}-01"
        broker.produce("t", b"v", headers=[("traceparent", parent.encode())])
    broker.produce("t", b"without")

    async def store(batch: Batch) -> None:
        assert trace.get_current_span().is_recording()

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(batchers={"default": Batcher(handle_batch=store, size=4)}),
        instruments=[traces.instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
    (span,) = traces.named("process default")
    assert [link.context.trace_id for link in span.links] == [1, 2, 3]
    assert (span.attributes or {})["messaging.batch.message_count"] == 4
    assert (span.attributes or {})["broadway_kafka.trigger"] == "size"


async def test_a_failure_is_on_its_span_by_its_type_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    traces = Traces()
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"v")

    async def handle(message: Message) -> None:
        if message.offset == 0:
            raise LookupError("a payload")
        message.fail("a payload")

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, on_failure=Skip()),
        instruments=[traces.instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
    spans = traces.named("process t")
    assert [(span.attributes or {})["error.type"] for span in spans] == [
        "LookupError",
        "MessageFailed",
    ]
    for span in spans:
        assert span.status.status_code is StatusCode.ERROR
        assert "a payload" not in span.to_json()


async def test_metrics_are_the_conventions_and_ours(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reader = InMemoryMetricReader()
    instrument = OpenTelemetryMetrics(MeterProvider([reader]))
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"v")
    broker.fail_next("commit", KafkaFailure("no", code="REQUEST_TIMED_OUT", retriable=True))

    async def store(batch: Batch) -> None:
        await trio.sleep(2)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        name="orders",
        stages=Stages(batchers={"default": Batcher(handle_batch=store, size=2)}),
        instruments=[instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.commit()
        found = points(reader)
    (consumed,) = found["messaging.client.consumed.messages"]
    assert isinstance(consumed, NumberDataPoint)
    assert consumed.value == 2
    assert dict(consumed.attributes or {})["messaging.destination.name"] == "t"
    (process,) = found["messaging.process.duration"]
    assert isinstance(process, HistogramDataPoint)
    assert (process.count, round(process.sum)) == (1, 2)
    assert dict(process.attributes or {})["broadway_kafka.stage"] == "handle_batch:default"
    operations = found["messaging.client.operation.duration"]
    errors = [dict(one.attributes or {}).get("error.type") for one in operations]
    assert set(errors) == {None, "REQUEST_TIMED_OUT"}
    succeeded = {
        one.value
        for one in found["broadway_kafka.messages_processed"]
        if isinstance(one, NumberDataPoint)
        and dict(one.attributes or {})["status"] == "succeeded"
    }
    assert succeeded == {2}
    (committed,) = found["broadway_kafka.partition_committed_offset"]
    assert isinstance(committed, NumberDataPoint)
    assert committed.value == 2
    assert dict(committed.attributes or {}) == {
        "topic": "t",
        "partition": "0",
        "broadway_kafka.pipeline": "orders",
        "messaging.consumer.group.name": "orders",
    }


async def test_outputs_count_by_their_topics(autojump_clock: trio.testing.MockClock) -> None:
    reader = InMemoryMetricReader()
    instrument = OpenTelemetryMetrics(MeterProvider([reader]))
    broker = FakeBroker(topics={"t": 1, "out": 1})
    broker.produce("t", b"v", b"v")

    async def handle(message: Message) -> None:
        message.produce("out", value=b"1")
        message.produce("out", value=b"2")

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        instruments=[instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
        (sent,) = points(reader)["messaging.client.sent.messages"]
        assert pipeline.statistics().produced == 4
    assert isinstance(sent, NumberDataPoint)
    assert sent.value == 4
    assert dict(sent.attributes or {})["messaging.destination.name"] == "out"


async def test_an_exporters_thread_may_ask(autojump_clock: trio.testing.MockClock) -> None:
    reader = InMemoryMetricReader()
    instrument = OpenTelemetryMetrics(MeterProvider([reader]))

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=FakeBroker(topics={"t": 1}).client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        instruments=[instrument],
    ) as pipeline:
        await pipeline.wait_caught_up()
        found = await trio.to_thread.run_sync(points, reader)
    assert "broadway_kafka.partition_paused" in found


def points(
    reader: InMemoryMetricReader,
) -> dict[str, list[NumberDataPoint | HistogramDataPoint]]:
    """The data points by the metrics' names."""
    data = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)  # type: ignore[arg-type]
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_what_raises_around_a_handler_is_told_nothing_more(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(OpenTelemetryTraces):
        def around_message(self, pipeline: object, message: Message) -> object:  # type: ignore[override]
            raise LookupError

    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v", b"v")

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        instruments=[Broken(TracerProvider())],
    ) as pipeline:
        await pipeline.wait_caught_up()
    assert pipeline.statistics().succeeded == 2
    assert caplog.text.count("raised in around_message and is told nothing more") == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_what_raises_as_it_is_left_changes_nothing_for_the_message(
    fails: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Instrument):
        @contextmanager
        def around_message(self, pipeline: object, message: Message) -> Generator[None]:
            try:
                yield
            finally:
                raise KeyError

    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")

    async def handle(message: Message) -> None:
        if fails:
            raise LookupError

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, on_failure=Skip()),
        instruments=[Broken()],
    ) as pipeline:
        await pipeline.wait_caught_up()
    statistics = pipeline.statistics()
    assert (statistics.succeeded, statistics.skipped) == (not fails, fails)
    assert ("LookupError" in caplog.text) is fails
    assert "raised in around_message and is told nothing more" in caplog.text
