"""How fast a member works while it owes us something: what came of all its answers, by the time that took. Pure.

How long one answer took is known when it ends, and many that share a slow line end together, when all of them are
nearly through: with 16 of 1 MiB at 4 MB/s nothing ends for four seconds. What has arrived meanwhile tells at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S = 0.5
"""Time of work that is judged at once."""

MIB = 1 << 20

SIZE_MIN = 1.0
"""MiB that shorter answers are taken for: their time is mostly latency."""


@dataclass(eq=False, slots=True)
class Owed:
    """A request that went out. ``landed`` tells how many bytes of its answer are here; ``is_held``: the member had the
    block in a tier when it was asked last (who has to fetch it first is not slow). ``meanwhile``: MiB that came from
    the member until it ended, of this answer and of others."""

    landed: Callable[[], int]
    is_held: bool
    meanwhile: float = 0.0
    before: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """``WINDOW_S`` of work, begun at ``since_s``: seconds that a MiB took."""

    since_s: float
    s_per_mib: float


class Busy:
    """What one member owes us, and how it gets on.

    Invariants: (1) time counts, and what comes in it, only while a held request is owed; (2) at rest nothing is owed;
    (3) a window has ``WINDOW_S`` of work in it, and something came in it: who gives nothing at all is stalled, which
    others find out.
    """

    def __init__(self) -> None:
        self._owed: set[Owed] = set()
        self._held = 0
        self._ended = 0.0
        """MiB of requests that have ended, ever."""
        self._at_s = 0.0
        self._came_before = 0.0
        """MiB that had come at that moment."""
        self._since_s = 0.0
        self._worked_s = 0.0
        self._worked = 0.0

    def begin(self, owed: Owed, now_s: float) -> None:
        """A request goes out."""
        self._count(now_s)
        owed.before = self._came_before
        self._owed.add(owed)
        self._held += owed.is_held

    def end(self, owed: Owed, length: int, now_s: float) -> None:
        """It was answered with ``length`` bytes, or given up (0)."""
        if owed not in self._owed:
            return  # of before the member left the map
        self._owed.remove(owed)
        self._ended += max(SIZE_MIN, length / MIB) if length else owed.landed() / MIB
        self._count(now_s)
        self._held -= owed.is_held
        owed.meanwhile = self._came_before - owed.before

    def window(self, now_s: float) -> Window | None:
        """The one that is full now, if any; the next one begins."""
        if now_s > self._at_s:
            self._count(now_s)
        if self._worked_s < WINDOW_S:
            return None
        since_s, worked_s, worked = self._since_s, self._worked_s, self._worked
        self._worked_s = self._worked = 0.0
        return Window(since_s, worked_s / worked) if worked > 0 else None

    def restart(self, now_s: float) -> None:
        """A window begins now, whatever came before."""
        self._count(now_s)
        self._worked_s = self._worked = 0.0

    def _count(self, now_s: float) -> None:
        """Time that nobody looked at for long is our own stall, not the member's."""
        came = self._ended + sum(owed.landed() for owed in self._owed) / MIB
        if self._held:
            if self._worked_s == 0.0:
                self._since_s = self._at_s
            self._worked_s += min(now_s - self._at_s, WINDOW_S)
            self._worked += came - self._came_before
        self._at_s, self._came_before = now_s, came

    def validate(self) -> None:
        """The first invariant; fixtures call it at the end of a test."""
        assert self._held == sum(owed.is_held for owed in self._owed)

    def __len__(self) -> int:
        return len(self._owed)
