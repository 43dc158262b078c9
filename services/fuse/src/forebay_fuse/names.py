"""Names: LOOKUP, GETATTR, FORGET."""

from __future__ import annotations

import errno
import time

from msgspec.structs import replace

from forebay.contracts import Entry, LookupReply
from forebay.errors import NotFound
from forebay_fuse.answers import Answers
from forebay_fuse.directories import NAME_MAX, encode_name
from forebay_fuse.errno_door import Refused
from forebay_fuse.inodes import OUTDATED, Inode, InodeTable, child
from forebay_fuse.protocol import replies, requests
from forebay_fuse.protocol.layout import ROOT_ID
from forebay_fuse.protocol.requests import Request
from forebay_fuse.recent import Recent
from forebay_fuse.sdk import Client
from forebay_fuse.view import View

PATH_MAX = 4096
"""Longest path in characters (`LookupRequest.path`)."""

RELIEF_COUNT = 256
"""Names that the kernel is asked to forget at once when the inode table is crowded."""

RELIEF_PAUSE_S = 0.1
TRIES = 3
"""Lookups of a name that changes while its answer is under way."""


class Names:
    """What the kernel knows of the namespace, and how it learns."""

    def __init__(self, client: Client, view: View, inodes: InodeTable, answers: Answers) -> None:
        self._client, self._view, self._answers, self._inodes = client, view, answers, inodes
        self._relieved_s = 0.0
        self.recent = Recent()

    def inode(self, node_id: int) -> Inode:
        """The inode of a request."""
        inode = self._inodes.get(node_id)
        if inode is None:
            raise Refused(errno.ESTALE, "the inode was forgotten")
        return inode

    # -- LOOKUP

    def look_up(self, request: Request) -> bool:
        """Answers if the SDK need not ask a master (a listing told, or an earlier lookup)."""
        directory, path = self._wanted(request)
        reply = self._client.held(path)
        if reply is None:
            return False
        if isinstance(reply, NotFound):
            self._missing(request.unique, reply)
        else:
            self._found(request.unique, directory, reply)
        return True

    async def ask(self, request: Request) -> None:
        """LOOKUP by way of a master; what is there gets (or is) an inode, what is not may be remembered as missing.
        What changed while the answer was under way is asked again; one that changes all the time is not kept."""
        directory, path = self._wanted(request)
        for left in reversed(range(TRIES)):
            asked = self.recent.number
            try:
                reply: LookupReply | NotFound = await self._client.lookup(path)
            except NotFound as e:
                reply = e
            is_outdated = self.recent.covers(path, asked)
            if is_outdated:
                self._client.forget(path)
            if not is_outdated or not left:
                break
        if isinstance(reply, NotFound):
            self._missing(request.unique, reply, is_outdated=is_outdated)
        else:
            self._found(request.unique, directory, replace(reply, valid_s=0.0) if is_outdated else reply)

    def _wanted(self, request: Request) -> tuple[str, str]:
        """Directory and path of the name that is asked for."""
        directory = self.inode(request.node_id).path
        path = child(directory, text_of(requests.name_in(request)))
        if len(path) > PATH_MAX:
            raise Refused(errno.ENAMETOOLONG, "the path is too long")
        return directory, path

    def _found(self, unique: int, directory: str, reply: LookupReply) -> None:
        if self._inodes.crowded:
            self._relieve()
        valid_s, entry = reply.valid_s, reply.entry
        until_s = None if valid_s is None else time.monotonic() + valid_s
        inode = self._inodes.look_up(directory, entry, reply.mount_id, good_until_s=until_s)
        node_id, view = inode.node_id, self._view
        times = view.times(entry.kind, valid_s)
        data = replies.looked_up(unique, node_id, view.attributes(entry), times)
        if view.update_access_time:
            data = self.accessed(data, replies.LOOKED_ATTR_AT, inode.path, entry)
        if not self._answers.whole(data):
            self._inodes.forget(node_id, 1)

    def _missing(self, unique: int, said: NotFound, *, is_outdated: bool = False) -> None:
        negative_s = 0.0 if is_outdated else self._view.negative_s(said.details.get("valid_s"))
        if negative_s > 0:
            self._answers.ok(unique, replies.negative(negative_s))
        else:
            self._answers.send(replies.error(unique, errno.ENOENT))

    def _relieve(self) -> None:
        """Has the kernel forget what it has known longest, when it holds too much."""
        now_s = time.monotonic()
        if now_s - self._relieved_s < RELIEF_PAUSE_S:
            return
        self._relieved_s = now_s
        for inode in self._inodes.oldest(RELIEF_COUNT):
            self.drop(inode)

    def drop(self, inode: Inode) -> None:
        """The kernel's next use of the name is a LOOKUP; the inode itself stays as long as it is in use."""
        parent = self._inodes.find(inode.directory)
        if parent is not None:
            name = encode_name(inode.entry.name)
            self._answers.notify(replies.invalidate_entry(parent.node_id, name, expire=inode.is_dir))

    def outdated(self, inode: Inode) -> None:
        """The under store holds another version: the next use of the name asks the master, in the SDK and in the
        kernel."""
        self._client.forget(inode.path)
        self.drop(inode)

    # -- GETATTR, FORGET

    def getattr(self, request: Request) -> bool:
        """Answers from the inode; False if it is a directory that has changed, or the root and what is known of it is
        too old to be told on.

        Any other directory is looked up again by name, as the kernel keeps names no longer than attributes.
        """
        inode = self.inode(request.node_id)
        left_s = None if inode.good_until_s is None else max(0.0, inode.good_until_s - time.monotonic())
        if (inode.node_id == ROOT_ID and left_s == 0.0) or inode.good_until_s == OUTDATED:
            return False
        self._attributes(request.unique, inode, inode.entry, left_s)
        return True

    def _attributes(self, unique: int, inode: Inode, entry: Entry, left_s: float | None) -> None:
        view = self._view
        data = replies.attributes_of(unique, view.attributes(entry), view.attr_s(entry, left_s))
        if view.update_access_time:
            data = self.accessed(data, replies.TOLD_ATTR_AT, inode.path, entry)
        self._answers.whole(data)

    def accessed(self, data: bytes, attr_at: int, path: str, entry: Entry) -> bytes:
        """``data``, whose ``struct fuse_attr`` at ``attr_at`` has the file's access time, if it was opened since it was
        written."""
        accessed_s = self._client.accessed_s(path) if entry.kind == "file" else None
        accessed_ns = int(accessed_s * replies.NS) if accessed_s is not None else 0
        return replies.with_atime(data, attr_at, accessed_ns) if accessed_ns > entry.mtime_ns else data

    async def refresh(self, request: Request) -> None:
        """GETATTR of a directory, from the master."""
        inode, asked = self.inode(request.node_id), self.recent.number
        reply = await self._client.lookup(inode.path)
        if reply.entry.kind != "dir":
            raise Refused(errno.ENOTDIR, "it is no directory any more")
        until_s = None if reply.valid_s is None else time.monotonic() + reply.valid_s
        if self.recent.lies_in(inode.path, asked):
            self._client.forget(inode.path)
            until_s = OUTDATED
        inode.tell(reply.entry, reply.mount_id, until_s)
        self._attributes(request.unique, inode, reply.entry, reply.valid_s if until_s != OUTDATED else 0.0)

    def forget(self, request: Request) -> None:
        """The kernel gives lookups back."""
        forget = self._inodes.forget
        for node_id, lookups in requests.forgets(request):
            forget(node_id, lookups)
        self._inodes.shrink()


def text_of(name: bytes) -> str:
    """The name as text. The namespace is UTF-8 text: a name that is none does not exist."""
    if len(name) > NAME_MAX:
        raise Refused(errno.ENAMETOOLONG, "the name is too long")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Refused(errno.ENOENT, "the name is no UTF-8") from None
