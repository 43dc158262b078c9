"""Readahead as a pure state machine: which segments a reader wants after each read.

A read is *in sequence* when it begins near the end of what was read before; near, because a kernel sends several
requests of one reader at once and they may arrive out of order. The window is fixed: full from the second read in
sequence, the read's own segments for a first read at the beginning of a file, and zero after a random jump. What lies
a slack behind is let go. (A window that grows and shrinks belongs to the movement of bytes.)
"""

from __future__ import annotations

from dataclasses import dataclass

from forebay.client.ranges import Grid

STREAK_FULL = 2
"""Reads in sequence before the full window opens."""


@dataclass(frozen=True)
class Cursor:
    """Where a reader is: ``end`` of the furthest byte read in sequence, how many reads in a row, segments wanted."""

    end: int = 0
    streak: int = 0
    wanted: range = range(0)


def advance(cursor: Cursor, offset: int, length: int, *, grid: Grid, window_bytes: int) -> Cursor:
    """The cursor after a read of ``length`` (≥ 1) bytes at ``offset``; both lie inside the file."""
    end = offset + length
    if not _in_sequence(cursor, offset, grid.segment):
        return Cursor(end, 0, range(0))
    streak, furthest = cursor.streak + (end > cursor.end), max(cursor.end, end)
    if length >= min(window_bytes, grid.size):  # so large a read needs no help: its own requests run side by side
        return Cursor(furthest, streak, range(0))
    low = grid.number(max(0, furthest - length - grid.segment))
    if streak < STREAK_FULL:
        begins = offset == 0
        return Cursor(furthest, streak, range(grid.number(end - 1) + 1) if begins else range(0))
    high = grid.number(min(furthest + window_bytes, grid.size) - 1) + 1
    return Cursor(furthest, streak, range(min(low, high), high))


def _in_sequence(cursor: Cursor, offset: int, slack: int) -> bool:
    if cursor.streak == 0 and cursor.end == 0:
        return offset == 0
    return cursor.end - slack <= offset <= cursor.end + slack
