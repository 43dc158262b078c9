"""Tar shards: files that share a name up to the first dot of its last part are one sample (as WebDataset has it).

Headers are read one by one (``tarfile`` ends in silence at a broken header that is not the first). A shard must end
with a block of zeros, so that one that was cut off between two members is noticed too.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

from forebay.data.errors import broken

Sample = dict[str, Any]
KEY = "__key__"
BLOCK = tarfile.BLOCKSIZE
LONG_NAME, PAX, PAX_GLOBAL, LONG_LINK = b"L", b"x", b"g", b"K"
NAME_BYTES_MAX = 1 << 20


class PieceFile:
    """Pieces in order as something to read from; ``at`` is how far it was read."""

    def __init__(self, path: str, pieces: Iterator[memoryview]) -> None:
        self._path = path
        self._pieces = pieces
        self._left = memoryview(b"")
        self.at = 0

    def read(self, length: int) -> bytes:
        """So many bytes.

        Raises:
            BrokenRecord: the shard ends before.
        """
        if length <= len(self._left):
            return self._taken(length)
        parts, missing = [], length
        while missing:
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    raise broken(self._path, self.at, "the shard is cut off")
                self._left = piece
            parts.append(self._taken(min(missing, len(self._left))))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _taken(self, length: int) -> bytes:
        data = bytes(self._left[:length])
        self._left = self._left[length:]
        self.at += length
        return data


def samples(path: str, pieces: Iterator[memoryview]) -> Iterator[Sample]:
    """The samples of a shard: bytes by suffix, and the name under ``__key__``.

    Raises:
        BrokenRecord: it is cut off, or no tar.
    """
    sample: Sample = {}
    for name, body in _members(path, PieceFile(path, pieces)):
        folder, _, last = name.rpartition("/")
        stem, _, suffix = last.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if sample and sample[KEY] != key:
            yield sample
            sample = {}
        sample[KEY], sample[suffix] = key, body
    if sample:
        yield sample


def _members(path: str, file: PieceFile) -> Iterator[tuple[str, bytes]]:
    """Regular files: name and bytes."""
    long_name: str | None = None
    while (info := _header(path, file)) is not None:
        data = _body(path, file, info)
        if info.type == LONG_NAME:
            long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type == PAX:
            long_name = _pax_path(data) or long_name
        elif info.type not in (PAX_GLOBAL, LONG_LINK):
            name, long_name = long_name or info.name, None
            if info.isreg():
                yield name, data


def _header(path: str, file: PieceFile) -> tarfile.TarInfo | None:
    at, block = file.at, file.read(BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as e:
        raise broken(path, at, f"no tar header ({e})") from e


def _body(path: str, file: PieceFile, info: tarfile.TarInfo) -> bytes:
    is_name = info.type in (LONG_NAME, PAX, PAX_GLOBAL, LONG_LINK)
    if is_name and info.size > NAME_BYTES_MAX:
        raise broken(path, file.at, "a name of impossible length")
    if not (is_name or info.isreg()):
        return b""
    data = file.read(info.size)
    file.read(-info.size % BLOCK)
    return data


def _pax_path(data: bytes) -> str | None:
    """The ``path`` record of an extended header (POSIX.1-2001, pax interchange format), if it has one."""
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or int(length) < len(length) + 2:
            return None
        name, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if name == b"path":
            return value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return None
