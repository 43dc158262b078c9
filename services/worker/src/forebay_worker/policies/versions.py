"""Which block holds the same piece of an older version of a file: such a block is never asked for again by those who
see the newer one. A table of bounded size that may forget; then the old block leaves like any other."""

from __future__ import annotations

from array import array
from zlib import crc32

PLACES_MIN, PLACES_MAX = 1 << 10, 1 << 18


class Versions:
    """The block last seen for each piece of a file. 12 bytes a place; two pieces that fall on one place push each
    other out."""

    def __init__(self, blocks: int) -> None:
        places = PLACES_MIN
        while places < min(2 * blocks, PLACES_MAX):
            places *= 2
        self._blocks: list[str | None] = [None] * places
        self._pieces = array("I", bytes(4 * places))

    def seen(self, mount_id: str, key: str, index: int, block: str) -> str | None:
        """A read asks for this block as that piece of the file; the block that was that piece before, if another."""
        before = self.known(mount_id, key, index)
        piece, place = self._at(mount_id, key, index)
        self._blocks[place], self._pieces[place] = block, piece
        return before if before != block else None

    def known(self, mount_id: str, key: str, index: int) -> str | None:
        """The block last seen as that piece of the file, if it is not forgotten."""
        piece, place = self._at(mount_id, key, index)
        return self._blocks[place] if self._pieces[place] == piece else None

    def _at(self, mount_id: str, key: str, index: int) -> tuple[int, int]:
        name = f"{index} {mount_id}/{key}".encode("utf-8", "surrogatepass")
        return crc32(name), hash_of(name) % len(self._blocks)


def hash_of(name: bytes) -> int:
    """Independent of ``crc32`` of the same bytes."""
    return crc32(name[::-1]) * 0x9E3779B1 >> 8
