"""TFRecord framing, both checksums checked. Pure.

A record (TensorFlow, "TFRecord file format details") is the length as uint64, the masked CRC32C of those eight bytes,
the data, and their masked CRC32C, all little endian; the mask rotates a CRC right by 15 bits and adds 0xa282ead8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import google_crc32c

from forebay.data.errors import broken

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
MASK_DELTA = 0xA282EAD8
FRAME_BYTES = HEADER.size + FOOTER.size

RECORD_BYTES_MAX = 1 << 30
"""A longer one is taken for a broken length, though its checksum be right."""


_crc32c: Callable[[bytes], int] = google_crc32c.value


def masked_crc(data: bytes) -> int:
    """The masked CRC32C."""
    crc = _crc32c(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One record of ``data``."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data))))


class Splitter:
    """Cuts a shard that comes in pieces of any length into records. ``offset`` is where the next record begins.

    With ``checks`` off only the framing is looked at, for skipping. A record is copied once out of the piece that it
    lies in; one that lies in several is gathered first.
    """

    def __init__(self, path: str, offset: int = 0, *, checks: bool = True) -> None:
        self._path = path
        self.offset = offset
        self.checks = checks
        self._parts: list[bytes] = []
        self._held, self._size = 0, HEADER.size

    def feed(self, piece: memoryview) -> Iterator[tuple[int, bytes]]:
        """The records that are complete with ``piece``, each with its offset in the file; used up before the next one
        is fed.

        Raises:
            BrokenRecord: a checksum is wrong.
        """
        at, length = 0, len(piece)
        if self._held:
            at = self._gather(piece)
            if self._held < self._size:
                return
            record = memoryview(b"".join(self._parts))
            self._parts, self._held, self._size = [], 0, HEADER.size
            yield self._whole(record, 0, len(record))
        while length - at >= HEADER.size:
            end = at + FRAME_BYTES + self._length(piece, at)
            if end > length:
                break
            yield self._whole(piece, at, end)
            at = end
        self._gather(piece[at:])

    def finish(self) -> None:
        """Raises BrokenRecord if the file ended inside a record."""
        if self._held:
            raise broken(self._path, self.offset, f"the file ends inside the record of {self._held} bytes so far")

    def _gather(self, piece: memoryview) -> int:
        """Keeps what belongs to the record under way; how much of the piece that is. ``_size`` is what of the record
        is known to be needed: its header, then all of it."""
        at = 0
        while at < len(piece) and self._held < self._size:
            part = bytes(piece[at : at + self._size - self._held])
            self._parts.append(part)
            self._held, at = self._held + len(part), at + len(part)
            if self._held == HEADER.size:
                self._parts = [b"".join(self._parts)]
                self._size = FRAME_BYTES + self._length(memoryview(self._parts[0]), 0)
        return at

    def _length(self, piece: memoryview, at: int) -> int:
        length, crc = HEADER.unpack_from(piece, at)
        if masked_crc(bytes(piece[at : at + 8])) != crc or length > RECORD_BYTES_MAX:
            raise broken(self._path, self.offset, "no TFRecord (the checksum of its length is wrong)")
        return int(length)

    def _whole(self, piece: memoryview, at: int, end: int) -> tuple[int, bytes]:
        offset = self.offset
        data = bytes(piece[at + HEADER.size : end - FOOTER.size])
        if self.checks and FOOTER.unpack_from(piece, end - FOOTER.size)[0] != masked_crc(data):
            raise broken(self._path, offset, "the checksum of the record is wrong")
        self.offset = offset + end - at
        return offset, data
