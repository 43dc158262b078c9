"""The journal's form in bytes. Pure: groups of entries to bytes, and bytes to what they say in the end.

A log is `MAGIC` and then groups, each ``length(4) crc32(4) body``, little endian, the body msgpack of
``[unique, [entry, …]]``: what the reply to the request ``unique`` (0: none) tells the kernel. It is only ever appended
to. The writer may die at any instruction: a group counts only when it is whole and its sum is right, and with the first
that is not the log ends.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from forebay.contracts import Entry, Layout
from forebay_fuse.journal import InitRecord, InodeRecord, Kept, OpenMode, OpenRecord, SessionRecord

MAGIC = b"FBLOG\0\0\1"
"""The last byte is the version of the form."""

FRAME_BYTES = 8
GROUP_BYTES_MAX = 16 << 20
"""Longest group: a READDIRPLUS reply of 1 MiB names some 6,000 inodes."""

COMPACT_GROUP = 64
"""Entries in a group of a log that was written anew."""


class _Form(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Positions, not names: as short as it gets."""


class _File(_Form, frozen=True, array_like=True, gc=False):
    """A layout. ``key`` is the number of its last characters of the path where they are the same (nearly always)."""

    key: str | int
    size: int
    fingerprint: str
    version: bytes
    block_size: int


class InodeEntry(_Form, frozen=True, array_like=True, gc=False, tag=0):
    """`InodeRecord`; ``file`` is there for files."""

    node: int
    path: str
    lookups: int
    mount_id: str | None
    inode: int
    mode: int
    mtime_ns: int
    file: _File | None


class LookupsEntry(_Form, frozen=True, array_like=True, gc=False, tag=1):
    """The count of lookups; 0 drops the inode."""

    node: int
    count: int


class OpenedEntry(_Form, frozen=True, array_like=True, gc=False, tag=2):
    """`OpenRecord`."""

    fh: int
    node: int
    mode: OpenMode
    backing_id: int


class ReleasedEntry(_Form, frozen=True, array_like=True, gc=False, tag=3):
    """A handle is gone."""

    fh: int


class InitEntry(_Form, frozen=True, array_like=True, gc=False, tag=4):
    """`InitRecord`."""

    minor: int
    flags: int
    max_pages: int
    max_background: int


class SessionEntry(_Form, frozen=True, array_like=True, gc=False, tag=5):
    """`SessionRecord`, the paths as the bytes they are."""

    asked: bytes
    mountpoint: bytes
    privileged: bool
    number: str | None


class HighestEntry(_Form, frozen=True, array_like=True, gc=False, tag=6):
    """The highest numbers given out, of which a log that was written anew would know nothing."""

    node: int
    fh: int


LogEntry = InodeEntry | LookupsEntry | OpenedEntry | ReleasedEntry | InitEntry | SessionEntry | HighestEntry


class Group(_Form, frozen=True, array_like=True, gc=False):
    """What one reply tells the kernel."""

    unique: int
    entries: tuple[LogEntry, ...]


class Framed(NamedTuple):
    """A group and where it stands in the log."""

    start: int
    end: int
    group: Group


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Group).decode


def inode_entry(node: int, record: InodeRecord) -> InodeEntry:
    """The entry of an inode."""
    path, entry, mount_id, lookups = record
    found, file = entry.layout, None
    if found is not None:
        key: str | int = len(found.key) if path.endswith(found.key) else found.key
        version = bytes.fromhex(found.version_id)
        file = _File(key, found.size, found.fingerprint, version, found.block_size)
    return InodeEntry(node, path, lookups, mount_id, entry.inode, entry.mode, entry.mtime_ns, file)


def inode_record(entry: InodeEntry) -> InodeRecord:
    """The other way. Raises nothing: what does not fit a name or a layout was never written."""
    path, file = entry.path, entry.file
    found, kind, size = None, "dir", 0
    if file is not None:
        key = path[len(path) - file.key :] if isinstance(file.key, int) else file.key
        found, kind, size = (
            Layout(key=key, size=file.size, fingerprint=file.fingerprint, version_id=file.version.hex(),
                   block_size=file.block_size), "file", file.size,
        )  # fmt: skip
    name = path.rpartition("/")[2]
    told = Entry(
        name=name, kind=_kind(kind), inode=entry.inode, mode=entry.mode, mtime_ns=entry.mtime_ns, size=size,
        layout=found,
    )  # fmt: skip
    return InodeRecord(path, told, entry.mount_id, entry.lookups)


def session_entry(record: SessionRecord) -> SessionEntry:
    """The entry of a session."""
    asked, mountpoint, privileged, number = record
    return SessionEntry(os.fsencode(asked), os.fsencode(mountpoint), privileged, number)


def session_record(entry: SessionEntry) -> SessionRecord:
    """The other way."""
    return SessionRecord(os.fsdecode(entry.asked), os.fsdecode(entry.mountpoint), entry.privileged, entry.number)


def _kind(text: str) -> Literal["file", "dir"]:
    return "dir" if text == "dir" else "file"


def encode(unique: int, entries: Sequence[LogEntry]) -> bytes:
    """One group, framed."""
    body = _encode((unique, entries))
    return len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def groups(log: memoryview | bytes, start: int = len(MAGIC)) -> Iterator[Framed]:
    """The groups of a log from ``start`` on, up to the first that is torn, damaged or of another form."""
    view, at = memoryview(log), start
    while at + FRAME_BYTES <= len(view):
        length = int.from_bytes(view[at : at + 4], "little")
        body = view[at + FRAME_BYTES : at + FRAME_BYTES + length]
        if not 0 < length <= GROUP_BYTES_MAX or len(body) != length:
            return
        if zlib.crc32(body) != int.from_bytes(view[at + 4 : at + FRAME_BYTES], "little"):
            return
        try:
            group = _decode(body)
        except (msgspec.DecodeError, RecursionError):
            return
        yield Framed(at, at + FRAME_BYTES + length, group)
        at += FRAME_BYTES + length


def is_log(log: memoryview | bytes) -> bool:
    """Whether it begins as a log of this form."""
    return bytes(memoryview(log)[: len(MAGIC)]) == MAGIC


class Tables:
    """What a log says so far, as entries: cheap to keep and to write anew."""

    def __init__(self) -> None:
        self.inodes: dict[int, InodeEntry] = {}
        self.counts: dict[int, int] = {}
        self.opens: dict[int, OpenedEntry] = {}
        self.init: InitEntry | None = None
        self.session: SessionEntry | None = None
        self.node_max, self.fh_max = 1, 0

    def add(self, entries: Iterable[LogEntry]) -> None:
        """The effect of one group."""
        for entry in entries:
            self._add(entry)

    def _add(self, entry: LogEntry) -> None:
        match entry:
            case InodeEntry(node=node, lookups=count):
                self.inodes[node], self.counts[node] = entry, count
                self.node_max = max(self.node_max, node)
            case LookupsEntry(node=node, count=0):
                self.inodes.pop(node, None)
                self.counts.pop(node, None)
            case LookupsEntry(node=node, count=count):
                if node in self.inodes:
                    self.counts[node] = count
            case OpenedEntry(fh=fh):
                self.opens[fh] = entry
                self.fh_max = max(self.fh_max, fh)
            case ReleasedEntry(fh=fh):
                self.opens.pop(fh, None)
            case InitEntry():
                self.init = entry
            case SessionEntry():
                self.session = entry
            case HighestEntry(node=node, fh=fh):
                self.node_max, self.fh_max = max(self.node_max, node), max(self.fh_max, fh)

    def entries(self) -> Iterator[LogEntry]:
        """The fewest entries that say the same."""
        yield HighestEntry(self.node_max, self.fh_max)
        yield from (e for e in (self.session, self.init) if e is not None)
        for node, entry in self.inodes.items():
            count = self.counts[node]
            yield entry if count == entry.lookups else msgspec.structs.replace(entry, lookups=count)
        yield from self.opens.values()

    def kept(self) -> Kept:
        """For a successor."""
        records = {node: inode_record(entry) for node, entry in self.inodes.items()}
        init, session = self.init, self.session
        return Kept(
            inodes={node: record._replace(lookups=self.counts[node]) for node, record in records.items()},
            opens={fh: OpenRecord(e.node, e.mode, e.backing_id) for fh, e in self.opens.items() if e.node in records},
            session=None if session is None else session_record(session),
            init=None if init is None else InitRecord(*msgspec.structs.astuple(init)),
            node_max=self.node_max,
            fh_max=self.fh_max,
        )


def compact(log: memoryview | bytes) -> tuple[bytes, int]:
    """A log that says the same with nothing in it that is over, and how many inodes it names."""
    tables = Tables()
    for framed in groups(log):
        tables.add(framed.group.entries)
    out, batch = [MAGIC], list[LogEntry]()
    for entry in tables.entries():
        batch.append(entry)
        if len(batch) == COMPACT_GROUP:
            out.append(encode(0, batch))
            batch = []
    out.append(encode(0, batch))
    return b"".join(out), len(tables.inodes)
