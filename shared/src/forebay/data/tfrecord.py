"""TFRecord framing, both checksums checked. Pure.

A record (TensorFlow, "TFRecord file format details") is the length as uint64, the masked CRC32C of those eight bytes,
the data, and their masked CRC32C, all little endian; the mask rotates a CRC right by 15 bits and adds 0xa282ead8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import google_crc32c

from forebay.data.errors import broken

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
MASK_DELTA = 0xA282EAD8

RECORD_BYTES_MAX = 1 << 30
"""A longer one is taken for a broken length, though its checksum be right."""


def masked_crc(data: bytes) -> int:
    """The masked CRC32C."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One record of ``data``."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data))))


class Splitter:
    """Cuts a shard that comes in pieces of any length into records. ``offset`` is where the next record begins.

    With ``checks`` off only the framing is looked at, for skipping.
    """

    def __init__(self, path: str, offset: int = 0, *, checks: bool = True) -> None:
        self._path = path
        self.offset = offset
        self.checks = checks
        self._held = b""

    def feed(self, piece: memoryview) -> Iterator[tuple[int, bytes]]:
        """The records that are complete with ``piece``, each with its offset in the file; used up before the next one
        is fed.

        Raises:
            BrokenRecord: a checksum is wrong.
        """
        at = 0
        while self._held and at < len(piece):  # a record that began in an earlier piece
            more = self._missing() or 1
            self._held += bytes(piece[at : at + more])
            at += more
            if not self._missing():
                record, self._held = self._held, b""
                yield self._whole(record)
        if self._held:
            return
        view, at = piece[at:], 0
        while len(view) - at >= HEADER.size:
            end = at + HEADER.size + self._length(view[at : at + HEADER.size]) + FOOTER.size
            if end > len(view):
                break
            yield self._whole(view[at:end])
            at = end
        self._held = bytes(view[at:])

    def finish(self) -> None:
        """Raises BrokenRecord if the file ended inside a record."""
        if self._held:
            raise broken(self._path, self.offset, f"the file ends inside the record of {len(self._held)} bytes so far")

    def _missing(self) -> int:
        if len(self._held) < HEADER.size:
            return HEADER.size - len(self._held)
        length = self._length(memoryview(self._held)[: HEADER.size])
        return HEADER.size + length + FOOTER.size - len(self._held)

    def _length(self, header: memoryview) -> int:
        length, crc = HEADER.unpack(header)
        if masked_crc(bytes(header[:8])) != crc or length > RECORD_BYTES_MAX:
            raise broken(self._path, self.offset, "no TFRecord (the checksum of its length is wrong)")
        return int(length)

    def _whole(self, record: memoryview | bytes) -> tuple[int, bytes]:
        offset = self.offset
        data = bytes(record[HEADER.size : -FOOTER.size])
        if self.checks and FOOTER.unpack(record[-FOOTER.size :])[0] != masked_crc(data):
            raise broken(self._path, offset, "the checksum of the record is wrong")
        self.offset = offset + len(record)
        return offset, data
