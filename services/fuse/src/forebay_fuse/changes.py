"""The master's change feed: what it found to have changed, the kernel forgets, whatever its timeouts.

A node id names one version, so its pages and attributes stay right and its open handles go on; only the *name* must go
(INVAL_ENTRY), so that the next use of it is a LOOKUP, which finds the new version and gives it a new node id. A
directory stays, for programs may live in it: it is looked up anew, and so are its attributes (INVAL_INODE). What was
asked before a change and comes after it is asked again (`recent`).
"""

from __future__ import annotations

import asyncio

from forebay.contracts import Change, ChangesReply
from forebay.errors import ForebayError
from forebay.runtime import logs
from forebay.telemetry import Metrics
from forebay_fuse.answers import Answers
from forebay_fuse.directories import encode_name
from forebay_fuse.inodes import OUTDATED, Inode, InodeTable, parent_of
from forebay_fuse.names import Names
from forebay_fuse.protocol import replies
from forebay_fuse.recent import is_below
from forebay_fuse.sdk import Client

PAUSE_S, PAUSE_MAX_S = 0.5, 30.0
"""Between attempts while no master tells changes."""

TURN = 256
"""Inodes looked at before the loop gets its turn."""

LOG = logs.get(__name__)


class Changes:
    """Watches, and has the kernel forget."""

    def __init__(self, client: Client, inodes: InodeTable, names: Names, answers: Answers, metrics: Metrics) -> None:
        self._client, self._inodes, self._names, self._answers = client, inodes, names, answers
        self._told = metrics.counter("forebay_fuse_changes_total", "changes that masters told, by kind", ("kind",))
        self.cursor: str | None = None

    async def watch(self) -> None:
        """For ever. A feed that cannot be continued is begun anew, and then anything may have changed."""
        pause_s = PAUSE_S
        while True:
            try:
                reply = await self._client.changes(self.cursor)
            except ForebayError as e:
                if pause_s == PAUSE_S:
                    LOG.warning("no_changes_told", code=e.code, reason=e.message, hint="timeouts of names hold")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
            else:
                pause_s = PAUSE_S
                await self.take(reply)

    async def take(self, reply: ChangesReply) -> None:
        """One answer. The first one of a feed says nothing of what was told before it."""
        if reply.reset or self.cursor is None:
            await self._anything_below("/")
            self._told.add(1, "reset")
        for change in reply.changes:
            await self._one(change)
            self._told.add(1, change.kind)
        self.cursor = reply.cursor

    async def _one(self, change: Change) -> None:
        if change.kind == "dir":
            await self._anything_below(change.path)
        else:
            self._names.recent.tell(change.path, below=False)
        self._client.forget(change.path)
        if change.path == "/":
            return
        parent = self._inodes.find(parent_of(change.path))
        if parent is not None:
            parent.good_until_s = OUTDATED
            name, is_dir = encode_name(_name_of(change.path)), self._inodes.find(change.path) is not None
            self._answers.notify(replies.invalidate_entry(parent.node_id, name, expire=is_dir))
        await self._answers.notice_room()

    async def _anything_below(self, directory: str) -> None:
        self._names.recent.tell(directory, below=True)
        for number, node_id in enumerate(self._inodes.numbers()):
            if number % TURN == TURN - 1:
                await self._answers.notice_room()
                await asyncio.sleep(0)
            inode = self._inodes.get(node_id)
            if inode is None or not _is_in(inode, directory):
                continue
            if inode.is_dir:
                inode.good_until_s = OUTDATED
                self._answers.notify(replies.invalidate_attributes(inode.node_id))
            if inode is not self._inodes.root:
                self._names.drop(inode)


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


def _is_in(inode: Inode, directory: str) -> bool:
    """Whether an inode is a directory or lies below it; the files of a directory share its string."""
    if inode.directory == directory or is_below(inode.directory, directory):
        return True
    return inode.is_dir and inode.path == directory
