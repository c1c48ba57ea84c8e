"""What a pipeline does, as OpenTelemetry metrics and spans. Needs the extra ``otel``.

The names are those of the semantic conventions (`_semconv`), and where these have none, ours
outside of ``messaging``. opentelemetry-instrumentation-confluent-kafka is not used: it ends a
record's span at the next poll, and attaches its context in the thread that polls, where no
task of trio's sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, SpanKind, StatusCode, TracerProvider

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka.instruments import _semconv as names
from trio_broadway_kafka.instruments._asking import Asking
from trio_broadway_kafka.instruments._base import Instrument
from trio_broadway_kafka.instruments._metrics import COUNTERS, GAUGES, counts_of, gauges_of

if TYPE_CHECKING:
    from trio_broadway_kafka._pipeline import Pipeline

__all__ = ["OpenTelemetryMetrics", "OpenTelemetryTraces"]

LIBRARY: Final = "trio_broadway_kafka"

Attributes = dict[str, str | int | float]


class OpenTelemetryMetrics(Instrument):
    """Metrics: the conventions' own, and what docs/dashboard.md lists for Prometheus under the
    same names after ``broadway_kafka.``. Nothing is done for a message.

    - ``messaging.client.consumed.messages``: messages that arrived.
    - ``messaging.client.sent.messages``: outputs and dead letters that have left.
    - ``messaging.client.operation.duration``: of commits.
    - ``messaging.process.duration``: of batches, and of a sample of messages.

    Args:
        meter_provider: the global one unless given.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        provider = meter_provider or metrics.get_meter_provider()
        meter = provider.get_meter(LIBRARY, schema_url=names.SCHEMA)
        self._pipelines: dict[Pipeline, Attributes] = {}
        self._asking = Asking()
        self._consumed = meter.create_counter(names.CONSUMED, "{message}")
        self._processing = meter.create_histogram(
            names.PROCESS_DURATION, "s", explicit_bucket_boundaries_advisory=names.DURATIONS
        )
        self._operations = meter.create_histogram(
            names.OPERATION_DURATION, "s", explicit_bucket_boundaries_advisory=names.DURATIONS
        )
        meter.create_observable_counter(names.SENT, [self._observe_sent], "{message}")
        for name, (text, labels) in COUNTERS.items():
            if name in _COUNTED:
                ours = f"broadway_kafka.{name.removesuffix('_total')}"
                observe = self._observer(name, labels)
                meter.create_observable_counter(ours, [observe], description=text)
        for name, (text, labels) in GAUGES.items():
            observe = self._observer(name, labels)
            meter.create_observable_gauge(f"broadway_kafka.{name}", [observe], description=text)

    def _observer(
        self, name: str, labels: tuple[str, ...]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        of = counts_of if name in COUNTERS else gauges_of

        def observe() -> list[Observation]:
            return [
                Observation(value, {**attributes, **dict(zip(labels, own, strict=True))})
                for pipeline, attributes in self._pipelines.items()
                for found, own, value in of(pipeline.statistics())
                if found == name
            ]

        return lambda _: self._asking.ask(observe, list)

    def _observe_sent(self, options: CallbackOptions) -> Iterable[Observation]:
        def observe() -> list[Observation]:
            return [
                Observation(
                    count, {**_operation(pipeline, "send", "send"), names.DESTINATION: topic}
                )
                for pipeline in self._pipelines
                for topic, count in pipeline._outputs.sent.items()
            ]

        return self._asking.ask(observe, list)

    def pipeline_opened(self, pipeline: Pipeline) -> None:
        """See `Instrument`."""
        self._asking.note_loop()
        self._pipelines[pipeline] = _of(pipeline)

    def pipeline_closed(
        self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
    ) -> None:
        """See `Instrument`."""
        del self._pipelines[pipeline]

    def messages_received(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        count: int,
        size: int,
        first: int,
        last: int,
    ) -> None:
        """See `Instrument`."""
        attributes = _operation(pipeline, "poll", "receive")
        attributes[names.DESTINATION] = topic
        attributes[names.PARTITION] = str(partition)
        self._consumed.add(count, attributes)

    def duration_measured(self, pipeline: Pipeline, stage: str, duration: float) -> None:
        """See `Instrument`."""
        attributes = _operation(pipeline, "process", "process")
        attributes[names.STAGE] = stage
        self._processing.record(duration, attributes)

    def committed(
        self, pipeline: Pipeline, offsets: Mapping[tuple[str, int], int], *, duration: float
    ) -> None:
        """See `Instrument`."""
        self._operations.record(duration, _operation(pipeline, "commit", "settle"))

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        attributes = _operation(pipeline, "commit", "settle")
        attributes[names.ERROR_TYPE] = failure.code
        self._operations.record(duration, attributes)


# What `counts_of` tells: the others are Prometheus' alone, which has no events.
_COUNTED: Final = {"messages_processed_total", "dead_letters_total", "stage_time_seconds_total"}


class OpenTelemetryTraces(Instrument):
    """Spans: ``poll TOPIC`` for what arrived together, ``process TOPIC`` for each message,
    ``process BATCHER`` for each batch, ``commit GROUP``. Handlers run inside of theirs, so the
    spans that they make are its children.

    The context that a producer put into a record's headers is linked from the span that
    processes it, one link a message: a record may be processed again, and long after. Each span
    costs tens of microseconds: sample where that is too much.

    Args:
        tracer_provider: the global one unless given.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        provider = tracer_provider or trace.get_tracer_provider()
        self._tracer = provider.get_tracer(LIBRARY, schema_url=names.SCHEMA)

    @contextmanager
    def around_message(self, pipeline: Pipeline, message: Message) -> Generator[None]:
        """See `Instrument`."""
        attributes = _operation(pipeline, "process", "process")
        attributes[names.DESTINATION] = message.topic
        attributes[names.PARTITION] = str(message.partition)
        attributes[names.OFFSET] = message.offset
        if message.attempt > 1:
            attributes[names.ATTEMPT] = message.attempt
        with self._span(f"process {message.topic}", attributes, _links([message])) as span:
            yield
            _note_failure(span, message.failure)

    @contextmanager
    def around_batch(self, pipeline: Pipeline, batch: Batch) -> Generator[None]:
        """See `Instrument`."""
        attributes = _operation(pipeline, "process", "process")
        attributes[names.BATCH_COUNT] = len(batch)
        attributes[names.BATCHER] = batch.batcher
        attributes[names.TRIGGER] = batch.trigger
        with self._span(f"process {batch.batcher}", attributes, _links(batch)) as span:
            yield
            failures = (message.failure for message in batch)
            _note_failure(span, next((one for one in failures if one is not None), None))

    @contextmanager
    def _span(
        self, name: str, attributes: Attributes, links: list[Link]
    ) -> Generator[trace.Span]:
        with self._tracer.start_as_current_span(
            name,
            context=Context(),  # a trace of its own: it is linked, not a child
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            # Its text may hold what the message holds.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                _note_failure(span, error)
                raise

    def messages_received(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        count: int,
        size: int,
        first: int,
        last: int,
    ) -> None:
        """See `Instrument`."""
        attributes = _operation(pipeline, "poll", "receive")
        attributes[names.DESTINATION] = topic
        attributes[names.PARTITION] = str(partition)
        attributes[names.BATCH_COUNT] = count
        self._past_span(f"poll {topic}", attributes, 0.0)

    def committed(
        self, pipeline: Pipeline, offsets: Mapping[tuple[str, int], int], *, duration: float
    ) -> None:
        """See `Instrument`."""
        attributes = _operation(pipeline, "commit", "settle")
        self._past_span(f"commit {attributes[names.GROUP]}", attributes, duration)

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        attributes = _operation(pipeline, "commit", "settle")
        attributes[names.ERROR_TYPE] = failure.code
        self._past_span(f"commit {attributes[names.GROUP]}", attributes, duration)

    def _past_span(self, name: str, attributes: Attributes, duration: float) -> None:
        ended = time.time_ns()
        span = self._tracer.start_span(
            name,
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=ended - int(duration * 1e9),
        )
        if names.ERROR_TYPE in attributes:
            span.set_status(StatusCode.ERROR)
        span.end(ended)


def _of(pipeline: Pipeline) -> Attributes:
    group = pipeline.topology().group or pipeline.name
    return {names.PIPELINE: pipeline.name, names.GROUP: group}


def _operation(pipeline: Pipeline, name: str, kind: str) -> Attributes:
    return {
        names.SYSTEM: names.KAFKA,
        names.OPERATION_NAME: name,
        names.OPERATION_TYPE: kind,
        **_of(pipeline),
    }


def _note_failure(span: trace.Span, failure: BaseException | None) -> None:
    """Its type only: an exception's text may hold what the message holds."""
    if failure is not None:
        span.set_attribute(names.ERROR_TYPE, type(failure).__qualname__)
        span.set_status(StatusCode.ERROR)


class _Headers(Getter[Message]):
    """A record's headers, as propagators read them."""

    def get(self, carrier: Message, key: str) -> list[str] | None:
        found = [
            value.decode("utf-8", "replace")
            for name, value in carrier.headers
            if name.lower() == key.lower() and value is not None
        ]
        return found or None

    def keys(self, carrier: Message) -> list[str]:
        return [name for name, _ in carrier.headers]


_HEADERS: Final = _Headers()


def _links(messages: Iterable[Message]) -> list[Link]:
    return list(_links_of(messages))


def _links_of(messages: Iterable[Message]) -> Iterator[Link]:
    """To the span that produced each, where its headers tell of one."""
    for message in messages:
        context = propagate.extract(message, Context(), _HEADERS)
        found = trace.get_current_span(context).get_span_context()
        if found.is_valid:
            yield Link(found)
