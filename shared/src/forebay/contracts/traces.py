"""Spans of a trace that was asked for by ``tracestate: forebay=keep``, as each service kept them."""

from __future__ import annotations

from typing import Literal

from forebay.contracts.codec import Record

TRACES_PATH = "/v1/traces/"
"""Followed by the trace's id: ``GET /v1/traces/{trace_id}``."""

Value = str | int | float | bool


class KeptSpan(Record, frozen=True, kw_only=True):
    """One piece of work. Ids are lower-case hex; ``started_s`` is since the epoch by the service's own clock, ``error``
    the kind of error that ended it."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    service: str
    member_id: str
    name: str
    kind: Literal["server", "client", "internal"]
    started_s: float
    took_s: float
    attributes: dict[str, Value]
    error: str | None = None


class TraceReply(Record, frozen=True):
    """What one process kept of a trace: nothing, if it never saw it or has forgotten it."""

    spans: tuple[KeptSpan, ...]
