"""Requests out of the kernel's bytes, every length checked."""

from __future__ import annotations

from typing import NamedTuple

from forebay.errors import PeerMisbehaved
from forebay_fuse.protocol import layout as l  # one letter, for it stands on every line


class ProtocolError(PeerMisbehaved):
    """The bytes are no request of this protocol. ``unique`` is 0 where even that could not be read."""

    def __init__(self, message: str, unique: int = 0) -> None:
        super().__init__(message, unique=unique)
        self.unique = unique


class Request(NamedTuple):
    """One request. ``body`` is what follows the header; it is only good until the buffer is read into again.

    (Tuples here and below: a frozen dataclass costs three times as much to make, and this is made for each request.)
    """

    opcode: int
    unique: int
    node_id: int
    uid: int
    gid: int
    pid: int
    body: memoryview


class ReadIn(NamedTuple):
    """READ, READDIR, READDIRPLUS."""

    handle: int
    offset: int
    size: int


class InitIn(NamedTuple):
    """INIT; ``flags`` has both words."""

    major: int
    minor: int
    max_readahead: int
    flags: int


_header, _BODY = l.IN_HEADER.unpack_from, l.IN_HEADER.size


def decode(data: memoryview) -> Request:
    """The request in ``data`` (exactly what one read gave).

    Raises:
        ProtocolError: shorter than a header, or of another length than the header says.
    """
    if len(data) < l.IN_HEADER.size:
        raise ProtocolError(f"{len(data)} bytes are no request header")
    length, opcode, unique, node_id, uid, gid, pid, _, _ = _header(data)
    if length != len(data):
        raise ProtocolError(f"a request of {length} bytes came as {len(data)}", unique)
    return Request(opcode, unique, node_id, uid, gid, pid, data[_BODY:])


def _need(request: Request, size: int) -> None:
    if len(request.body) < size:
        raise ProtocolError(f"request {request.opcode}: {len(request.body)} bytes, want {size}", request.unique)


def name_in(request: Request) -> bytes:
    """The name of LOOKUP: up to its NUL."""
    name, nul, _ = bytes(request.body).partition(b"\0")
    if not nul or not name:
        raise ProtocolError("a name without an end, or an empty one", request.unique)
    return name


def read_in(request: Request) -> ReadIn:
    """The range of READ and the directory reads."""
    _need(request, l.READ_IN.size)
    handle, offset, size, *_ = l.READ_IN.unpack_from(request.body)
    return ReadIn(handle, offset, size)


def write_in(request: Request) -> tuple[int, int, bytes]:
    """Handle, offset and bytes of WRITE."""
    _need(request, l.WRITE_IN.size)
    handle, offset, size, *_ = l.WRITE_IN.unpack_from(request.body)
    _need(request, l.WRITE_IN.size + size)
    return handle, offset, bytes(request.body[l.WRITE_IN.size : l.WRITE_IN.size + size])


def setattr_valid(request: Request) -> int:
    """What SETATTR is to change, as a mask."""
    _need(request, l.SETATTR_VALID.size)
    valid: int = l.SETATTR_VALID.unpack_from(request.body)[0]
    return valid


def flush_handle(request: Request) -> int:
    """The handle of FLUSH."""
    _need(request, l.FLUSH_IN.size)
    handle: int = l.FLUSH_IN.unpack_from(request.body)[0]
    return handle


def open_flags(request: Request) -> int:
    """The ``open(2)`` flags of OPEN and OPENDIR."""
    _need(request, l.OPEN_IN.size)
    flags: int = l.OPEN_IN.unpack_from(request.body)[0]
    return flags


def release_handle(request: Request) -> int:
    """The handle of RELEASE and RELEASEDIR."""
    _need(request, l.RELEASE_IN.size)
    handle: int = l.RELEASE_IN.unpack_from(request.body)[0]
    return handle


def forgets(request: Request) -> list[tuple[int, int]]:
    """(node id, lookups) of FORGET or BATCH_FORGET."""
    if request.opcode == l.Op.FORGET:
        _need(request, l.FORGET_IN.size)
        return [(request.node_id, l.FORGET_IN.unpack_from(request.body)[0])]
    _need(request, l.BATCH_FORGET_IN.size)
    (count, _), start = l.BATCH_FORGET_IN.unpack_from(request.body), l.BATCH_FORGET_IN.size
    _need(request, start + count * l.FORGET_ONE.size)
    return [l.FORGET_ONE.unpack_from(request.body, start + i * l.FORGET_ONE.size) for i in range(count)]


def xattr_in(request: Request) -> tuple[int, bytes]:
    """Room for the answer (0: its length is asked for) and name of GETXATTR; LISTXATTR has no name."""
    _need(request, l.XATTR_IN.size)
    size: int = l.XATTR_IN.unpack_from(request.body)[0]
    return size, bytes(request.body[l.XATTR_IN.size :]).partition(b"\0")[0]


def access_mask(request: Request) -> int:
    """The mask of ACCESS."""
    _need(request, l.ACCESS_IN.size)
    mask: int = l.ACCESS_IN.unpack_from(request.body)[0]
    return mask


def interrupted(request: Request) -> int:
    """Which request INTERRUPT means."""
    _need(request, l.INTERRUPT_IN.size)
    unique: int = l.INTERRUPT_IN.unpack_from(request.body)[0]
    return unique


def init_in(request: Request) -> InitIn:
    """What the kernel offers."""
    _need(request, l.INIT_IN.size)
    major, minor, max_readahead, flags = l.INIT_IN.unpack_from(request.body)
    if flags & l.Init.INIT_EXT and len(request.body) >= l.INIT_IN.size + l.INIT_FLAGS2.size:
        flags |= l.INIT_FLAGS2.unpack_from(request.body, l.INIT_IN.size)[0] << 32
    return InitIn(major, minor, max_readahead, flags)
