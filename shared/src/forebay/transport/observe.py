"""What every request leaves behind: a span, a duration, a gauge. Done here once, for all services.

Names are the stable HTTP conventions of OpenTelemetry. An unsampled request costs two context objects and one histogram
bucket; with ``telemetry=None`` (benches) nothing at all.
"""

from __future__ import annotations

from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from forebay.telemetry import KEEP, parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from forebay.telemetry import Span, Telemetry
    from forebay.transport.fields import Field

CLIENT_CLOSED = 499
"""Status of a request whose client went away (nginx's number; no answer was sent)."""

UNMATCHED = "_unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def method_label(method: str) -> str:
    """The method, or ``_OTHER`` for one that the conventions do not list (a peer chooses it freely)."""
    return method if method in _METHODS else "_OTHER"


def route_of(request: web.BaseRequest) -> str:
    """The route's pattern (``/v1/blocks/{block_id}``), never the path."""
    match = getattr(request, "_match_info", None)
    resource = match.route.resource if match is not None else None
    return resource.canonical if resource is not None else UNMATCHED


class Scope(Protocol):
    """A request under observation; ``status`` is set by whoever learns it."""

    status: int

    def __enter__(self) -> Scope: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def headers(self) -> Sequence[Field]:
        """What goes to the next hop."""


class Unobserved:
    """The scope without telemetry."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = 0

    def __enter__(self) -> Unobserved:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def headers(self) -> Sequence[Field]:
        return ()


class ServerObserver:
    """Instruments of one server."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.tracer = telemetry.tracer
        self.active = telemetry.metrics.gauge("http.server.active_requests", "Requests being served.")
        self.duration = telemetry.metrics.histogram(
            "http.server.request.duration",
            "Seconds from a request's head to its reply's last byte handed to the socket.",
            ("http.request.method", "http.route", "http.response.status_code", "network.protocol.version"),
        )

    def request(self, request: web.BaseRequest, version: str) -> Scope:
        """The scope of one request."""
        return _ServerScope(self, request, version)


class _ServerScope:
    __slots__ = ("_observer", "_request", "_scope", "_span", "_started_s", "_version", "status")

    def __init__(self, observer: ServerObserver, request: web.BaseRequest, version: str) -> None:
        self._observer = observer
        self._request = request
        self._version = version
        self._scope: AbstractContextManager[Span] | None = None
        self._span: Span | None = None
        self._started_s = 0.0
        self.status = 0

    def __enter__(self) -> _ServerScope:
        headers = self._request.headers
        parent = parse_traceparent(headers.get("traceparent"), headers.get("tracestate"))
        self._scope = self._observer.tracer.start(
            method_label(self._request.method), kind="server", parent=parent, root=True
        )
        self._span = self._scope.__enter__()
        self._observer.active.add(1)
        self._started_s = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self._started_s
        status = self.status or CLIENT_CLOSED
        method, route = method_label(self._request.method), route_of(self._request)
        self._observer.active.add(-1)
        self._observer.duration.observe(seconds, method, route, str(status), self._version)
        assert self._scope is not None
        assert self._span is not None
        if self._span.context.sampled:
            self._describe(self._span, method, route, status)
        self._scope.__exit__(None, None, None)

    def _describe(self, span: Span, method: str, route: str, status: int) -> None:
        span.set("http.request.method", method)
        span.set("http.route", route)
        span.set("url.path", self._request.path)
        span.set("url.scheme", self._request.scheme)
        span.set("http.response.status_code", status)
        span.set("network.protocol.version", self._version)
        if status >= 500:
            span.fail(str(status))

    def headers(self) -> Sequence[Field]:
        return _headers_of(self._span)


class ClientObserver:
    """Instruments of one client."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.tracer = telemetry.tracer
        self.active = telemetry.metrics.gauge("http.client.active_requests", "Requests under way to peers.")
        self.duration = telemetry.metrics.histogram(
            "http.client.request.duration",
            "Seconds from a request's start, waiting for a connection included, to its reply's last byte.",
            ("http.request.method", "server.address", "http.response.status_code"),
        )

    def request(self, fields: Sequence[Field]) -> Scope:
        """The scope of one request, whose fields begin with method, scheme, authority and path."""
        return _ClientScope(self, fields)


class _ClientScope:
    __slots__ = ("_method", "_observer", "_path", "_peer", "_scope", "_span", "_started_s", "status")

    def __init__(self, observer: ClientObserver, fields: Sequence[Field]) -> None:
        self._observer = observer
        self._method = method_label(fields[0][1])
        self._peer = fields[2][1]
        self._path = fields[3][1]
        self._scope: AbstractContextManager[Span] | None = None
        self._span: Span | None = None
        self._started_s = 0.0
        self.status = 0

    def __enter__(self) -> _ClientScope:
        self._scope = self._observer.tracer.start(self._method, kind="client")
        self._span = self._scope.__enter__()
        self._observer.active.add(1)
        self._started_s = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self._started_s
        self._observer.active.add(-1)
        self._observer.duration.observe(seconds, self._method, self._peer, str(self.status or ""))
        assert self._scope is not None
        assert self._span is not None
        if self._span.context.sampled:
            self._describe(self._span)
        self._scope.__exit__(kind, error, trace)

    def _describe(self, span: Span) -> None:
        span.set("http.request.method", self._method)
        span.set("server.address", self._peer)
        span.set("url.path", self._path.partition("?")[0])
        span.set("network.protocol.version", "2")
        if self.status:
            span.set("http.response.status_code", self.status)
            if self.status >= 400:
                span.fail(str(self.status))

    def headers(self) -> Sequence[Field]:
        return _headers_of(self._span)


def _headers_of(span: Span | None) -> Sequence[Field]:
    """Only a sampled trace travels: an unsampled header would cost every hop and tell nothing."""
    if span is None or not span.context.sampled:
        return ()
    traceparent = ("traceparent", span.context.traceparent())
    return (traceparent, ("tracestate", KEEP)) if span.context.kept else (traceparent,)
