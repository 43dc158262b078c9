"""Which extents of a block are present: a bitmap with the arithmetic of ranges. Pure, immutable geometry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forebay.contracts.records import EXTENT_SIZE


@dataclass(frozen=True)
class Geometry:
    """How a block of ``length`` bytes (at least 1) is cut into extents; the last one may be short."""

    length: int
    extent_size: int = EXTENT_SIZE

    @property
    def count(self) -> int:
        """Extents of the block."""
        return -(-self.length // self.extent_size)

    def span(self, first: int, count: int = 1) -> tuple[int, int]:
        """Start and stop (exclusive) in bytes of ``count`` extents from ``first``."""
        return first * self.extent_size, min(self.length, (first + count) * self.extent_size)

    def touched(self, start: int, stop: int) -> range:
        """Extents that hold bytes ``start`` to ``stop`` (exclusive, not empty)."""
        return range(start // self.extent_size, (stop - 1) // self.extent_size + 1)


class ExtentSet:
    """The extents of one block that are present; extents are only ever added."""

    __slots__ = ("_bits", "geometry")

    def __init__(self, geometry: Geometry, *, full: bool = False) -> None:
        self.geometry = geometry
        self._bits = (1 << geometry.count) - 1 if full else 0

    def __contains__(self, extent: int) -> bool:
        return bool(self._bits >> extent & 1)

    def __len__(self) -> int:
        return self._bits.bit_count()

    def add(self, extent: int) -> None:
        """Adds one extent.

        Raises:
            ValueError: there is no such extent.
        """
        if not 0 <= extent < self.geometry.count:
            raise ValueError(f"extent {extent} of {self.geometry.count}")
        self._bits |= 1 << extent

    @property
    def is_full(self) -> bool:
        """Whether the whole block is present."""
        return self._bits == (1 << self.geometry.count) - 1

    def missing(self, wanted: range) -> list[int]:
        """Those of ``wanted`` that are not present, in order."""
        return [extent for extent in wanted if not self._bits >> extent & 1]

    def present_until(self, start: int, stop: int) -> int:
        """The end of the bytes present without a gap from ``start``, at most ``stop``; ``start`` itself if none."""
        absent = ~self._bits >> start // self.geometry.extent_size
        first_gap = (absent & -absent).bit_length() - 1 + start // self.geometry.extent_size
        return max(start, min(stop, first_gap * self.geometry.extent_size))

    def __iter__(self) -> Iterator[int]:
        return (extent for extent in range(self.geometry.count) if extent in self)
