"""The inode table: a node id names (path, version), and lives as long as the kernel's lookups of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from forebay.contracts import Entry
from forebay.errors import Overloaded
from forebay_fuse.journal import InodeRecord, Journal, NoJournal
from forebay_fuse.protocol.layout import ROOT_ID

INODES_MAX = 1_000_000
"""Some 1.2 KiB each."""


@dataclass(slots=True)
class Inode:
    """One version of one path. ``lookups`` is how many references the kernel holds; ``good_until_s`` (monotonic,
    ``None``: for ever) how long what ``entry`` says of a directory may be told on."""

    node_id: int
    path: str
    entry: Entry
    mount_id: str | None
    lookups: int = 0
    good_until_s: float | None = None

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return self.entry.kind == "dir"


def version_of(entry: Entry) -> str:
    """What makes another inode of the same path: the version of a file; directories have one."""
    return entry.layout.version_id if entry.layout is not None else ""


class InodeTable:
    """Inodes by node id and by (path, version).

    Invariants: (1) both indices hold the same inodes, but the root only stands in the first; (2) every inode but the
    root has at least one lookup; (3) node ids are never used twice; (4) never more than the limit.
    """

    def __init__(
        self,
        root: Entry,
        path: str,
        mount_id: str | None,
        *,
        good_until_s: float | None = None,
        limit: int = INODES_MAX,
        journal: Journal | None = None,
    ) -> None:
        self._limit = limit
        self._journal = journal or NoJournal()
        self._by_id: dict[int, Inode] = {ROOT_ID: Inode(ROOT_ID, path, root, mount_id, 1, good_until_s)}
        self._by_name: dict[tuple[str, str], Inode] = {}
        self._next = ROOT_ID + 1
        self._journal.inode(ROOT_ID, InodeRecord(path, root, mount_id, 1))

    def restore(self, records: Mapping[int, InodeRecord], node_max: int) -> None:
        """What an earlier gateway had told the kernel. How long directories are good for is not known any more."""
        for node_id, (path, entry, mount_id, lookups) in records.items():
            inode = Inode(node_id, path, entry, mount_id, lookups, None if entry.layout else 0.0)
            self._by_id[node_id] = inode
            if node_id != ROOT_ID:
                self._by_name[(path, version_of(entry))] = inode
        self._next = max(self._next, node_max + 1)

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def crowded(self) -> bool:
        """Whether nine tenths of the limit are reached: time to ask the kernel for some back."""
        return len(self._by_id) * 10 >= self._limit * 9

    def get(self, node_id: int) -> Inode | None:
        """The inode, if the kernel may still know it."""
        return self._by_id.get(node_id)

    def find(self, path: str) -> Inode | None:
        """The directory at ``path``."""
        root = self._by_id[ROOT_ID]
        return root if path == root.path else self._by_name.get((path, ""))

    def look_up(self, path: str, entry: Entry, mount_id: str | None, *, good_until_s: float | None = None) -> Inode:
        """The inode of this version, with one lookup more.

        Raises:
            Overloaded: the table is full.
        """
        key = (path, version_of(entry))
        inode = self._by_name.get(key)
        is_known = inode is not None and inode.entry == entry and inode.mount_id == mount_id
        if inode is None:
            if len(self._by_id) >= self._limit:
                raise Overloaded("the kernel holds too many inodes", limit=self._limit)
            inode = Inode(self._next, path, entry, mount_id)
            self._next += 1
            self._by_id[inode.node_id] = self._by_name[key] = inode
        else:
            inode.entry, inode.mount_id = entry, mount_id
        inode.good_until_s = good_until_s
        inode.lookups += 1
        if is_known:
            self._journal.lookups(inode.node_id, inode.lookups)
        else:
            self._journal.inode(inode.node_id, InodeRecord(path, entry, mount_id, inode.lookups))
        return inode

    def forget(self, node_id: int, lookups: int) -> None:
        """The kernel gives back lookups; the last one drops the inode. Unknown ids are ignored, the root stays."""
        inode = self._by_id.get(node_id)
        if inode is None or node_id == ROOT_ID:
            return
        inode.lookups -= lookups
        self._journal.lookups(node_id, max(0, inode.lookups))
        if inode.lookups <= 0:
            del self._by_id[node_id]
            del self._by_name[(inode.path, version_of(inode.entry))]

    def oldest(self, count: int) -> Iterator[Inode]:
        """Up to ``count`` files that the kernel has known longest; each is given once in a round."""
        for inode in list(islice(self._by_id.values(), count)):
            self._by_id[inode.node_id] = self._by_id.pop(inode.node_id)
            if not inode.is_dir:
                yield inode

    def validate(self) -> None:
        """Checks the invariants."""
        for node_id, inode in self._by_id.items():
            assert inode.node_id == node_id
            if node_id != ROOT_ID:
                assert inode.lookups > 0, inode
                assert self._by_name[(inode.path, version_of(inode.entry))] is inode
        assert len(self._by_name) == len(self._by_id) - 1
        assert len(self._by_id) <= self._limit
