"""READ. Where bytes come from is the SDK's business; here they only reach the kernel cheaply."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Protocol

from forebay.errors import NotFound, StaleVersion
from forebay.telemetry import Metrics
from forebay_fuse.answers import Answers
from forebay_fuse.buffers import Buffers
from forebay_fuse.errno_door import Refused
from forebay_fuse.handles import HandleTable, OpenFile
from forebay_fuse.names import Names
from forebay_fuse.protocol import jobs, replies, requests
from forebay_fuse.protocol.requests import Request
from forebay_fuse.view import View


class Hands(Protocol):
    """Who may answer READs of local blocks for us: data helpers."""

    def hand(self, unique: int, message: bytes, fds: Sequence[int], done: Callable[[bool], None]) -> bool:
        """Gives one READ away; False if nobody takes it. ``done`` is told when it is over, and False if it is ours."""


class Files:
    """Reads of the session's open files. Files that are passed through are read here as well: `posix_fadvise` asks."""

    def __init__(self, view: View, names: Names, handles: HandleTable, answers: Answers, *, metrics: Metrics) -> None:
        self._view, self._names = view, names
        self._handles, self._answers = handles, answers
        self.hands: Hands | None = None
        self.again: Callable[[Request], None] = lambda request: None
        self.buffers = Buffers(view.max_background, view.read_max)
        self._read = metrics.counter("forebay_fuse_read_bytes_total", "bytes read, by where they were", ("source",))
        metrics.observed("forebay_fuse_buffers", "reply buffers in use", lambda: self.buffers.used)

    def read(self, request: Request) -> bool:
        """Answers if the bytes are in this process's reach; False if they must be waited for."""
        unique, (file, offset, length) = request.unique, self._range(request)
        if not length:
            self._answers.ok(unique)
            return True
        if self.hands is not None and self._by_helper(self.hands, request, file, offset, length):
            return True
        return self._alone(unique, file, offset, length)

    def read_alone(self, request: Request) -> bool:
        """As `read`, for a READ that a helper did not answer."""
        return self._alone(request.unique, *self._range(request))

    def _alone(self, unique: int, file: OpenFile, offset: int, length: int) -> bool:
        if self._from_files(unique, file, offset, length):
            return True
        views = file.reader.peek(offset, length)
        if views is None:
            return False
        self._read.add(length, "readahead")
        self._answers.send(replies.header(unique, length), *views)
        return True

    def _from_files(self, unique: int, file: OpenFile, offset: int, length: int) -> bool:
        local = file.local(offset, length) if self._view.splice else None
        if local is None:
            return False
        if not self._answers.send_files(replies.header(unique, length), [piece for _, piece in local]):
            return False
        for block, piece in local:
            block.count(piece.length)
        self._read.add(length, "spliced")
        return True

    def _by_helper(self, hands: Hands, request: Request, file: OpenFile, offset: int, length: int) -> bool:
        """Has a helper answer out of block files; False if it cannot, or none has time."""
        local = file.local(offset, length) if self._view.splice else None
        if local is None or len(local) > jobs.PIECES_MAX:
            return False
        own, unique = request._replace(body=memoryview(bytes(request.body))), request.unique

        def done(answered: bool) -> None:
            if answered:
                self._answers.answered(unique)
                self._read.add(length, "helper")
                for block, piece in local:
                    block.count(piece.length)
            elif self._answers.is_awaited(unique):
                self.again(own)
            else:
                self._answers.answered(unique)

        message = jobs.job(replies.header(unique, length), [(piece.offset, piece.length) for _, piece in local])
        return hands.hand(unique, message, [piece.fd for _, piece in local], done)

    async def fetch(self, request: Request) -> None:
        """READ through the SDK, into a buffer and from there to the kernel."""
        file, offset, length = self._range(request)
        if await self._from_readahead(request.unique, file, offset, length):
            return
        source = "remote" if file.reader.local_block(offset // file.block_size) is None else "local"
        async with self.buffers.lend(length) as view:
            try:
                n = await file.reader.read_into(offset, view)
            except (StaleVersion, NotFound) as e:
                self._outdated(file)
                raise Refused(errno.ESTALE, e.message) from e
            if n != length:  # the kernel would take it for the end of the file
                raise Refused(errno.EIO, f"{n} of {length} bytes came")
            self._read.add(n, source)
            self._answers.send(replies.header(request.unique, n), view)

    async def _from_readahead(self, unique: int, file: OpenFile, offset: int, length: int) -> bool:
        """Waits for readahead that is on its way and answers out of its buffers: one copy less than reading."""
        try:
            views = await file.reader.arrived(offset, length)
        except (StaleVersion, NotFound) as e:
            self._outdated(file)
            raise Refused(errno.ESTALE, e.message) from e
        if views is None:
            return False
        self._read.add(length, "readahead")
        self._answers.send(replies.header(unique, length), *views)
        return True

    def _range(self, request: Request) -> tuple[OpenFile, int, int]:
        wanted = requests.read_in(request)
        file = self._handles.file(wanted.handle)
        if file is None:
            raise Refused(errno.EBADF, "no such file handle")
        if wanted.size > self._view.read_max:
            raise Refused(errno.EINVAL, "a longer read than was agreed on")
        return file, wanted.offset, max(0, min(wanted.size, file.reader.size - wanted.offset))

    def _outdated(self, file: OpenFile) -> None:
        """This handle keeps its version, and what the kernel has of it."""
        if not file.is_stale:
            file.is_stale = True
            self._names.outdated(file.inode)
