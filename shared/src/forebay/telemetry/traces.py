"""Trace contexts (W3C Trace Context, level 1) and spans that cost nothing unless they are sampled.

A plain SDK span costs as much as one of our RPCs, so the decision to sample is made here, once, at the root, and an
unsampled request never enters the SDK: its context is passed on unchanged, which the recommendation allows a hop
that records nothing (section 3.2.2.4). A sampled span is an SDK span, ended into a bounded queue that another thread
exports. A trace that is *kept* (``tracestate: forebay=keep``, by who asks for one trace and wants to see it) is
recorded by every process in its `SpanRing` as well, collector or not.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from opentelemetry import trace as otel
from opentelemetry.context import Context

from forebay.telemetry.ring import KeptSpan, SpanRing, Value

SpanKind = Literal["server", "client", "internal"]
KEEP = "forebay=keep"
"""The member of ``tracestate`` by which a trace is kept."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_TRACEPARENT_MAX = 512
_TRACESTATE_MAX = 512
_KINDS = {"server": otel.SpanKind.SERVER, "client": otel.SpanKind.CLIENT, "internal": otel.SpanKind.INTERNAL}


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Which trace a piece of work belongs to. Ids are lower-case hex: 32 and 16 digits, never all zero. A ``kept``
    trace is sampled too."""

    trace_id: str
    span_id: str
    sampled: bool
    kept: bool = False

    def traceparent(self) -> str:
        """The header's value, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str | None, tracestate: str | None = None) -> TraceContext | None:
    """The context in a ``traceparent`` header; ``None`` for anything that the recommendation does not allow.
    ``tracestate`` may say that a sampled trace is kept.

    Version 00 has exactly four fields; a later version may carry more after a dash, ``ff`` is forbidden
    (W3C Trace Context, section 3.2.2).
    """
    if text is None or len(text) > _TRACEPARENT_MAX:
        return None
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if trace_id == "0" * 32 or span_id == "0" * 16:
        return None
    sampled = bool(int(flags, 16) & 1)
    return TraceContext(trace_id, span_id, sampled, sampled and _is_kept(tracestate))


def _is_kept(tracestate: str | None) -> bool:
    if tracestate is None or len(tracestate) > _TRACESTATE_MAX:
        return False
    return any(member.strip() == KEEP for member in tracestate.split(","))


_CURRENT: ContextVar[TraceContext | None] = ContextVar("forebay_trace", default=None)


def current_context() -> TraceContext | None:
    """The context of the span that this task is in."""
    return _CURRENT.get()


class Span:
    """One piece of work. This base records nothing; `Tracer.start` gives a recording one when sampled."""

    __slots__ = ("context",)

    def __init__(self, context: TraceContext) -> None:
        self.context = context

    def set(self, key: str, value: Value) -> None:
        """Sets an attribute. Never a secret, never a ticket."""

    def fail(self, error: BaseException | str) -> None:
        """Marks the span as failed and names the kind of error."""

    def drop(self) -> None:
        """It turned out to be no work: a kept span is not recorded."""


class _RecordingSpan(Span):
    __slots__ = ("_span",)

    def __init__(self, context: TraceContext, span: otel.Span) -> None:
        super().__init__(context)
        self._span = span

    def set(self, key: str, value: Value) -> None:
        self._span.set_attribute(key, value)

    def fail(self, error: BaseException | str) -> None:
        self._span.set_attribute("error.type", _kind_of(error))
        self._span.set_status(otel.Status(otel.StatusCode.ERROR, None if isinstance(error, str) else str(error)))

    def end(self) -> None:
        self._span.end()


class _RingSpan(Span):
    """A span for the ring, and for the SDK where there is one (``also``), under one id."""

    __slots__ = (
        "_also", "_attributes", "_began_s", "_error", "_kind", "_name", "_parent_id", "_ring", "_started_s",
        "is_dropped",
    )  # fmt: skip

    def __init__(
        self, context: TraceContext, name: str, kind: SpanKind, *, ring: SpanRing, parent_id: str | None,
        also: _RecordingSpan | None, attributes: Mapping[str, Value] | None,
    ) -> None:  # fmt: skip
        super().__init__(context)
        self._name, self._kind, self._ring, self._parent_id, self._also = name, kind, ring, parent_id, also
        self._attributes: dict[str, Value] = dict(attributes or {})
        self._error: str | None = None
        self.is_dropped = False
        self._started_s, self._began_s = time.time(), time.perf_counter()

    def set(self, key: str, value: Value) -> None:
        self._attributes[key] = value
        if self._also is not None:
            self._also.set(key, value)

    def fail(self, error: BaseException | str) -> None:
        self._error = _kind_of(error)
        if self._also is not None:
            self._also.fail(error)

    def drop(self) -> None:
        self.is_dropped = True

    def end(self) -> None:
        if self.is_dropped:
            return
        self._ring.add(
            KeptSpan(
                trace_id=self.context.trace_id,
                span_id=self.context.span_id,
                parent_id=self._parent_id,
                service=self._ring.service,
                member_id=self._ring.member_id,
                name=self._name,
                kind=self._kind,
                started_s=self._started_s,
                took_s=time.perf_counter() - self._began_s,
                attributes=self._attributes,
                error=self._error,
            )
        )
        if self._also is not None:
            self._also.end()


def _kind_of(error: BaseException | str) -> str:
    return error if isinstance(error, str) else type(error).__qualname__


class _Scope(AbstractContextManager[Span]):
    """Sets the current context inside the ``with``. Enter and leave it in one task."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[TraceContext | None] | None = None

    def __enter__(self) -> Span:
        self._token = _CURRENT.set(self._span.context)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        if isinstance(self._span, _RecordingSpan | _RingSpan):
            if error is not None:
                self._span.fail(error)
            self._span.end()


class Tracer:
    """Starts spans; ``provider`` is the SDK's, or ``None`` when nothing is exported. ``ring`` takes kept traces."""

    def __init__(self, provider: otel.TracerProvider | None, sample_ratio: float, ring: SpanRing | None = None) -> None:
        self._sdk = provider.get_tracer("forebay") if provider else None
        self._ratio = sample_ratio
        self.ring = ring or SpanRing()

    def start(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None = None,
        root: bool = False,
        keep: bool = False,
        attributes: Mapping[str, Value] | None = None,
    ) -> AbstractContextManager[Span]:
        """A span as a context manager that is current inside.

        The parent is ``parent``, else the current span unless ``root``; with neither, a new trace begins, sampled with
        the tracer's ratio, or with ``keep`` in any case, and kept. An exception that leaves the ``with`` fails the
        span.
        """
        if parent is None and not root:
            parent = _CURRENT.get()
        kept = parent.kept if parent else keep
        if kept:
            return self._start_kept(name, kind, parent, attributes)
        sampled = parent.sampled if parent else self._ratio > 0 and random.random() < self._ratio
        if not sampled or self._sdk is None:
            return _Scope(Span(parent or _new_root()))
        return _Scope(self._recording(self._sdk, name, kind, parent, attributes))

    def _recording(
        self, sdk: otel.Tracer, name: str, kind: SpanKind, parent: TraceContext | None,
        attributes: Mapping[str, Value] | None,
    ) -> _RecordingSpan:  # fmt: skip
        span = sdk.start_span(name, _otel_context(parent), kind=_KINDS[kind], attributes=attributes)
        ids = span.get_span_context()
        kept = parent.kept if parent else False
        context = TraceContext(f"{ids.trace_id:032x}", f"{ids.span_id:016x}", ids.trace_flags.sampled, kept)
        return _RecordingSpan(context, span)

    def _start_kept(
        self, name: str, kind: SpanKind, parent: TraceContext | None, attributes: Mapping[str, Value] | None
    ) -> _Scope:
        also = self._recording(self._sdk, name, kind, parent, attributes) if self._sdk is not None else None
        ids = also.context if also is not None else _new_root()
        context = TraceContext(parent.trace_id if parent else ids.trace_id, ids.span_id, True, True)
        parent_id = parent.span_id if parent else None
        span = _RingSpan(context, name, kind, ring=self.ring, parent_id=parent_id, also=also, attributes=attributes)
        return _Scope(span)

    def current(self) -> TraceContext | None:
        """The context of the span that this task is in."""
        return _CURRENT.get()


def _new_root() -> TraceContext:
    trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return TraceContext(f"{trace_id:032x}", f"{span_id:016x}", False)


def _otel_context(parent: TraceContext | None) -> Context:
    if parent is None:
        return Context()
    ids = otel.SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=otel.TraceFlags(1)
    )
    return otel.set_span_in_context(otel.NonRecordingSpan(ids), Context())
