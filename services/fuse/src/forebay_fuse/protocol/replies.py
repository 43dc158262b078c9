"""Replies to the kernel as bytes."""

from __future__ import annotations

from typing import NamedTuple

from forebay_fuse.protocol import layout as l  # one letter, for it stands on every line

NS = 1_000_000_000
ENTRY_BYTES = l.ENTRY_OUT.size
PLUS_ATTR_AT = l.ENTRY.size
LOOKED_ATTR_AT, TOLD_ATTR_AT = l.OUT_HEADER.size + l.ENTRY.size, l.OUT_HEADER.size + l.ATTR_OUT.size
"""Where ``struct fuse_attr`` begins in what `direntplus`, `looked_up` and `attributes_of` make."""

ATIME_AT, ATIME_NS_AT = 24, 48
"""Where it has the time of the last access: seconds in 8 bytes, nanoseconds in 4."""

_entry = l.ENTRY_OUT.pack
_plus = l.DIRENTPLUS.pack
_out, _OUT_SIZE = l.OUT_HEADER.pack, l.OUT_HEADER.size
_looked = l.ENTRY_REPLY.pack
_LOOKED_BYTES = l.ENTRY_REPLY.size
_told = l.ATTR_REPLY.pack
_TOLD_BYTES = l.ATTR_REPLY.size
_U64 = (1 << 64) - 1
_PADS = tuple(bytes(-n % 8) for n in range(8))
DIR_TYPE, FILE_TYPE = 4, 8  # DT_DIR, DT_REG


class Attributes(NamedTuple):
    """What ``stat`` shows. ``mode`` has the file type."""

    inode: int
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int


def header(unique: int, body_bytes: int) -> bytes:
    """The head of a good reply with ``body_bytes`` behind it."""
    return l.OUT_HEADER.pack(l.OUT_HEADER.size + body_bytes, 0, unique)


def ok(unique: int, body: bytes = b"") -> bytes:
    """A good reply."""
    return _out(_OUT_SIZE + len(body), 0, unique) + body


def error(unique: int, number: int) -> bytes:
    """``number`` is a positive errno."""
    return l.OUT_HEADER.pack(l.OUT_HEADER.size, -number, unique)


def attr(a: Attributes) -> bytes:
    """``struct fuse_attr``."""
    s, ns = divmod(a.mtime_ns, NS)  # as in `entry`
    s &= _U64
    return l.ATTR.pack(a.inode, a.size, (a.size + 511) >> 9, s, s, s, ns, ns, ns, a.mode, 1, a.uid, a.gid, 0, 4096, 0)


def _split(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, 0 if whole == seconds else int((seconds - whole) * NS)


class Timeouts(NamedTuple):
    """How long a name and its attributes may be kept: seconds of each, then the nanoseconds beyond."""

    entry_s: int
    attr_s: int
    entry_ns: int
    attr_ns: int


def timeouts(entry_s: float, attr_s: float) -> Timeouts:
    """Of times in seconds."""
    (es, en), (at, an) = _split(entry_s), _split(attr_s)
    return Timeouts(es, at, en, an)


def entry(node_id: int, a: Attributes, *, entry_s: float, attr_s: float) -> bytes:
    """``struct fuse_entry_out``."""
    return entry_out(node_id, a, timeouts(entry_s, attr_s))


def entry_out(node_id: int, a: Attributes, times: Timeouts) -> bytes:
    """``struct fuse_entry_out``."""
    # Seconds floor, so that a time before 1970 keeps its nanoseconds positive; the kernel reads them unsigned.
    number, size, mtime_ns, mode, uid, gid = a
    s, ns = divmod(mtime_ns, NS)
    s &= _U64
    return _entry(
        node_id, 0, *times, number, size, (size + 511) >> 9, s, s, s, ns, ns, ns, mode, 1, uid, gid, 0, 4096, 0
    )


def looked_up(unique: int, node_id: int, a: Attributes, times: Timeouts) -> bytes:
    """The whole reply to a LOOKUP, header and `entry_out` in one piece."""
    number, size, mtime_ns, mode, uid, gid = a
    s, ns = divmod(mtime_ns, NS)
    s &= _U64
    return _looked(
        _LOOKED_BYTES, 0, unique,
        node_id, 0, *times, number, size, (size + 511) >> 9, s, s, s, ns, ns, ns, mode, 1, uid, gid, 0, 4096, 0,
    )  # fmt: skip


def attributes_of(unique: int, a: Attributes, attr_s: float) -> bytes:
    """The whole reply to a GETATTR, header and `attr_out` in one piece."""
    at, an = _split(attr_s)
    number, size, mtime_ns, mode, uid, gid = a
    s, ns = divmod(mtime_ns, NS)
    s &= _U64
    return _told(
        _TOLD_BYTES, 0, unique, at, an, 0,
        number, size, (size + 511) >> 9, s, s, s, ns, ns, ns, mode, 1, uid, gid, 0, 4096, 0,
    )  # fmt: skip


def with_atime(body: bytes, attr_at: int, atime_ns: int) -> bytes:
    """A reply with another time of the last access in its ``struct fuse_attr``, which begins at ``attr_at``."""
    s, ns = divmod(atime_ns, NS)
    seconds, nanoseconds = attr_at + ATIME_AT, attr_at + ATIME_NS_AT
    changed = bytearray(body)
    changed[seconds : seconds + 8] = s.to_bytes(8, "little")
    changed[nanoseconds : nanoseconds + 4] = ns.to_bytes(4, "little")
    return bytes(changed)


def negative(entry_s: float) -> bytes:
    """An entry of node id 0: the kernel remembers that there is no such name."""
    es, en = _split(entry_s)
    return l.ENTRY.pack(0, 0, es, 0, en, 0) + bytes(l.ATTR.size)


def attr_out(a: Attributes, attr_s: float) -> bytes:
    """``struct fuse_attr_out``."""
    at, an = _split(attr_s)
    return l.ATTR_OUT.pack(at, an, 0) + attr(a)


def open_out(handle: int, flags: int, backing_id: int = 0) -> bytes:
    """``struct fuse_open_out``; ``backing_id`` goes with the flag PASSTHROUGH."""
    return l.OPEN_OUT.pack(handle, flags, backing_id)


def dirent_bytes(name: bytes) -> int:
    """Length of a `dirent`."""
    return (l.DIRENT.size + len(name) + 7) & ~7


def dirent(inode: int, offset: int, name: bytes, kind: int) -> bytes:
    """``struct fuse_dirent``; ``offset`` is where the next read of the directory goes on."""
    return l.DIRENT.pack(inode, offset, len(name), kind) + name + _PADS[len(name) & 7]


def direntplus(node_id: int, a: Attributes, times: Timeouts, offset: int, name: bytes, kind: int) -> bytes:
    """``struct fuse_direntplus``: `entry_out` and `dirent` in one piece. Made for each name of a dataset."""
    number, size, mtime_ns, mode, uid, gid = a
    s, ns = divmod(mtime_ns, NS)
    s &= _U64
    length = len(name)
    head = _plus(
        node_id, 0, *times, number, size, (size + 511) >> 9, s, s, s, ns, ns, ns, mode, 1, uid, gid, 0, 4096, 0,
        number, offset, length, kind,
    )  # fmt: skip
    return head + name + _PADS[length & 7]


def written(count: int) -> bytes:
    """``struct fuse_write_out``: how much was taken."""
    return l.WRITE_OUT.pack(count, 0)


def statfs(*, blocks: int, block_size: int, files: int, name_max: int) -> bytes:
    """A read-only file system: nothing is free."""
    return l.STATFS_OUT.pack(blocks, 0, 0, files, 0, block_size, name_max, block_size, 0)


def xattr_size(size: int) -> bytes:
    """``struct fuse_getxattr_out``: how long the value is."""
    return l.XATTR_OUT.pack(size, 0)


def version() -> bytes:
    """The reply to an INIT of a later major version: which one we speak (the kernel asks again)."""
    return l.INIT_OUT.pack(l.MAJOR, l.MINOR, *(0,) * 11)


def init(
    *,
    minor: int,
    max_readahead: int,
    flags: int,
    max_background: int,
    max_write: int,
    max_pages: int,
    stack_depth: int = 0,
) -> bytes:
    """``struct fuse_init_out``; ``stack_depth`` above 0 is what passthrough needs."""
    return l.INIT_OUT.pack(
        l.MAJOR,
        minor,
        max_readahead,
        flags & 0xFFFFFFFF,
        max_background,
        max_background * 3 // 4,
        max_write,
        1,
        max_pages,
        0,
        flags >> 32,
        stack_depth,
        0,
    )


def invalidate_entry(parent: int, name: bytes, *, expire: bool = False) -> bytes:
    """A notification: forget the name ``name`` in ``parent``, and the parent's attributes. With ``expire`` (Linux 6.2;
    before that as without) the name is only looked up anew when it is used: for directories, in which programs may
    live."""
    body = l.NOTIFY_ENTRY.pack(parent, len(name), l.EXPIRE_ONLY if expire else 0) + name + b"\0"
    return l.OUT_HEADER.pack(l.OUT_HEADER.size + len(body), l.NOTIFY_INVAL_ENTRY, 0) + body


def invalidate_attributes(node_id: int) -> bytes:
    """A notification: forget the attributes of an inode; what is cached of its content stays (a negative offset)."""
    body = l.NOTIFY_INODE.pack(node_id, -1, 0)
    return l.OUT_HEADER.pack(l.OUT_HEADER.size + len(body), l.NOTIFY_INVAL_INODE, 0) + body
