"""A real OTLP/HTTP receiver for tests: decodes what the exporters send and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came in; ids are lower-case hex, ``parent_id`` is empty for a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]


@dataclass
class OtlpReceiver:
    """What came in so far. ``endpoint`` is the value for a service's OTLP endpoint setting."""

    endpoint: str
    _spans: list[ReceivedSpan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, spans: list[ReceivedSpan]) -> None:
        """Called by the server thread."""
        with self._lock:
            self._spans += spans

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


def _received(service: str, span: Span) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes={
            a.key: a.value.string_value or str(a.value.int_value or a.value.double_value) for a in span.attributes
        },
    )


def _decode(body: bytes) -> list[ReceivedSpan]:
    out: list[ReceivedSpan] = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = next((a.value.string_value for a in resource.resource.attributes if a.key == "service.name"), "")
        for scope in resource.scope_spans:
            out.extend(_received(service, span) for span in scope.spans)
    return out


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Serves ``/v1/traces`` (and swallows ``/v1/metrics``) on a free loopback port until the block ends."""

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            if self.path.endswith("/v1/traces"):
                receiver.add(_decode(body))
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
