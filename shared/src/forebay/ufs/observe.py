"""What an under store tells about itself: requests, bytes, errors, durations, and a span around each call.

No key is ever a label. A read is an async generator: its span must not become the caller's current span between two
pieces, so it lives in a context of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context

from forebay.errors import ForebayError
from forebay.telemetry import Span, Telemetry


class UfsMeter:
    """The instruments of one opened under store; the same names again give the same instruments."""

    def __init__(self, telemetry: Telemetry, scheme: str) -> None:
        metrics = telemetry.metrics
        labels = ("scheme", "operation")
        self._tracer = telemetry.tracer
        self._scheme = scheme
        self._requests = metrics.counter("forebay_ufs_requests_total", "Calls to under stores, ended", labels)
        self._errors = metrics.counter("forebay_ufs_errors_total", "Calls that failed, by error", (*labels, "error"))
        self._seconds = metrics.histogram(
            "forebay_ufs_request_duration_seconds", "Time of a call, body included", labels
        )
        self._bytes = metrics.counter("forebay_ufs_read_bytes_total", "File bytes that came in", ("scheme",))
        self._streams = metrics.gauge("forebay_ufs_streams", "Data reads running", ("scheme",))
        self._skipped = metrics.counter("forebay_ufs_skipped_names_total", "Names no file can have", ("scheme",))

    @contextmanager
    def call(self, operation: str, **attributes: str | int) -> Iterator[Span]:
        """Around one listing or stat."""
        with self._span(operation, attributes) as span, self._counted(operation, span):
            yield span

    @contextmanager
    def stream(self, **attributes: str | int) -> Iterator[Span]:
        """Around one read, possibly over many steps of an async generator."""
        context = copy_context()
        manager = self._span("read", attributes)
        span = context.run(manager.__enter__)
        self._streams.add(1, self._scheme)
        try:
            with self._counted("read", span):
                yield span
        finally:
            self._streams.add(-1, self._scheme)
            context.run(manager.__exit__, None, None, None)

    def came_in(self, length: int) -> None:
        """File bytes arrived."""
        self._bytes.add(length, self._scheme)

    def skipped(self, count: int) -> None:
        """Names were left out of a listing."""
        if count:
            self._skipped.add(count, self._scheme)

    def _span(self, operation: str, attributes: dict[str, str | int]) -> AbstractContextManager[Span]:
        details = {"forebay.ufs.scheme": self._scheme, **attributes}
        return self._tracer.start(
            f"ufs {operation}", kind="client" if self._scheme == "s3" else "internal", attributes=details
        )

    def request(self, method: str) -> AbstractContextManager[Span]:
        """A span around one request of botocore's (with its retries), below the call that makes it; named as its own
        instrumentation does (OpenTelemetry's AWS SDK conventions)."""
        details = {"rpc.system": "aws-api", "rpc.service": "S3", "rpc.method": method}
        return self._tracer.start(f"S3.{method}", kind="client", attributes=details)

    @contextmanager
    def _counted(self, operation: str, span: Span) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except ForebayError as e:
            span.fail(e.code)
            self._errors.add(1, self._scheme, operation, e.code)
            raise
        finally:
            self._requests.add(1, self._scheme, operation)
            self._seconds.observe(time.perf_counter() - started, self._scheme, operation)
