"""Messages between a gateway and its data helpers (`helper`): not the kernel's, but packed alike.

A *job* is one READ: the head of its reply, and where its bytes lie: ``header(16) (offset(8) length(8))…``. The open
files come with it, one for each piece; one file more is where the reply goes instead of to the device (at offset 0).
An *end* says of a job that the kernel has the reply (or no longer wants it), or that it was not sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct

from forebay_fuse.protocol.layout import OUT_HEADER

PIECE = Struct("<QQ")  # offset length
END = Struct("<QI")  # unique, whether it was answered
PIECES_MAX = 4
FDS_MAX = PIECES_MAX + 1
JOB_BYTES_MAX = OUT_HEADER.size + PIECES_MAX * PIECE.size


def job(header: bytes, pieces: Iterable[tuple[int, int]]) -> bytes:
    """The message of a READ whose bytes lie in ``pieces``: offset and length in each of the files that go along."""
    return header + b"".join(PIECE.pack(offset, length) for offset, length in pieces)


def pieces_of(message: bytes) -> tuple[bytes, Sequence[tuple[int, int]]]:
    """The other way: head and pieces."""
    head, rest = message[: OUT_HEADER.size], message[OUT_HEADER.size :]
    return head, [(offset, length) for offset, length in PIECE.iter_unpack(rest)]


def unique_of(header: bytes) -> int:
    """The number of the request that a reply's head is for."""
    return int.from_bytes(header[8:16], "little")


def end(unique: int, *, answered: bool) -> bytes:
    """The message about a job that is over."""
    return END.pack(unique, answered)


def end_of(message: bytes) -> tuple[int, bool]:
    """The other way."""
    unique, answered = END.unpack(message)
    return unique, bool(answered)
