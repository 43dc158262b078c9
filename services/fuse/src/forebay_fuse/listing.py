"""Directories: READDIRPLUS out of the master's pages. The one place where each name of a dataset costs something."""

from __future__ import annotations

import errno
import time

from forebay.contracts import Entry
from forebay_fuse.ahead import Ahead
from forebay_fuse.answers import Answers
from forebay_fuse.directories import OpenDir, Page, encode_name
from forebay_fuse.errno_door import Refused
from forebay_fuse.handles import HandleTable
from forebay_fuse.inodes import InodeTable, child
from forebay_fuse.names import Names
from forebay_fuse.protocol import replies, requests
from forebay_fuse.protocol.layout import Op
from forebay_fuse.protocol.replies import DIR_TYPE, ENTRY_BYTES, FILE_TYPE, dirent, dirent_bytes, direntplus
from forebay_fuse.protocol.requests import ReadIn, Request
from forebay_fuse.sdk import Client
from forebay_fuse.view import BASE, VIRTUAL, View

NO_ENTRY = bytes(ENTRY_BYTES)
"""Neither attributes nor a node id: the kernel looks the name up when it needs to."""


class Filling:
    """One reply being filled: at most ``left`` bytes more; ``linked`` are the node ids that got a lookup."""

    __slots__ = ("left", "linked", "out")

    def __init__(self, size: int) -> None:
        self.left = size
        self.out: list[bytes] = []
        self.linked: list[int] = []


class Listing:
    """Open directories of the session."""

    def __init__(
        self, client: Client, view: View, inodes: InodeTable, names: Names, handles: HandleTable, *, answers: Answers
    ) -> None:
        self._client, self._view, self._answers = client, view, answers
        self._inodes, self._names, self._handles = inodes, names, handles
        self.ahead = Ahead(client)

    def opendir(self, request: Request) -> None:
        """A stream of its own for each open."""
        inode = self._names.inode(request.node_id)
        handle = self._handles.add(OpenDir(inode, self._view.dots(inode.node_id)))
        if not self._answers.ok(request.unique, replies.open_out(handle, 0)):
            self._handles.remove(handle)

    def readdir(self, request: Request) -> bool:
        """Answers from the pages that are here; False if one must be fetched first."""
        wanted = requests.read_in(request)
        directory = self._directory(wanted)
        if wanted.offset == 0 and directory.pages:
            directory.restart(self.ahead)
        missing = self._answer(request, directory, wanted.offset, wanted.size)
        if missing is not None and directory.take(self._client, self._names.recent, self.ahead):
            missing = self._answer(request, directory, wanted.offset, wanted.size)
        return missing is None

    def closed(self, directory: OpenDir) -> None:
        """After its last close."""
        directory.free(self.ahead)

    async def fetch(self, request: Request) -> None:
        """READDIR and READDIRPLUS once the page has come."""
        wanted = requests.read_in(request)
        directory = self._directory(wanted)
        offset: int | None = wanted.offset
        while offset is not None:  # more than once only where whole pages of names went away
            await directory.bring(self._client, max(0, offset - directory.dots), self._names.recent, self.ahead)
            offset = self._answer(request, directory, offset, wanted.size)

    def _directory(self, wanted: ReadIn) -> OpenDir:
        directory = self._handles.directory(wanted.handle)
        if directory is None:
            raise Refused(errno.EBADF, "no such directory handle")
        return directory

    def _answer(self, request: Request, directory: OpenDir, offset: int, size: int) -> int | None:
        """As many entries from ``offset`` on as fit and are here. None at all would mean the end: then it does not
        answer, and gives the offset at which a page must be fetched first."""
        if not directory.pages and not directory.ends_before(0):
            return offset  # the dots come with the first page
        filling, plus = Filling(size), request.opcode == Op.READDIRPLUS
        try:
            index, is_full = self._dots(directory, offset, filling, plus=plus)
            while not is_full and (found := directory.page_at(index - directory.dots)) is not None:
                index, is_full = self._fill(directory, found, index, filling, plus=plus)
        except Exception:
            self._untold(filling)
            raise
        if not filling.out and not is_full and not directory.ends_before(index - directory.dots):
            return index
        if not self._answers.ok(request.unique, b"".join(filling.out)):
            self._untold(filling)
        return None

    def _untold(self, filling: Filling) -> None:
        """The kernel does not get this reply, and so none of its lookups."""
        for node_id in filling.linked:
            self._inodes.forget(node_id, 1)

    def _dots(self, directory: OpenDir, index: int, filling: Filling, *, plus: bool) -> tuple[int, bool]:
        """``.`` and ``..``, the kernel's own, and ``.forebay`` where it is shown; the offset after them, and whether
        the reply is full."""
        number, head = directory.inode.entry.inode, NO_ENTRY if plus else b""
        own = ((b".", number), (b"..", number), (VIRTUAL.encode(), BASE))
        while index < directory.dots:
            name, inode = own[index]
            data = head + dirent(inode, index + 1, name, DIR_TYPE)
            if len(data) > filling.left:
                return index, True
            filling.out.append(data)
            filling.left -= len(data)
            index += 1
        return index, False

    def _fill(self, directory: OpenDir, page: Page, index: int, filling: Filling, *, plus: bool) -> tuple[int, bool]:
        """Entries of one page from ``index`` on; the offset after them, and whether the reply is full."""
        now_s, view = time.monotonic(), self._view
        left_s = page.left_s(now_s)
        entry_s = view.entry_s(left_s)
        times = {kind: replies.timeouts(entry_s, view.attr_s_of(kind, left_s)) for kind in ("dir", "file")}
        links = plus and not self._inodes.crowded and not self._names.recent.lies_in(directory.path, page.asked)
        bare, left, out = NO_ENTRY if plus else b"", filling.left, filling.out
        for entry in page.entries[index - directory.dots - page.start :]:
            if entry is None:
                index += 1
                continue
            name = encode_name(entry.name)
            length = ENTRY_BYTES + dirent_bytes(name) if plus else dirent_bytes(name)
            if length > left:
                filling.left = left
                return index, True
            left -= length
            index += 1
            kind = DIR_TYPE if entry.kind == "dir" else FILE_TYPE
            if links:
                node_id = self._link(directory, entry, page, filling)
                data = direntplus(node_id, view.attributes(entry), times[entry.kind], index, name, kind)
                if view.update_access_time:
                    path = child(directory.path, entry.name)
                    data = self._names.accessed(data, replies.PLUS_ATTR_AT, path, entry)
                out.append(data)
            else:
                out.append(bare + dirent(entry.inode, index, name, kind))
        filling.left = left
        return index, False

    def _link(self, directory: OpenDir, entry: Entry, page: Page, filling: Filling) -> int:
        """A node id of which the kernel then holds one lookup more."""
        inode = self._inodes.look_up(directory.path, entry, page.mount_id, good_until_s=page.good_until_s)
        filling.linked.append(inode.node_id)
        return inode.node_id
