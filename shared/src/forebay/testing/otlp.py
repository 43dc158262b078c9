"""A real OTLP/HTTP receiver for tests: decodes what the exporters send and keeps spans and data points."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came in; ids are lower-case hex, ``parent_id`` is empty for a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    kind: int = 0
    failed: bool = False
    instance: str = ""


@dataclass(frozen=True)
class ReceivedPoint:
    """One data point of a metric. ``buckets`` is there for histograms, whose ``value`` is their sum."""

    service: str
    name: str
    kind: str
    attributes: dict[str, str]
    value: float
    buckets: tuple[int, ...] = ()


@dataclass
class OtlpReceiver:
    """What came in so far. ``endpoint`` is the value for a service's OTLP endpoint setting."""

    endpoint: str
    _spans: list[ReceivedSpan] = field(default_factory=list)
    _points: list[ReceivedPoint] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, spans: list[ReceivedSpan]) -> None:
        """Called by the server thread."""
        with self._lock:
            self._spans += spans

    def add_points(self, points: list[ReceivedPoint]) -> None:
        """Called by the server thread."""
        with self._lock:
            self._points += points

    def points(self) -> list[ReceivedPoint]:
        """A copy of all data points so far."""
        with self._lock:
            return list(self._points)

    def spans(self) -> list[ReceivedSpan]:
        """A copy of all spans so far."""
        with self._lock:
            return list(self._spans)

    def wait_for(self, wanted: Callable[[list[ReceivedSpan]], bool], timeout_s: float = 20.0) -> list[ReceivedSpan]:
        """All spans, once ``wanted`` holds of them.

        Raises:
            TimeoutError: it did not within ``timeout_s``; the message lists what came.
        """
        end = time.monotonic() + timeout_s
        while not wanted(got := self.spans()):
            if time.monotonic() > end:
                raise TimeoutError("spans so far: " + ", ".join(f"{s.service}:{s.name}" for s in got))
            time.sleep(0.05)
        return got


def _received(resource: Resource, span: Span) -> ReceivedSpan:
    return ReceivedSpan(
        service=_service(resource),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        kind=span.kind,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        instance=_attributes(resource.attributes).get("service.instance.id", ""),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {a.key: a.value.string_value or str(a.value.int_value or a.value.double_value) for a in pairs}


def _service(resource: Resource) -> str:
    return _attributes(resource.attributes).get("service.name", "")


def _decode(body: bytes) -> list[ReceivedSpan]:
    out: list[ReceivedSpan] = []
    for found in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in found.scope_spans:
            out.extend(_received(found.resource, span) for span in scope.spans)
    return out


def _decode_points(body: bytes) -> list[ReceivedPoint]:
    return [
        point
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in _points(_service(resource.resource), metric)
    ]


def _points(service: str, metric: Metric) -> list[ReceivedPoint]:
    kind = metric.WhichOneof("data") or "none"
    if kind == "histogram":
        return [
            ReceivedPoint(service, metric.name, kind, _attributes(p.attributes), p.sum, tuple(p.bucket_counts))
            for p in metric.histogram.data_points
        ]
    return [
        ReceivedPoint(service, metric.name, kind, _attributes(p.attributes), p.as_double or float(p.as_int))
        for p in (metric.sum if kind == "sum" else metric.gauge).data_points
    ]


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Serves ``/v1/traces`` and ``/v1/metrics`` on a free loopback port until the block ends."""

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            if self.path.endswith("/v1/traces"):
                receiver.add(_decode(body))
            elif self.path.endswith("/v1/metrics"):
                receiver.add_points(_decode_points(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: tests read the spans, not an access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receive)
    server.daemon_threads = True
    receiver = OtlpReceiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-receiver")
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
