"""Traces, metrics and their export: set up once per process, handed to every part as one `Telemetry`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from threading import Thread

from forebay.telemetry.metrics import SECONDS, Counter, Gauge, Histogram, Metrics
from forebay.telemetry.ring import SpanRing
from forebay.telemetry.traces import KEEP, Span, SpanKind, TraceContext, Tracer, current_context, parse_traceparent

__all__ = [
    "KEEP",
    "SECONDS",
    "SHUTDOWN_S",
    "Counter",
    "Gauge",
    "Histogram",
    "Metrics",
    "Span",
    "SpanKind",
    "SpanRing",
    "Telemetry",
    "TraceContext",
    "Tracer",
    "current_context",
    "parse_traceparent",
    "quiet",
    "setup",
]


SHUTDOWN_S = 3.0
"""What a dead collector may cost at the end; what is not sent by then is lost."""


@dataclass(frozen=True)
class Telemetry:
    """What a service observes itself with. Without an OTLP endpoint nothing is exported and no thread runs."""

    service: str
    metrics: Metrics
    tracer: Tracer
    closers: tuple[Callable[[], None], ...] = field(default=(), repr=False)

    def shutdown(self) -> None:
        """Sends what is queued and stops the exporters. Blocks, at most `SHUTDOWN_S`: call it after the loop."""
        threads = [Thread(target=close, name="telemetry-shutdown", daemon=True) for close in self.closers]
        end_s = time.monotonic() + SHUTDOWN_S
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end_s - time.monotonic()))


def setup(service: str, *, member_id: str, otlp_endpoint: str | None = None, sample_ratio: float = 0.0) -> Telemetry:
    """The telemetry of one service process.

    ``otlp_endpoint`` is a base URL (``http://collector:4318``); ``sample_ratio`` in [0, 1] is the share of traces that
    this process begins which are recorded. A trace that a caller began keeps the caller's decision.
    """
    metrics, ring = Metrics(), SpanRing(service, member_id)
    if otlp_endpoint is None:
        return Telemetry(service, metrics, Tracer(None, 0.0, ring))
    from opentelemetry.sdk.resources import Resource

    from forebay.telemetry import export

    resource = Resource.create(
        {"service.name": service, "service.instance.id": member_id, "service.version": version("forebay")}
    )
    spans = export.span_provider(resource, otlp_endpoint)
    numbers = export.meter_provider(resource, otlp_endpoint, metrics)
    return Telemetry(service, metrics, Tracer(spans, sample_ratio, ring), (spans.shutdown, numbers.shutdown))


def quiet() -> Telemetry:
    """Telemetry that works and exports nothing, for tests and tools."""
    return Telemetry("quiet", Metrics(), Tracer(None, 0.0))
