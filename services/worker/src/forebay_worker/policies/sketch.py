"""How often a block was read lately, for blocks here and elsewhere, in a few bytes each: a count-min sketch with
conservative update (Estan and Varghese, 2002) that halves all counts now and then, as TinyLFU does (Einziger et al.,
2017). It never says too little, and seldom too much."""

from __future__ import annotations

from zlib import adler32, crc32

WIDTH_MIN, WIDTH_MAX = 1 << 10, 1 << 22
HALVE_AFTER = 10
"""Counted reads per expected block until all counts are halved (TinyLFU's sample)."""

_HALVED = bytes(value >> 1 for value in range(256))


class Sketch:
    """Counts up to 255, in three rows."""

    def __init__(self, width: int = WIDTH_MIN) -> None:
        self._one, self._two, self._three = bytearray(width), bytearray(width), bytearray(width)
        self._mask = width - 1
        self._expected = 16
        self._added = 0

    def add(self, block: str) -> int:
        """Counts one read; the estimate with it."""
        x, y, z = self._places(block)
        one, two, three = self._one, self._two, self._three
        least = min(one[x], two[y], three[z])
        if least < 255:
            one[x], two[y], three[z] = max(one[x], least + 1), max(two[y], least + 1), max(three[z], least + 1)
        self._added += 1
        if self._added >= HALVE_AFTER * self._expected:
            self._halve()
        return least + 1

    def estimate(self, block: str) -> int:
        """Reads lately."""
        x, y, z = self._places(block)
        return min(self._one[x], self._two[y], self._three[z])

    def make_room(self, blocks: int) -> None:
        """Widens the rows for as many blocks; a doubled row says what it said before."""
        self._expected = max(self._expected, blocks)
        while self._mask + 1 < min(2 * blocks, WIDTH_MAX):
            self._one, self._two, self._three = self._one * 2, self._two * 2, self._three * 2
            self._mask = 2 * self._mask + 1

    def _places(self, block: str) -> tuple[int, int, int]:
        data = block.encode()
        first, step, mask = crc32(data), (adler32(data) * 0x9E3779B1 >> 7) | 1, self._mask
        return first & mask, (first + step) & mask, (first + 2 * step) & mask

    def _halve(self) -> None:
        self._one, self._two = self._one.translate(_HALVED), self._two.translate(_HALVED)
        self._three = self._three.translate(_HALVED)
        self._added //= 2
