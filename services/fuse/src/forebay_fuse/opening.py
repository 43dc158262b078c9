"""OPEN and RELEASE: the best way to read that can be had is chosen at each open (and kept while the inode is open).

Passed through if the file is one whole block on this host. A small file whose home is here is fetched whole by the OPEN
that asks for it, and then passed through: one request to the worker instead of an open, some reads and their replies.
Otherwise the kernel's page cache, filled by READ.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from functools import partial

from forebay.contracts import Layout
from forebay.errors import ForebayError, NotFound, StaleVersion
from forebay.telemetry import Metrics
from forebay_fuse.answers import Answers
from forebay_fuse.directories import OpenDir
from forebay_fuse.errno_door import Refused
from forebay_fuse.handles import HandleTable, OpenFile
from forebay_fuse.inodes import Inode, InodeTable
from forebay_fuse.journal import Kept
from forebay_fuse.modes import Mode, OpenModes
from forebay_fuse.names import Names
from forebay_fuse.passing import SEAL_POLL_S, SEAL_WAIT_S, Passing, Patience
from forebay_fuse.protocol import replies, requests
from forebay_fuse.protocol.requests import Request
from forebay_fuse.sdk import Client, Reader
from forebay_fuse.view import View


class Opening:
    """Opens and closes files of the session."""

    def __init__(
        self, client: Client, view: View, names: Names, handles: HandleTable, answers: Answers, *, metrics: Metrics
    ) -> None:
        self._client, self._view, self._names = client, view, names
        self._handles, self._answers = handles, answers
        self._patience = Patience()
        self.on_closed: Callable[[OpenDir], None] = lambda directory: None
        self.modes = OpenModes()
        self.passing = Passing(client, metrics)
        self._opens = metrics.counter("forebay_fuse_opens_total", "files opened, by how they are read", ("mode",))

    def open(self, request: Request) -> bool:
        """Answers; False if a small file is to be fetched first."""
        inode, layout = self._wanted(request)
        backing_id = 0
        if self.modes.get(inode.node_id) is None and self._can_pass(layout):
            backing_id = self.passing.register(layout)
            if not backing_id and self._is_worth_fetching(layout):
                return False
        self._answer(request, inode, layout, backing_id, None)
        return True

    def _wanted(self, request: Request) -> tuple[Inode, Layout]:
        if requests.open_flags(request) & os.O_ACCMODE != os.O_RDONLY:
            raise Refused(errno.EROFS, "the mount is read-only")
        inode = self._names.inode(request.node_id)
        layout = inode.entry.layout
        if layout is None or inode.mount_id is None:
            raise Refused(errno.EISDIR, "a directory")
        if self._handles.full:
            raise Refused(errno.ENFILE, "too many files are open")
        return inode, layout

    def _can_pass(self, layout: Layout) -> bool:
        return self.passing.device is not None and 0 < layout.size <= layout.block_size

    def _is_worth_fetching(self, layout: Layout) -> bool:
        return (
            layout.size <= self._view.small_file_bytes
            and self._patience.allows(time.monotonic())
            and self._client.is_home_here(layout)
        )

    def _reader(self, inode: Inode) -> Reader:
        layout, mount_id = inode.entry.layout, inode.mount_id  # kept packed: most handles need no reader
        assert layout is not None
        assert mount_id is not None
        return self._client.open_layout(mount_id, layout, inode.path)

    async def fetch(self, request: Request) -> None:
        """OPEN of a small file that its home on this host may not have yet."""
        inode, layout = self._wanted(request)
        reader, backing_id = self._reader(inode), 0
        try:
            await self._bring(inode, reader)
            backing_id = await self._sealed(inode, layout)
            self._answer(request, inode, layout, backing_id, reader)
        except BaseException:
            reader.free()
            raise

    async def _bring(self, inode: Inode, reader: Reader) -> None:
        """Has the worker fill the block: readahead brings what the first byte lies in, which is all of it."""
        try:
            async with asyncio.timeout(self._view.small_file_s):
                await reader.read_into(0, memoryview(bytearray(1)))
        except (StaleVersion, NotFound) as e:
            self._names.outdated(inode)
            raise Refused(errno.ESTALE, e.message) from e
        except (ForebayError, TimeoutError):
            return  # the program opens it all the same; its reads try again, and say what is wrong

    async def _sealed(self, inode: Inode, layout: Layout) -> int:
        """The backing id, once the block file is there; 0 after `SEAL_WAIT_S`, or if it was opened meanwhile."""
        until_s = time.monotonic() + SEAL_WAIT_S
        while self.modes.get(inode.node_id) is None:
            backing_id = self.passing.register(layout)
            if backing_id:
                self._patience = self._patience.met()
                return backing_id
            if time.monotonic() > until_s or self.passing.device is None:
                self._patience = self._patience.missed(time.monotonic())
                return 0
            await asyncio.sleep(SEAL_POLL_S)
        return 0

    def _answer(self, request: Request, inode: Inode, layout: Layout, backing_id: int, reader: Reader | None) -> None:
        """Without an await since ``backing_id`` was made: it must not be a second one of its inode."""
        view, node_id = self._view, inode.node_id
        if self._handles.full:  # it was not when we began
            if backing_id:
                self.passing.give_back(backing_id)
            raise Refused(errno.ENFILE, "too many files are open")
        known = self.modes.get(node_id)
        wished = Mode.PASSTHROUGH if backing_id else Mode.DIRECT if view.direct_io else Mode.CACHED
        state = self.modes.open(node_id, wished, backing_id)
        if known is not None and state.backing_id:
            self.passing.again(state.backing_id)
        if state.mode is Mode.PASSTHROUGH and reader is not None:
            reader.free()  # the kernel reads the file; a READ (of `posix_fadvise`) makes another
            reader = None
        elif reader is None and state.mode is not Mode.PASSTHROUGH:
            reader = self._reader(inode)
        file = OpenFile(inode, partial(self._reader, inode), state.mode, layout.block_size, reader)
        handle = self._handles.add(file, state.backing_id)
        body = replies.open_out(handle, view.open_flags(state.mode), state.backing_id)
        if self._answers.ok(request.unique, body):
            self._opens.add(1, state.mode.value)
            if view.update_access_time:
                self._client.note_open(inode.path)
                self._answers.notify(replies.invalidate_attributes(node_id))
        else:
            self.drop(handle)

    def restore(self, kept: Kept, inodes: InodeTable) -> None:
        """What was open in an earlier gateway, each as it was opened."""
        handles: dict[int, OpenFile | OpenDir] = {}
        for number, (node, mode, backing_id) in kept.opens.items():
            inode = inodes.get(node)
            if inode is None:
                continue
            if mode == "dir":
                handles[number] = OpenDir(inode, self._view.dots(node))
            elif (layout := inode.entry.layout) is not None:
                handles[number] = OpenFile(inode, partial(self._reader, inode), Mode(mode), layout.block_size)
                if backing_id and self.modes.get(node) is None:
                    self.passing.restore(backing_id, layout)
                self.modes.open(node, Mode(mode), backing_id)
        self._handles.restore(handles, kept.fh_max)

    def release(self, request: Request) -> None:
        """The last close of an open file or directory."""
        self.drop(requests.release_handle(request))
        self._answers.ok(request.unique)

    def drop(self, number: int) -> None:
        """Frees a handle."""
        handle = self._handles.remove(number)
        if isinstance(handle, OpenDir):
            self.on_closed(handle)
        elif isinstance(handle, OpenFile):
            handle.free()
            backing_id = self.modes.close(handle.inode.node_id)
            if backing_id:
                self.passing.give_back(backing_id)

    def close(self) -> None:
        """Frees every handle."""
        for number in list(self._handles.all()):
            self.drop(number)
