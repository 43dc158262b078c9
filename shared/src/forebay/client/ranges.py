"""Cutting a read into pieces: by block for placement, by segment for readahead. Pure.

A *segment* is the client's unit of readahead: at most ``segment_bytes`` long and never across a block's end, so that
one request brings it. Segments are numbered through the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """``length`` bytes at ``offset`` of block ``index``; they land at ``at`` of the reader's buffer."""

    index: int
    offset: int
    length: int
    at: int


def clip(offset: int, length: int, size: int) -> int:
    """Bytes that a read of ``length`` at ``offset`` gets from a file of ``size`` bytes (short only at its end)."""
    return max(0, min(length, size - offset))


def pieces(offset: int, length: int, block_size: int) -> Iterator[Piece]:
    """The blocks' parts of ``length`` bytes at ``offset`` of the file, in order."""
    at = 0
    while at < length:
        index, inside = divmod(offset + at, block_size)
        n = min(block_size - inside, length - at)
        yield Piece(index, inside, n, at)
        at += n


@dataclass(frozen=True)
class Grid:
    """Segments of one file: ``size`` and ``block_size`` from its layout, ``segment`` the longest segment wished."""

    size: int
    block_size: int
    segment: int

    @property
    def _per_block(self) -> int:
        return -(-self.block_size // self.segment)

    @property
    def count(self) -> int:
        """How many segments the file has."""
        if self.size == 0:
            return 0
        return self.number(self.size - 1) + 1

    def number(self, offset: int) -> int:
        """The segment that holds byte ``offset``."""
        index, inside = divmod(offset, self.block_size)
        return index * self._per_block + inside // self.segment

    def piece(self, number: int) -> Piece:
        """Where segment ``number`` lies; ``at`` is its offset in the file."""
        index, nth = divmod(number, self._per_block)
        inside = nth * self.segment
        start = index * self.block_size + inside
        length = min(self.segment, self.block_size - inside, self.size - start)
        return Piece(index, inside, length, start)
