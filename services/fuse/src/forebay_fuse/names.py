"""Names: LOOKUP, GETATTR, FORGET, and directories with READDIRPLUS."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass

from forebay.contracts import Entry, LookupReply
from forebay.errors import NotFound
from forebay.runtime import logs
from forebay_fuse.answers import Answers
from forebay_fuse.directories import DOTS, NAME_MAX, OpenDir, Page, encode_name
from forebay_fuse.errno_door import Refused
from forebay_fuse.handles import HandleTable
from forebay_fuse.inodes import Inode, InodeTable
from forebay_fuse.protocol import layout, replies, requests
from forebay_fuse.protocol.layout import ROOT_ID, Op
from forebay_fuse.protocol.requests import ReadIn, Request
from forebay_fuse.sdk import Client
from forebay_fuse.view import View

PATH_MAX = 4096
"""Longest path in characters (`LookupRequest.path`)."""

RELIEF_COUNT = 256
"""Names that the kernel is asked to forget at once when the inode table is crowded."""

RELIEF_PAUSE_S = 0.1
TYPES = {"dir": replies.DIR_TYPE, "file": replies.FILE_TYPE}
ENTRY_BYTES = layout.ENTRY.size + layout.ATTR.size
LOG = logs.get(__name__)


class Names:
    """What the kernel knows of the namespace, and how it learns."""

    def __init__(self, client: Client, view: View, inodes: InodeTable, handles: HandleTable, answers: Answers) -> None:
        self._client, self._view, self._answers = client, view, answers
        self._inodes, self._handles = inodes, handles
        self._relieved_s = 0.0

    def inode(self, node_id: int) -> Inode:
        """The inode of a request."""
        inode = self._inodes.get(node_id)
        if inode is None:
            raise Refused(errno.ESTALE, "the inode was forgotten")
        return inode

    # -- LOOKUP

    def look_up(self, request: Request) -> bool:
        """Answers if the SDK need not ask a master (a listing told, or an earlier lookup)."""
        path = self._path(request)
        reply = self._client.held(path)
        if reply is None:
            return False
        if isinstance(reply, NotFound):
            self._missing(request.unique, reply)
        else:
            self._found(request.unique, path, reply)
        return True

    async def ask(self, request: Request) -> None:
        """LOOKUP by way of a master; what is there gets (or is) an inode, what is not may be remembered as missing."""
        path = self._path(request)
        try:
            reply = await self._client.lookup(path)
        except NotFound as e:
            self._missing(request.unique, e)
            return
        self._found(request.unique, path, reply)

    def _path(self, request: Request) -> str:
        path = child(self.inode(request.node_id).path, text_of(requests.name_in(request)))
        if len(path) > PATH_MAX:
            raise Refused(errno.ENAMETOOLONG, "the path is too long")
        return path

    def _found(self, unique: int, path: str, reply: LookupReply) -> None:
        self._relieve()
        until_s = None if reply.valid_s is None else time.monotonic() + reply.valid_s
        inode = self._inodes.look_up(path, reply.entry, reply.mount_id, good_until_s=until_s)
        if not self._answers.ok(unique, self._entry(inode, reply.valid_s)):
            self._inodes.forget(inode.node_id, 1)

    def _missing(self, unique: int, said: NotFound) -> None:
        negative_s = self._view.negative_s(said.details.get("valid_s"))
        if negative_s > 0:
            self._answers.ok(unique, replies.negative(negative_s))
        else:
            self._answers.send(replies.error(unique, errno.ENOENT))

    def _entry(self, inode: Inode, valid_s: float | None) -> bytes:
        view, entry = self._view, inode.entry
        attributes = view.attributes(entry)
        return replies.entry(
            inode.node_id, attributes, entry_s=view.entry_s(valid_s), attr_s=view.attr_s(entry, valid_s)
        )

    def _relieve(self) -> None:
        """Has the kernel forget what it has known longest, when it holds too much."""
        now_s = time.monotonic()
        if not self._inodes.crowded or now_s - self._relieved_s < RELIEF_PAUSE_S:
            return
        self._relieved_s = now_s
        for inode in self._inodes.oldest(RELIEF_COUNT):
            self.drop(inode)

    def drop(self, inode: Inode) -> None:
        """The kernel's next use of the name is a LOOKUP; the inode itself stays as long as it is in use."""
        directory, _, name = inode.path.rpartition("/")
        parent = self._inodes.find(directory or "/")
        if parent is not None:
            self._answers.notify(replies.invalidate_entry(parent.node_id, encode_name(name)))

    def outdated(self, inode: Inode) -> None:
        """The under store holds another version: the next use of the name asks the master, in the SDK and in the
        kernel."""
        self._client.forget(inode.path)
        self.drop(inode)

    # -- GETATTR, FORGET

    def getattr(self, request: Request) -> bool:
        """Answers from the inode; False if it is the root and what is known of it is too old to be told on.

        Any other directory is looked up again by name, as the kernel keeps names no longer than attributes.
        """
        inode = self.inode(request.node_id)
        left_s = None if inode.good_until_s is None else max(0.0, inode.good_until_s - time.monotonic())
        if inode.node_id == ROOT_ID and left_s == 0.0:
            return False
        attributes = self._view.attributes(inode.entry)
        self._answers.ok(request.unique, replies.attr_out(attributes, self._view.attr_s(inode.entry, left_s)))
        return True

    async def refresh(self, request: Request) -> None:
        """GETATTR of the root, from the master."""
        inode = self.inode(request.node_id)
        reply = await self._client.lookup(inode.path)
        if reply.entry.kind != "dir":
            raise Refused(errno.ENOTDIR, "the root is no directory any more")
        inode.entry, inode.mount_id = reply.entry, reply.mount_id
        inode.good_until_s = None if reply.valid_s is None else time.monotonic() + reply.valid_s
        attributes = self._view.attributes(inode.entry)
        self._answers.ok(request.unique, replies.attr_out(attributes, self._view.attr_s(inode.entry, reply.valid_s)))

    def forget(self, request: Request) -> None:
        """The kernel gives lookups back."""
        for node_id, lookups in requests.forgets(request):
            self._inodes.forget(node_id, lookups)

    # -- directories

    def opendir(self, request: Request) -> None:
        """A stream of its own for each open."""
        handle = self._handles.add(OpenDir(self.inode(request.node_id)))
        self._answers.ok(request.unique, replies.open_out(handle, 0))

    def readdir(self, request: Request) -> bool:
        """Answers from the pages that are here; False if one must be fetched first."""
        wanted = requests.read_in(request)
        directory = self._directory(wanted)
        if wanted.offset == 0 and directory.pages:
            directory.restart()
        return self._answer(request, directory, wanted.offset, wanted.size) is None

    async def fetch(self, request: Request) -> None:
        """READDIR and READDIRPLUS once the page has come."""
        wanted = requests.read_in(request)
        directory = self._directory(wanted)
        offset: int | None = wanted.offset
        while offset is not None:  # more than once only where whole pages of names went away
            await directory.bring(self._client, max(0, offset - DOTS))
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
        plus = request.opcode == Op.READDIRPLUS
        index, left, out, linked = offset, size, list[bytes](), list[int]()
        while (found := self._at(directory, index)) is not None:
            index += 1
            if not found.name:
                continue
            tail = replies.dirent(found.inode_number, index, found.name, TYPES[found.kind])
            if len(tail) + (ENTRY_BYTES if plus else 0) > left:
                break
            head, node_id = self._link(directory, found) if plus else (b"", 0)
            out.append(head + tail)
            linked.append(node_id)
            left -= len(head) + len(tail)
        if not out and found is None and not directory.ends_before(index - DOTS):
            return index
        if not self._answers.ok(request.unique, b"".join(out)):
            for node_id in filter(None, linked):
                self._inodes.forget(node_id, 1)
        return None

    @staticmethod
    def _at(directory: OpenDir, index: int) -> Found | None:
        """What stands at an offset; ``None`` if its page is not here."""
        own = directory.inode.entry
        if index < DOTS:
            return Found(b"." * (index + 1), own.inode, "dir")
        found = directory.find(index - DOTS)
        if found is None:
            return None
        page, entry = found
        if entry is None:
            return Found(b"", 0, "file")
        return Found(encode_name(entry.name), entry.inode, entry.kind, entry, page)

    def _link(self, directory: OpenDir, found: Found) -> tuple[bytes, int]:
        """Attributes, and the node id of which the kernel then holds one lookup more. Node id 0 gives neither: the
        kernel looks the name up when it needs to."""
        entry, page = found.entry, found.page
        if entry is None or page is None or self._inodes.crowded:
            return bytes(ENTRY_BYTES), 0
        path = child(directory.inode.path, entry.name)
        inode = self._inodes.look_up(path, entry, page.mount_id, good_until_s=page.good_until_s)
        return self._entry(inode, page.left_s(time.monotonic())), inode.node_id


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a directory; an empty name is one that went away."""

    name: bytes
    inode_number: int
    kind: str
    entry: Entry | None = None
    page: Page | None = None


def text_of(name: bytes) -> str:
    """The name as text. The namespace is UTF-8 text: a name that is none does not exist."""
    if len(name) > NAME_MAX:
        raise Refused(errno.ENAMETOOLONG, "the name is too long")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Refused(errno.ENOENT, "the name is no UTF-8") from None


def child(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``."""
    return f"/{name}" if directory == "/" else f"{directory}/{name}"
