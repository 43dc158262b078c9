"""The journal in memory that outlives the gateway: memfds, of which a keeper holds a descriptor each.

* *Slots*: a mapping. The kernel writes each request straight into a slot (readv(2)), and the slot is cleared when the
  kernel has the reply. So whatever was in flight when the gateway died stands there, in full, without a copy.
* *Two logs*, of which one is in use: which one is a word in the mapping. A log that is mostly about what is over is
  written anew into the other one by a thread; then the word changes.

Entries are gathered and written when a reply is about to go out, as one group (`logbook`). There is one writer, and it
does one thing after the other: all that can be open when it dies is whether the reply to the last group went out.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from forebay.runtime import logs
from forebay_fuse import logbook
from forebay_fuse.journal import InitRecord, InodeRecord, OpenRecord, SessionRecord
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.recovery import RESENT

MAGIC = int.from_bytes(b"FBSLOT\0\1", "little")
"""The highest byte is the version of the form."""

SLOTS = 2048
"""Requests in flight: those that wait (`gateway.WAITS_MAX`) and those that helpers answer."""

BUFFER_BYTES = 8192
"""The kernel wants at least this much room for a request, and sends no longer ones."""

HEAD_BYTES = 64
SLOT_BYTES = 12288
"""A slot: `HEAD_BYTES` of ours, the request, and what is missing to whole pages."""

TAKEOVERS_MAX = 5
"""Gateways that may die with a request in flight before it is answered with EIO: it could be the reason."""

WASTE_MIN = 1 << 20
"""Bytes of a log about what is over that are not worth writing it anew; beyond them, half of the log."""

LOOKUPS_BYTES = OPEN_BYTES = 24
PAGE = mmap.PAGESIZE
_MAGIC, _SLOTS, _LOG = 0, 1, 2
_opcode_unique = layout.OPCODE_UNIQUE.unpack_from
_SILENT = frozenset(map(int, layout.SILENT))
LOG = logs.get(__name__)


class Waiting(NamedTuple):
    """A request that a dead gateway left; ``takeovers``: how many gateways have died with it."""

    slot: int
    unique: int
    opcode: int
    request: memoryview
    takeovers: int


class MemfdJournal:
    """`Journal` and `Intake`. Invariants: (1) a slot is free, or known by the number of its request; (2) nothing is
    gathered between two requests; (3) ``end`` is the length of the log in use."""

    def __init__(self, fds: Sequence[int]) -> None:
        """Takes over ``fds``: slots and the two logs. ``make`` and ``open_kept`` say where they come from."""
        self.fds = tuple(fds)
        self._map = mmap.mmap(fds[0], PAGE + SLOTS * SLOT_BYTES)
        self._view = memoryview(self._map)
        self._words = self._view.cast("Q")
        rooms = range(PAGE + HEAD_BYTES, len(self._view), SLOT_BYTES)
        self._rooms = [self._view[at : at + BUFFER_BYTES] for at in rooms]
        self._free = list(range(SLOTS - 1, -1, -1))
        self._slots: dict[int, int] = {}
        self._takeovers: dict[int, int] = {}
        self._gathered: list[logbook.LogEntry] = []
        self._inodes = self._inode_bytes = 0
        self._waste = 0
        self._compacting: asyncio.Task[None] | None = None
        self.end = os.fstat(self._log).st_size
        self.compactions = 0

    @classmethod
    def make(cls) -> MemfdJournal:
        """An empty one."""
        fds = [os.memfd_create(f"forebay-{name}") for name in ("slots", "log-0", "log-1")]
        os.truncate(fds[0], PAGE + SLOTS * SLOT_BYTES)
        os.pwrite(fds[1], logbook.MAGIC, 0)
        journal = cls(fds)
        journal._words[_SLOTS], journal._words[_LOG] = SLOTS, 0
        journal._words[_MAGIC] = MAGIC
        return journal

    @classmethod
    def open_kept(cls, fds: Sequence[int]) -> MemfdJournal | None:
        """What another gateway left; ``None`` if this is no journal of this form."""
        if len(fds) != 3 or os.fstat(fds[0]).st_size != PAGE + SLOTS * SLOT_BYTES:
            return None
        journal = cls(fds)
        if journal._words[_MAGIC] == MAGIC and journal._words[_SLOTS] == SLOTS and logbook.is_log(journal.log()):
            return journal
        journal.close()
        return None

    def close(self) -> None:
        """Lets go of it; what a keeper holds stays."""
        if self._compacting is not None:
            self._compacting.cancel()
        self._words.release()
        for room in self._rooms:
            room.release()
        self._view.release()
        with suppress(BufferError):  # a request is still looked at: the mapping goes with that
            self._map.close()
        for fd in self.fds:
            os.close(fd)

    # -- the log

    @property
    def _log(self) -> int:
        return self.fds[1 + (self._words[_LOG] & 1)]

    def log(self) -> bytes:
        """All of the log in use."""
        return os.pread(self._log, os.fstat(self._log).st_size, 0)

    def cut(self, end: int, inodes: int) -> None:
        """The log ends at ``end``: what comes after was never finished, or never told. It names so many inodes."""
        os.truncate(self._log, end)
        os.truncate(self.fds[2 - (self._words[_LOG] & 1)], 0)
        self.end = self._inode_bytes = end
        self._inodes = inodes

    def inode(self, node: int, record: InodeRecord) -> None:
        """See `Journal`."""
        self._gathered.append(logbook.InodeEntry(node, record))
        self._inodes += 1

    def lookups(self, node: int, count: int) -> None:
        """See `Journal`."""
        self._gathered.append(logbook.LookupsEntry(node, count))
        self._waste += LOOKUPS_BYTES + (0 if count else self._inode_bytes // max(1, self._inodes))

    def opened(self, fh: int, record: OpenRecord) -> None:
        """See `Journal`."""
        self._gathered.append(logbook.OpenedEntry(fh, *record))

    def released(self, fh: int) -> None:
        """See `Journal`."""
        self._gathered.append(logbook.ReleasedEntry(fh))
        self._waste += 2 * OPEN_BYTES

    def negotiated(self, record: InitRecord) -> None:
        """See `Journal`."""
        self._gathered.append(logbook.InitEntry(*record))

    def mounted(self, record: SessionRecord) -> None:
        """The session, before a keeper gets it."""
        self._gathered.append(logbook.session_entry(record))
        self.write(0)

    def settle(self) -> None:
        """See `Journal`."""
        self.write(0)

    def write(self, unique: int) -> None:
        """Writes what was gathered down, as what the reply to ``unique`` tells."""
        if not self._gathered:
            return
        group = logbook.encode(unique, self._gathered)
        self._inode_bytes += len(group)
        self._gathered.clear()
        try:
            os.pwrite(self._log, group, self.end)
        except OSError as e:  # no memory: the mount lives on, but would not outlive this process
            LOG.error("journal_failed", error=str(e))
            return
        self.end += len(group)

    @property
    def is_wasteful(self) -> bool:
        """Whether most of the log is about what is over."""
        return self._waste > WASTE_MIN and self._waste * 2 > self.end

    async def compact(self) -> None:
        """Writes the log anew into the other one. Goes on in a thread; what is added meanwhile is copied at the end."""
        until, waste, other = self.end, self._waste, self.fds[2 - (self._words[_LOG] & 1)]
        os.truncate(other, 0)
        size, inodes = await asyncio.to_thread(_compact_into, other, self._log, until)
        old, rest = self._log, os.pread(self._log, self.end - until, until)
        os.pwrite(other, rest, size)
        self._words[_LOG] ^= 1
        self.end = size + len(rest)
        os.truncate(old, 0)
        self._waste -= waste
        self._inodes, self._inode_bytes = inodes, size
        self.compactions += 1

    # -- requests in flight

    def room(self) -> memoryview | None:
        """See `Intake`. Writing to it first brings its page: the kernel must not fail to."""
        if not self._free:
            return None
        room = self._rooms[self._free[-1]]
        room[0] = 0
        return room

    def came(self, request: memoryview) -> bool:
        """See `Intake`."""
        slot, unique = self._free.pop(), _unique(request)
        self._slots[unique] = slot
        takeovers = self._takeovers.pop(unique & ~RESENT, 0) if self._takeovers else 0
        self._words[self._head(slot)] = takeovers
        return takeovers < TAKEOVERS_MAX

    def handled(self, request: memoryview) -> None:
        """See `Intake`. What gets no reply is over now."""
        opcode, unique = _opcode_unique(request, layout.OPCODE_AT)
        if self._gathered:
            self.write(unique)
        if unique == 0 or opcode in _SILENT:
            self.answered(unique)

    def answering(self, unique: int) -> None:
        """See `Intake`."""
        if self._gathered:
            self.write(unique)

    def answered(self, unique: int) -> None:
        """See `Intake`."""
        slot = self._slots.pop(unique, None)
        if slot is not None:
            self._clear(slot)
            self._free.append(slot)
        if self._waste > WASTE_MIN and self._compacting is None and self.is_wasteful:
            self._compacting = asyncio.get_running_loop().create_task(self.compact(), name="journal-compaction")
            self._compacting.add_done_callback(self._compacted)

    def _compacted(self, task: asyncio.Task[None]) -> None:
        self._compacting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._waste = 0  # not again at once
            LOG.error("journal_compaction_failed", error=repr(error))

    def _head(self, slot: int) -> int:
        return (PAGE + slot * SLOT_BYTES) // 8

    def _clear(self, slot: int) -> None:
        self._words[self._head(slot) + HEAD_BYTES // 8] = 0  # length and opcode of the request

    def left(self) -> Iterator[Waiting]:
        """Requests that a dead gateway was at, in no order. A slot that holds none, or half of one, is cleared."""
        for slot in range(SLOTS):
            word = self._words[self._head(slot) + HEAD_BYTES // 8]
            length, opcode = word & 0xFFFFFFFF, word >> 32
            if not word:
                continue
            if layout.IN_HEADER.size <= length <= BUFFER_BYTES:
                request = self._rooms[slot][:length]
                yield Waiting(slot, _unique(request), opcode, request, self._words[self._head(slot)])
            else:
                self._clear(slot)

    def keep(self, waiting: Waiting) -> bool:
        """This request is to be answered from its slot; False if that was tried too often. ``handled`` comes next."""
        self._free.remove(waiting.slot)
        self._slots[waiting.unique] = waiting.slot
        self._words[self._head(waiting.slot)] = waiting.takeovers + 1
        return waiting.takeovers + 1 < TAKEOVERS_MAX

    def drop(self, waiting: Waiting, *, resent: bool = False) -> None:
        """This request is over, or comes again."""
        if resent:
            self._takeovers[waiting.unique & ~RESENT] = waiting.takeovers + 1
        self._clear(waiting.slot)

    @property
    def in_flight(self) -> int:
        """Requests in slots."""
        return len(self._slots)

    def validate(self) -> None:
        """Checks the invariants."""
        assert sorted([*self._slots.values(), *self._free]) == list(range(SLOTS))
        assert not self._gathered
        assert self.end == os.fstat(self._log).st_size


def _unique(request: memoryview) -> int:
    unique: int = _opcode_unique(request, layout.OPCODE_AT)[1]
    return unique


def _compact_into(other: int, log: int, until: int) -> tuple[int, int]:
    """In a thread; gives the length and how many inodes there are."""
    text, inodes = logbook.compact(os.pread(log, until, 0))
    at = 0
    while at < len(text):
        at += os.pwrite(other, text[at:], at)
    return len(text), inodes
