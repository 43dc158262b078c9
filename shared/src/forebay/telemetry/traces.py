"""Trace contexts (W3C Trace Context, level 1) and spans that cost nothing unless they are sampled.

A plain SDK span costs as much as one of our RPCs, so the decision to sample is made here, once, at the root, and an
unsampled request never enters the SDK: its context is passed on unchanged, which the recommendation allows a hop
that records nothing (section 3.2.2.4). A sampled span is an SDK span, ended into a bounded queue that another thread
exports.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from opentelemetry import trace as otel
from opentelemetry.context import Context

SpanKind = Literal["server", "client", "internal"]
Value = str | int | float | bool

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_TRACEPARENT_MAX = 512
_KINDS = {"server": otel.SpanKind.SERVER, "client": otel.SpanKind.CLIENT, "internal": otel.SpanKind.INTERNAL}


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Which trace a piece of work belongs to. Ids are lower-case hex: 32 and 16 digits, never all zero."""

    trace_id: str
    span_id: str
    sampled: bool

    def traceparent(self) -> str:
        """The header's value, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str | None) -> TraceContext | None:
    """The context in a ``traceparent`` header; ``None`` for anything that the recommendation does not allow.

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
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


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


class _RecordingSpan(Span):
    __slots__ = ("_span",)

    def __init__(self, context: TraceContext, span: otel.Span) -> None:
        super().__init__(context)
        self._span = span

    def set(self, key: str, value: Value) -> None:
        self._span.set_attribute(key, value)

    def fail(self, error: BaseException | str) -> None:
        kind = error if isinstance(error, str) else type(error).__qualname__
        self._span.set_attribute("error.type", kind)
        self._span.set_status(otel.Status(otel.StatusCode.ERROR, None if isinstance(error, str) else str(error)))

    def end(self) -> None:
        self._span.end()


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
        if isinstance(self._span, _RecordingSpan):
            if error is not None:
                self._span.fail(error)
            self._span.end()


class Tracer:
    """Starts spans; ``provider`` is the SDK's, or ``None`` when nothing is exported."""

    def __init__(self, provider: otel.TracerProvider | None, sample_ratio: float) -> None:
        self._sdk = provider.get_tracer("forebay") if provider else None
        self._ratio = sample_ratio

    def start(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None = None,
        root: bool = False,
        attributes: Mapping[str, Value] | None = None,
    ) -> AbstractContextManager[Span]:
        """A span as a context manager that is current inside.

        The parent is ``parent``, else the current span unless ``root``; with neither, a new trace begins, sampled with
        the tracer's ratio. An exception that leaves the ``with`` fails the span.
        """
        if parent is None and not root:
            parent = _CURRENT.get()
        sampled = parent.sampled if parent else self._ratio > 0 and random.random() < self._ratio
        if not sampled or self._sdk is None:
            return _Scope(Span(parent or _new_root()))
        span = self._sdk.start_span(name, _otel_context(parent), kind=_KINDS[kind], attributes=attributes)
        ids = span.get_span_context()
        context = TraceContext(f"{ids.trace_id:032x}", f"{ids.span_id:016x}", ids.trace_flags.sampled)
        return _Scope(_RecordingSpan(context, span))

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
