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
from typing import NamedTuple

import msgspec

from forebay_fuse.journal import InitRecord, InodeRecord, Kept, OpenMode, OpenRecord, SessionRecord

MAGIC = b"FBLOG\0\0\1"
"""The last byte is the version of the form, and of what `pack_entry` gives."""

FRAME_BYTES = 8
GROUP_BYTES_MAX = 16 << 20
"""Longest group: a READDIRPLUS reply of 1 MiB names some 6,000 inodes."""

COMPACT_GROUP = 64
"""Entries in a group of a log that was written anew."""


class _Form(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Positions, not names: as short as it gets."""


class InodeEntry(_Form, frozen=True, array_like=True, gc=False, tag=0):
    """An inode."""

    node: int
    record: InodeRecord


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

    root: str
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


def session_entry(record: SessionRecord) -> SessionEntry:
    """The entry of a session."""
    root, asked, mountpoint, privileged, number = record
    return SessionEntry(root, os.fsencode(asked), os.fsencode(mountpoint), privileged, number)


def session_record(entry: SessionEntry) -> SessionRecord:
    """The other way."""
    where = os.fsdecode(entry.mountpoint)
    return SessionRecord(entry.root, os.fsdecode(entry.asked), where, entry.privileged, entry.number)


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
        self.inodes: dict[int, InodeRecord] = {}
        self._directories: dict[str, str] = {}
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
            case InodeEntry(node=node, record=record):
                record.directory = self._directories.setdefault(record.directory, record.directory)  # one for all
                self.inodes[node] = record
                self.node_max = max(self.node_max, node)
            case LookupsEntry(node=node, count=0):
                self.inodes.pop(node, None)
            case LookupsEntry(node=node, count=count):
                if (known := self.inodes.get(node)) is not None:
                    known.lookups = count
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
        for node, record in self.inodes.items():
            yield InodeEntry(node, record)
        yield from self.opens.values()

    def kept(self) -> Kept:
        """For a successor."""
        init, session, known = self.init, self.session, self.inodes
        return Kept(
            inodes=known,
            opens={fh: OpenRecord(e.node, e.mode, e.backing_id) for fh, e in self.opens.items() if e.node in known},
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
