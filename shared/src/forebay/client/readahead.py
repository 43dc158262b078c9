"""Readahead as a pure state machine: which segments a reader wants after each read.

A read is *in sequence* when it begins near the end of what was read before; near, because a kernel sends several
requests of one reader at once and they may arrive out of order. The window opens at the second read in sequence, two
segments wide, doubles each time that half of it was read, up to the most that the reader may have, and is zero after a
random jump: who reads here and there is sent nothing that was not asked for, and one who goes on in sequence pays for a
wrong guess of two segments at most. A first read at the beginning of a file wants its own segments. What lies a slack
behind is let go.
"""

from __future__ import annotations

from dataclasses import dataclass

from forebay.client.ranges import Grid

STREAK_OPENS = 2
"""Reads in sequence before a window opens."""

SEGMENTS_FIRST = 2
"""How wide it opens."""


@dataclass(frozen=True)
class Cursor:
    """Where a reader is: ``end`` of the furthest byte read in sequence, how many reads in a row, segments wanted; its
    window in bytes, and where the window grows next."""

    end: int = 0
    streak: int = 0
    wanted: range = range(0)
    window: int = 0
    grows_at: int = 0


def advance(cursor: Cursor, offset: int, length: int, *, grid: Grid, window_bytes: int) -> Cursor:
    """The cursor after a read of ``length`` (≥ 1) bytes at ``offset``; both lie inside the file. ``window_bytes`` is
    the most that this reader may have ahead now."""
    end = offset + length
    if not _in_sequence(cursor, offset, grid.segment):
        return Cursor(end)
    streak, furthest = cursor.streak + (end > cursor.end), max(cursor.end, end)
    if length >= min(window_bytes, grid.size):  # so large a read needs no help: its own requests run side by side
        return Cursor(furthest, streak)
    if streak < STREAK_OPENS:
        return Cursor(furthest, streak, range(grid.number(end - 1) + 1) if offset == 0 else range(0))
    window, grows_at = _grown(cursor, furthest, grid.segment, window_bytes)
    low = grid.number(max(0, furthest - length - grid.segment))
    high = grid.number(min(furthest + window, grid.size) - 1) + 1
    return Cursor(furthest, streak, range(min(low, high), high), window, grows_at)


def _grown(cursor: Cursor, furthest: int, segment: int, window_bytes: int) -> tuple[int, int]:
    """The window now, and where it grows next."""
    if not cursor.window:
        window = SEGMENTS_FIRST * segment
    elif furthest >= cursor.grows_at:
        window = 2 * cursor.window
    else:
        return min(cursor.window, window_bytes), cursor.grows_at
    window = min(window, window_bytes)
    return window, furthest + window // 2


def budget_bytes(memory_bytes: int) -> int:
    """What all readers of a process may have ahead together, by the memory that its control group grants: an eighth,
    at most 256 MiB (sixteen readers at full width), at least 16 MiB."""
    return max(16 << 20, min(256 << 20, memory_bytes // 8))


def _in_sequence(cursor: Cursor, offset: int, slack: int) -> bool:
    if cursor.streak == 0 and cursor.end == 0:
        return offset == 0
    return cursor.end - slack <= offset <= cursor.end + slack
