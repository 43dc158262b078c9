"""The OpenTelemetry SDK behind an OTLP endpoint: spans in batches, our numbers by observable instruments.

Nothing here is imported, and no thread started, unless an endpoint is set. Export runs on the SDK's own threads with
bounded queues; what does not fit is dropped, never waited for. Histograms join each export as data points, because
OpenTelemetry has no observable histogram.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from forebay.telemetry.metrics import AnyInstrument, Histogram, Metrics, Number, Observed

EXPORT_TIMEOUT_S = 5.0
METRICS_INTERVAL_S = 15.0
SPANS_QUEUE_MAX = 4096
SPANS_DELAY_S = 5.0
"""Spans wait this long for others: an export costs some milliseconds of CPU, whatever it carries."""


def span_provider(resource: Resource, endpoint: str) -> TracerProvider:
    """A provider that records every span it is asked for (sampling is decided before) and exports in batches."""
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=SPANS_QUEUE_MAX,
            schedule_delay_millis=SPANS_DELAY_S * 1000,
            export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
        )
    )
    return provider


def meter_provider(resource: Resource, endpoint: str, metrics: Metrics) -> MeterProvider:
    """A provider that reads ``metrics`` every `METRICS_INTERVAL_S` and exports them."""
    exporter = _MetricExporter(metrics, endpoint=f"{endpoint.rstrip('/')}/v1/metrics", timeout=EXPORT_TIMEOUT_S)
    reader = PeriodicExportingMetricReader(
        exporter,
        export_interval_millis=METRICS_INTERVAL_S * 1000,
        export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
    )
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    meter = provider.get_meter("forebay")
    metrics.on_new(lambda instrument: _observe(meter, instrument))
    return provider


def otel_unit(name: str) -> str:
    """The UCUM unit that a metric's name ends in; empty when it ends in none."""
    words = name.removesuffix("_total").replace(".", "_").split("_")
    return {"seconds": "s", "duration": "s", "bytes": "By"}.get(words[-1], "")


def _observe(meter: Meter, instrument: AnyInstrument) -> None:
    if isinstance(instrument, Histogram):
        return
    d = instrument.description
    make = meter.create_observable_counter if d.kind == "counter" else meter.create_observable_gauge
    make(d.name, [_reader(instrument)], unit=otel_unit(d.name), description=d.doc)


def _reader(instrument: Number | Observed) -> Callable[[CallbackOptions], Iterable[Observation]]:
    names = instrument.description.labels

    def read(_options: CallbackOptions) -> list[Observation]:
        return [Observation(v, dict(zip(names, labels, strict=True))) for labels, v in instrument.values().items()]

    return read


class _MetricExporter(OTLPMetricExporter):
    """Adds our histograms to what the SDK collected."""

    def __init__(self, metrics: Metrics, *, endpoint: str, timeout: float) -> None:
        super().__init__(endpoint=endpoint, timeout=timeout)
        self._ours = metrics
        self._started_ns = time.time_ns()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        with_histograms = add_histograms(metrics_data, self._ours, self._started_ns, time.time_ns())
        return super().export(with_histograms, timeout_millis, **kwargs)


def add_histograms(data: MetricsData, metrics: Metrics, started_ns: int, now_ns: int) -> MetricsData:
    """``data`` with every histogram of ``metrics`` (cumulative since ``started_ns``) in a scope of their own.

    The scope's name differs from the SDK's, because the exporter keeps only the last scope of one name.
    """
    shaped = [_histogram(h, started_ns, now_ns) for h in metrics if isinstance(h, Histogram)]
    if not shaped or not data.resource_metrics:
        return data
    first, *rest = data.resource_metrics
    scope = sdk.ScopeMetrics(InstrumentationScope("forebay.histograms"), shaped, "")
    return MetricsData([sdk.ResourceMetrics(first.resource, [*first.scope_metrics, scope], first.schema_url), *rest])


def _histogram(histogram: Histogram, started_ns: int, now_ns: int) -> sdk.Metric:
    d = histogram.description
    points = [
        sdk.HistogramDataPoint(
            attributes=dict(zip(d.labels, labels, strict=True)),
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            count=series.count,
            sum=series.total,
            bucket_counts=series.counts,
            explicit_bounds=d.buckets,
            min=series.low,
            max=series.high,
        )
        for labels, series in histogram.distributions().items()
    ]
    data = sdk.Histogram(points, sdk.AggregationTemporality.CUMULATIVE)
    return sdk.Metric(d.name, d.doc, otel_unit(d.name), data)
