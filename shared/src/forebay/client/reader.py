"""One version of one file, read by offset: local block file, readahead buffer, or the workers.

A reader never mixes versions: once the under store was found to hold another one, every later read says so, until a
new lookup and a new reader.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from forebay.client.blocks import BlockSource
from forebay.client.local import LocalBlock, LocalDirs
from forebay.client.options import ClientOptions
from forebay.client.ranges import Grid, Piece, clip, pieces
from forebay.client.readahead import Cursor, advance
from forebay.client.segments import Segment, SegmentKey, SegmentTable
from forebay.client.wanted import FileVersion
from forebay.errors import ForebayError, InvalidRequest, StaleVersion, UfsUnavailable
from forebay.runtime import Deadline
from forebay.telemetry import Gauge, waits

LOCAL_BLOCKS_PER_READER = 8
"""Block files that one reader keeps open."""

DIRECT_BYTES = 8 << 20
"""Longest range of one request of a direct read; longer ones are cut and run side by side."""

DIRECT_STREAMS = 3
"""Requests of one direct read at once; each pulls the next part when it is done."""

INLINE_BYTES = 4 << 20
"""Longest local read that may be done on the event loop (about 1 ms from memory)."""


@dataclass(frozen=True)
class ReaderParts:
    """What all readers of a client share."""

    options: ClientOptions
    source: BlockSource
    segments: SegmentTable
    local: LocalDirs
    open_readers: Gauge


class Reader:
    """Made by ``Client.open`` or ``open_layout``. For the client's event loop; reads may run at the same time."""

    def __init__(self, file: FileVersion, parts: ReaderParts) -> None:
        layout = file.layout
        self.file = file
        self.size = layout.size
        self.fingerprint = layout.fingerprint
        self._parts = parts
        self._grid = Grid(layout.size, layout.block_size, parts.options.segment_bytes)
        self._cursor = Cursor()
        self._wanted: dict[int, Segment] = {}
        self._blocks: OrderedDict[int, LocalBlock] = OrderedDict()
        self._stale: StaleVersion | None = None
        self._closed = False
        parts.open_readers.add(1)

    async def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``; the count is short only at the end of the file.

        Raises:
            StaleVersion: the under store holds another version now (for all later reads as well).
            DeadlineExceeded: no worker gave the bytes within ``read_deadline_s``.
            ForebayError: what the worker or the under store said.
        """
        length = self._admit(offset, len(buffer))
        if length == 0:
            return 0
        deadline = Deadline.after(self._parts.options.read_deadline_s)
        self._follow(offset, length)
        try:
            for piece in pieces(offset, length, self._grid.block_size):
                await self._read_piece(piece, buffer[piece.at : piece.at + piece.length], deadline)
        except StaleVersion as e:
            self._stale = e
            raise
        return length

    async def read(self, offset: int, length: int) -> bytes:
        """As ``read_into``, into new bytes."""
        buffer = bytearray(self._admit(offset, length))
        await self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def peek(self, offset: int, length: int) -> list[memoryview] | None:
        """The bytes of a read if all of them lie in readahead buffers, without a copy; ``None`` otherwise.

        The views are good until the next await. Counts as the read: readahead goes on from here.
        """
        length = self._admit(offset, length)
        views: list[memoryview] = []
        for number, part in self._parts_of(offset, length):
            segment = self._wanted.get(number)
            if segment is None or not segment.ready:
                return None
            start = part.offset
            views.append(segment.view[start : start + part.length])
        if length:
            self._follow(offset, length)
        return views

    async def arrived(self, offset: int, length: int) -> list[memoryview] | None:
        """As ``peek``, once the readahead of the range has come: no copy into a buffer of the caller's. ``None`` at
        once where none is on its way, and later where it failed: then ``read_into`` does better, or says what is wrong.

        Raises:
            StaleVersion: as ``read_into``.
        """
        held = await self._arrived(offset, self._admit(offset, length))
        if held is None:
            return None
        views = [segment.view[part.offset : part.offset + part.length] for segment, part in held]
        self._let_go(held)
        return views

    @asynccontextmanager
    async def lend(self, offset: int, length: int) -> AsyncIterator[list[memoryview]]:
        """``async with reader.lend(offset, length) as views``: the bytes, read only, as they lie in the buffers of the
        readahead, or in memory of their own where it does not have them. They stay as they are, and count in the
        budget, until the context ends.

        Raises:
            ForebayError: as ``read_into``.
        """
        length = self._admit(offset, length)
        held = await self._arrived(offset, length)
        if held is None:
            yield [memoryview(await self.read(offset, length))]
            return
        for segment, _ in held:
            segment.lent += 1
        try:
            yield [segment.view[part.offset : part.offset + part.length].toreadonly() for segment, part in held]
        finally:
            for segment, _ in held:
                segment.lent -= 1
            self._let_go(held)

    async def _arrived(self, offset: int, length: int) -> list[tuple[Segment, Piece]] | None:
        """Segments with a range, once they have come; the caller holds them. ``None`` as ``arrived``."""
        if length:
            self._follow(offset, length)
        waiting: list[tuple[Segment, Piece]] = []
        for number, part in self._parts_of(offset, length):
            segment = self._wanted.get(number)
            if segment is None or (segment.ended and not segment.ready):
                return None
            waiting.append((segment, part))
        for segment, _ in waiting:
            segment.holders += 1
        have_come = False
        try:
            tasks = [segment.task for segment, _ in waiting if not segment.ended and segment.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=self._parts.options.read_deadline_s)
            have_come = all(segment.ready for segment, _ in waiting)
        finally:
            if not have_come:
                self._let_go(waiting)
        return waiting if have_come else None

    def _let_go(self, held: list[tuple[Segment, Piece]]) -> None:
        for segment, _ in held:
            self._parts.segments.release(segment)

    def local_block(self, index: int) -> LocalBlock | None:
        """The whole block ``index`` as an open file on this host, if it is here. Use it before the next await."""
        self._check()
        block = self._blocks.get(index)
        if block is not None:
            self._blocks.move_to_end(index)
            return block
        if not self._parts.local.usable:
            return None
        block_id, length = self.file.block_id(index), self.file.block_length(index)
        block = self._parts.local.open(block_id, length, home=self._parts.source.home_of(block_id))
        if block is None:
            return None
        self._blocks[index] = block
        if len(self._blocks) > LOCAL_BLOCKS_PER_READER:
            self._blocks.popitem(last=False)[1].close()
        return block

    async def close(self) -> None:
        """Free everything; a second time does nothing."""
        self.free()

    def free(self) -> None:
        """As ``close``, for who cannot wait; nothing here does."""
        if self._closed:
            return
        self._closed = True
        self._parts.segments.leave(self)
        for segment in self._wanted.values():
            self._parts.segments.release(segment)
        self._wanted.clear()
        for block in self._blocks.values():
            block.close()
        self._blocks.clear()
        self._parts.open_readers.add(-1)

    # -- below: how a read is served

    def _check(self) -> None:
        if self._closed:
            raise InvalidRequest("the reader is closed")
        if self._stale is not None:
            raise StaleVersion(self._stale.message, **self._stale.details)

    def _admit(self, offset: int, length: int) -> int:
        self._check()
        if offset < 0 or length < 0:
            raise InvalidRequest("offset and length must not be negative", offset=offset, length=length)
        return clip(offset, length, self.size)

    def _follow(self, offset: int, length: int) -> None:
        """Move the cursor; let go of segments behind it and fetch those ahead."""
        segments = self._parts.segments
        window = min(self._parts.options.readahead_bytes, segments.share_bytes(self))
        self._cursor = advance(self._cursor, offset, length, grid=self._grid, window_bytes=window)
        wanted = self._cursor.wanted
        if not wanted:
            segments.leave(self)
        for number in [n for n, s in self._wanted.items() if n not in wanted or (s.ended and not s.ready)]:
            self._parts.segments.release(self._wanted.pop(number))
        for number in wanted:
            if number not in self._wanted:
                self._want(number)

    def _want(self, number: int) -> None:
        piece = self._grid.piece(number)
        if self.local_block(piece.index) is not None:
            return

        async def fetch(buffer: memoryview) -> None:
            deadline = Deadline.after(self._parts.options.read_deadline_s)
            await self._parts.source.fetch(self.file, piece.index, piece.offset, buffer, deadline)

        key = SegmentKey(self.file.block_id(piece.index), piece.offset)
        segment = self._parts.segments.want(key, piece.length, fetch)
        if segment is not None:
            self._wanted[number] = segment

    def _parts_of(self, offset: int, length: int) -> Iterator[tuple[int, Piece]]:
        """Segments that a read of the file touches: number, and the part as (block, offset *in the segment*, …)."""
        at = 0
        while at < length:
            number = self._grid.number(offset + at)
            whole = self._grid.piece(number)
            inside = offset + at - whole.at
            n = min(whole.length - inside, length - at)
            yield number, Piece(whole.index, inside, n, at)
            at += n

    async def _read_piece(self, piece: Piece, view: memoryview, deadline: Deadline) -> None:
        block = self.local_block(piece.index)
        if block is not None:
            await self._read_local(block, piece.offset, view)
        else:
            await self._read_remote(piece, view, deadline)

    async def _read_local(self, block: LocalBlock, offset: int, view: memoryview) -> None:
        with waits.timed("local", self.file.path):
            await self._pread(block, offset, view)
        block.count(len(view))

    async def _pread(self, block: LocalBlock, offset: int, view: memoryview) -> None:
        if block.tier == "MEM" and len(view) <= INLINE_BYTES:
            _pread(block.fd, view, offset)
        else:
            fd = os.dup(block.fd)  # the block may be closed meanwhile
            try:
                await asyncio.to_thread(_pread, fd, view, offset)
            finally:
                os.close(fd)

    async def _read_remote(self, piece: Piece, view: memoryview, deadline: Deadline) -> None:
        start = piece.index * self._grid.block_size + piece.offset
        waiting: list[tuple[Segment, Piece]] = []
        missing: list[Piece] = []
        for number, part in self._parts_of(start, piece.length):
            segment = self._wanted.get(number)
            if segment is None or (segment.ended and not segment.ready):
                missing = _joined(missing, Piece(piece.index, piece.offset + part.at, part.length, part.at))
            else:
                waiting.append((segment, part))
        for segment, _ in waiting:
            segment.holders += 1
        try:
            await self._direct(missing, view, deadline)
            for segment, part in waiting:
                await self._from_segment(segment, part, piece, view, deadline)
        finally:
            for segment, _ in waiting:
                self._parts.segments.release(segment)

    async def _from_segment(
        self, segment: Segment, part: Piece, piece: Piece, view: memoryview, deadline: Deadline
    ) -> None:
        """Copy from the segment when it is there; if its fetch failed, ask the workers ourselves."""
        if not segment.ended and segment.task is not None:
            await asyncio.wait((segment.task,), timeout=deadline.remaining_s())
        target = view[part.at : part.at + part.length]
        if segment.ready:
            target[:] = segment.view[part.offset : part.offset + part.length]
            return
        if isinstance(segment.error, ForebayError) and not segment.error.retryable:
            raise segment.error
        await self._parts.source.fetch(self.file, piece.index, piece.offset + part.at, target, deadline)

    async def _direct(self, missing: list[Piece], view: memoryview, deadline: Deadline) -> None:
        """Requests straight into the caller's buffer; long ones in parts, pulled by a few streams."""
        jobs = [part for piece in missing for part in _cut(piece)]
        if len(jobs) <= 1:
            for job in jobs:
                await self._fetch(job, view, deadline)
            return
        queue = iter(jobs)

        async def pull() -> None:
            for job in queue:
                await self._fetch(job, view, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(DIRECT_STREAMS, len(jobs))):
                    group.create_task(pull())
        except ExceptionGroup as e:
            raise e.exceptions[0] from e

    async def _fetch(self, job: Piece, view: memoryview, deadline: Deadline) -> None:
        target = view[job.at : job.at + job.length]
        await self._parts.source.fetch(self.file, job.index, job.offset, target, deadline)


def _joined(parts: list[Piece], new: Piece) -> list[Piece]:
    """``parts`` with ``new`` appended, as one with the last where they touch."""
    if parts and parts[-1].offset + parts[-1].length == new.offset:
        last = parts[-1]
        return [*parts[:-1], Piece(last.index, last.offset, last.length + new.length, last.at)]
    return [*parts, new]


def _cut(piece: Piece) -> Iterator[Piece]:
    """The piece in parts of at most ``DIRECT_BYTES``."""
    for done in range(0, piece.length, DIRECT_BYTES):
        n = min(DIRECT_BYTES, piece.length - done)
        yield Piece(piece.index, piece.offset + done, n, piece.at + done)


def _pread(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        try:
            n = os.preadv(fd, [view[done:]], offset + done)
        except OSError as e:
            raise UfsUnavailable("a local block could not be read", errno=e.errno) from e
        if n == 0:
            raise UfsUnavailable("a local block ended early", offset=offset + done)
        done += n
