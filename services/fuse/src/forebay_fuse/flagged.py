"""Nodes whose requests somebody wants to see: ``getfattr -n user.forebay.trace.<traceparent>`` begins it.

The attribute is in no listing of names, so that nothing that copies attributes sets a flag. What a flagged node's
requests do is recorded as a kept trace (`forebay.telemetry`), by us and by every service behind us.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from forebay.telemetry import KEEP, TraceContext, parse_traceparent
from forebay_fuse.errno_door import Refused

TRACE_XATTR = b"user.forebay.trace."
FLAGGED_MAX = 64
"""Nodes that are flagged at once; the oldest flag goes."""

FLAGGED_S = 60.0


class Flagged:
    """Which nodes, by which trace, until when. False while there are none."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._flags: dict[int, tuple[float, TraceContext]] = {}

    def __len__(self) -> int:
        return len(self._flags)

    def flag(self, node_id: int, traceparent: bytes) -> bytes:
        """From now on, for `FLAGGED_S`; the answer to the question for the attribute.

        Raises:
            Refused: no sampled trace is named.
        """
        context = parse_traceparent(traceparent.decode(errors="replace"), KEEP)
        if context is None or not context.kept:
            raise Refused(errno.EINVAL, "this is no sampled traceparent")
        self._flags.pop(node_id, None)
        if len(self._flags) >= FLAGGED_MAX:
            del self._flags[next(iter(self._flags))]
        self._flags[node_id] = (self._clock() + FLAGGED_S, context)
        return f"{FLAGGED_S:.0f} s".encode()

    def of(self, node_id: int) -> TraceContext | None:
        """The trace that a request for this node belongs to. A flag whose time is over is forgotten."""
        found = self._flags.get(node_id)
        if found is None or self._clock() < found[0]:
            return found[1] if found is not None else None
        del self._flags[node_id]
        return None
