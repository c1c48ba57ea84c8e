"""What a pipeline does, as metrics of Prometheus. Needs the extra ``prometheus``.

All is read from `Pipeline.statistics` when it is scraped, but for what happens rarely: nothing
is done for a message. Names and labels are those of `_metrics`; docs/observing.md lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._policies import FailurePolicy, Retry, Stage
from trio_broadway_kafka._model._statistics import PipelineStatistics
from trio_broadway_kafka.instruments._asking import Asking
from trio_broadway_kafka.instruments._base import Instrument
from trio_broadway_kafka.instruments._metrics import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    PREFIX,
    Histogram,
    counts_of,
    gauges_of,
    histograms_of,
    one_duration,
)

if TYPE_CHECKING:
    from trio_broadway_kafka._pipeline import Pipeline

__all__ = ["PrometheusInstrument"]

Labels = tuple[str, ...]


class PrometheusInstrument(Instrument, Collector):
    """Shows Prometheus what pipelines do.

    ::

        from prometheus_client import start_http_server

        start_http_server(9100, addr="127.0.0.1")
        async with open_pipeline(..., instruments=[PrometheusInstrument()]):
            ...

    One serves several pipelines: the labels ``pipeline`` and ``group`` tell them apart. It may
    be scraped from any thread: another one than trio's waits until trio's loop has time. What
    counts goes on counting when a pipeline of the same name is opened again.

    Args:
        registry: where to register; None registers nowhere, for `collect` alone.
    """

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._pipelines: dict[Pipeline, Labels] = {}
        self._asking = Asking()
        # What has been counted of pipelines that are closed, and what no statistics hold.
        self._ended = _Totals()
        if registry is not None:
            registry.register(self)

    # What is told.

    def pipeline_opened(self, pipeline: Pipeline) -> None:
        """See `Instrument`."""
        self._asking.note_loop()
        self._pipelines[pipeline] = (pipeline.name, pipeline.topology().group or "")

    def pipeline_closed(
        self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
    ) -> None:
        """See `Instrument`."""
        self._ended.add(self._pipelines.pop(pipeline), pipeline.statistics())

    def partition_assigned(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        committed: int | None,
    ) -> None:
        """See `Instrument`."""
        self._count(pipeline, "rebalances_total", "assigned")

    def partition_revoked(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        unfinished: int,
        lost: bool,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        self._count(pipeline, "rebalances_total", "lost" if lost else "revoked")

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
        self._count(pipeline, "messages_received_total", topic, str(partition), by=count)

    def message_failed(
        self, pipeline: Pipeline, message: Message, policy: FailurePolicy, *, stage: Stage
    ) -> None:
        """See `Instrument`."""
        kind = type(message.failure).__qualname__
        self._count(pipeline, "failures_total", stage, kind)
        if isinstance(policy, Retry):
            self._count(pipeline, "retries_total", stage)

    def committed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        *,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        self._note_commit(pipeline, "ok", duration)

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None:
        """See `Instrument`."""
        self._note_commit(pipeline, "failed", duration)

    def _note_commit(self, pipeline: Pipeline, status: str, duration: float) -> None:
        self._count(pipeline, "commits_total", status)
        labels = self._pipelines[pipeline]
        self._ended.add_histogram("commit_duration_seconds", labels, one_duration(duration))

    def _count(self, pipeline: Pipeline, name: str, *labels: str, by: int = 1) -> None:
        self._ended.counts[name, (*self._pipelines[pipeline], *labels)] += by

    # What is shown.

    def describe(self) -> Iterable[Metric]:
        """All metrics without a value: see `prometheus_client`."""
        return _Families().all()

    def collect(self) -> Iterable[Metric]:
        """All metrics as of now: see `prometheus_client`."""
        return self._asking.ask(
            lambda: self._collect(self._pipelines), lambda: self._collect({})
        )

    def _collect(self, pipelines: Mapping[Pipeline, Labels]) -> list[Metric]:
        live = [(labels, pipeline.statistics()) for pipeline, labels in pipelines.items()]
        families = _Families()
        totals = self._ended.copy()
        gauges: Counter[tuple[str, Labels]] = Counter()  # two may have one name
        for whose, statistics in live:
            totals.add(whose, statistics)
            for name, own, value in gauges_of(statistics):
                gauges[name, (*whose, *own)] += value  # type: ignore[assignment]
        for (name, labels), value in gauges.items():
            families.gauges[name].add_metric(labels, value)
        for (name, labels), count in totals.counts.items():
            families.counters[name].add_metric(labels, count)
        for (name, labels), histogram in totals.histograms.items():
            below = [*accumulate(histogram.counts)]
            bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
            families.histograms[name].add_metric(
                labels, [*zip(bounds, below, strict=True)], histogram.sum
            )
        return families.all()


class _Totals:
    """What has been counted, by metric and labels."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Labels]] = Counter()
        self.histograms: dict[tuple[str, Labels], Histogram] = {}

    def copy(self) -> _Totals:
        copied = _Totals()
        copied.counts, copied.histograms = self.counts.copy(), self.histograms.copy()
        return copied

    def add(self, labels: Labels, statistics: PipelineStatistics) -> None:
        """What a pipeline has counted since it was opened."""
        for name, own, count in counts_of(statistics):
            self.counts[name, (*labels, *own)] += count  # type: ignore[assignment]
        for name, own, histogram in histograms_of(statistics):
            self.add_histogram(name, (*labels, *own), histogram)

    def add_histogram(self, name: str, labels: Labels, histogram: Histogram) -> None:
        so_far = self.histograms.get((name, labels))
        self.histograms[name, labels] = histogram if so_far is None else so_far + histogram


class _Families:
    """All metrics, without values at first."""

    def __init__(self) -> None:
        self.counters = {
            name: CounterMetricFamily(PREFIX + name, text, labels=_labels(own))
            for name, (text, own) in COUNTERS.items()
        }
        self.gauges = {
            name: GaugeMetricFamily(PREFIX + name, text, labels=_labels(own))
            for name, (text, own) in GAUGES.items()
        }
        self.histograms = {
            name: HistogramMetricFamily(PREFIX + name, text, labels=_labels(own))
            for name, (text, own) in HISTOGRAMS.items()
        }

    def all(self) -> list[Metric]:
        """Counters, gauges, histograms."""
        return [*self.counters.values(), *self.gauges.values(), *self.histograms.values()]


def _labels(own: Labels) -> Labels:
    return ("pipeline", "group", *own)
