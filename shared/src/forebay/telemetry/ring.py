"""Kept spans: what a process recorded of traces that somebody asked to see, until newer ones take their place."""

from __future__ import annotations

from collections import deque

from forebay.contracts.traces import KeptSpan, Value

__all__ = ["SPANS_MAX", "KeptSpan", "SpanRing", "Value"]

SPANS_MAX = 4096
"""Spans that a process keeps of all kept traces together: about 2 MiB."""


class SpanRing:
    """The last spans of kept traces in this process. Spans end in more than one thread; a deque bears that."""

    def __init__(self, service: str = "", member_id: str = "", *, spans_max: int = SPANS_MAX) -> None:
        self.service = service
        self.member_id = member_id
        self._spans: deque[KeptSpan] = deque(maxlen=spans_max)

    def add(self, span: KeptSpan) -> None:
        """A span that ended; the oldest goes when there are too many."""
        self._spans.append(span)

    def of(self, trace_id: str) -> tuple[KeptSpan, ...]:
        """What is kept of one trace, in the order in which the spans ended."""
        return tuple(span for span in self._spans.copy() if span.trace_id == trace_id)

    def all(self) -> tuple[KeptSpan, ...]:
        """What is kept of all."""
        return tuple(self._spans.copy())
