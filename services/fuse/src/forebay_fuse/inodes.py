"""The inode table: a node id names (path, version), and lives as long as the kernel's lookups of it.

An epoch looks up every file of a dataset, so an inode is small (some 400 bytes with its places in the tables): its
entry is packed, its directory's path is one string for all that lie in it, and it stands in the index by its inode
number. What the kernel forgets goes back to the system.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

from msgspec import Struct

from forebay.contracts import Entry
from forebay.contracts.packed import pack_entry, packed_inode, unpack_entry
from forebay.errors import Overloaded
from forebay_fuse.journal import InodeRecord, Journal
from forebay_fuse.protocol.layout import ROOT_ID

INODES_MAX = 1_000_000
SHRINK_LEAST = 10_000
"""Tables that never had more entries than this are left as they are."""

OUTDATED = float("-inf")
"""``good_until_s`` of a directory that has changed: what is known of it may not be told at all."""

V = TypeVar("V")


class Inode(Struct, eq=False, gc=False):
    """One version of one path (``gc=False``: it refers to no other). ``lookups`` is how many references the kernel
    holds; ``good_until_s`` (monotonic, ``None``: for ever) how long what is said of a directory may be told on."""

    node_id: int
    directory: str
    packed: bytes
    is_dir: bool
    mount_id: str | None
    lookups: int = 0
    good_until_s: float | None = None

    @property
    def entry(self) -> Entry:
        """What the master said."""
        return unpack_entry(self.packed)

    @property
    def path(self) -> str:
        """Where it lies in the namespace."""
        return child(self.directory, self.entry.name)

    def tell(self, entry: Entry, mount_id: str | None, good_until_s: float | None) -> None:
        """What the master says now, of the same version."""
        self.packed, self.mount_id, self.good_until_s = pack_entry(entry), mount_id, good_until_s

    def is_version(self, directory: str, entry: Entry) -> bool:
        """Whether this is the inode of what ``entry`` says."""
        own = self.entry
        return self.directory == directory and own.name == entry.name and version_of(own) == version_of(entry)


class Directory(Inode):
    """A directory; its path is at hand, for the names in it share the string."""

    whole: str = "/"

    @property
    def path(self) -> str:
        """Where it lies in the namespace."""
        return self.whole


def version_of(entry: Entry) -> str:
    """What makes another inode of the same path: the version of a file; directories have one."""
    return entry.layout.version_id if entry.layout is not None else ""


def child(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``."""
    return f"/{name}" if directory == "/" else f"{directory}/{name}"


def parent_of(path: str) -> str:
    """The directory that a path lies in."""
    return path.rpartition("/")[0] or "/"


class Shrinking(dict[int, V], Generic[V]):
    """A dict that gives its memory back: one that was emptied keeps the table of its best days."""

    peak = 0

    def shrunk(self) -> Shrinking[V]:
        """Itself, or a smaller copy if most of it is empty. To be called now and then after deletions."""
        self.peak = max(self.peak, len(self))
        if self.peak < SHRINK_LEAST or len(self) * 4 > self.peak:
            return self
        return Shrinking(self)


class InodeTable:
    """Inodes by node id, by inode number (several where versions of a name are known), directories by path as well.

    Invariants: (1) all indices hold the same inodes, but the root stands in no index of numbers; (2) every inode but
    the root has at least one lookup; (3) node ids are never used twice; (4) never more than the limit.
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
        self._limit, self._crowded_at = limit, limit * 9 // 10
        self._journal = journal
        self.root = Directory(ROOT_ID, parent_of(path), pack_entry(root), True, mount_id, 1, good_until_s, whole=path)
        self._by_id: Shrinking[Inode] = Shrinking({ROOT_ID: self.root})
        self._by_number: Shrinking[Inode | tuple[Inode, ...]] = Shrinking()
        self._directories: dict[str, Inode] = {path: self.root}
        self._next = ROOT_ID + 1
        if journal is not None:
            record = InodeRecord(parent_of(path), self.root.packed, root.inode, True, mount_id, 1)
            journal.inode(ROOT_ID, record)

    def restore(self, records: dict[int, InodeRecord], node_max: int) -> None:
        """What an earlier gateway had told the kernel, taken out of ``records``: their memory is used at once. How long
        directories are good for is not known any more."""
        while records:
            node_id, record = records.popitem()
            if node_id == ROOT_ID:
                self.root.tell(record.entry, record.mount_id, 0.0)
                continue
            directory = record.directory
            path = child(directory, record.entry.name) if record.is_dir else None
            inode = self._add(node_id, directory, record.packed, record.number, record.mount_id, path)
            inode.lookups = record.lookups
            inode.good_until_s = 0.0 if inode.is_dir else None
        self._next = max(self._next, node_max + 1)

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def crowded(self) -> bool:
        """Whether nine tenths of the limit are reached: time to ask the kernel for some back."""
        return len(self._by_id) >= self._crowded_at

    def get(self, node_id: int) -> Inode | None:
        """The inode, if the kernel may still know it."""
        return self._by_id.get(node_id)

    def find(self, path: str) -> Inode | None:
        """The directory at ``path``."""
        return self._directories.get(path)

    def look_up(
        self, directory: str, entry: Entry, mount_id: str | None, *, good_until_s: float | None = None
    ) -> Inode:
        """The inode of this version of ``entry`` in ``directory``, with one lookup more.

        Raises:
            Overloaded: the table is full.
        """
        packed, number = pack_entry(entry), entry.inode
        held = self._by_number.get(number)
        inode = None if held is None else _known(held, directory, entry, packed)
        if inode is None:
            if len(self._by_id) >= self._limit:
                raise Overloaded("the kernel holds too many inodes", limit=self._limit)
            path = child(directory, entry.name) if entry.kind == "dir" else None
            inode = self._add(self._next, directory, packed, number, mount_id, path)
            self._next += 1
            is_told = False
        else:
            is_told = inode.packed == packed and inode.mount_id == mount_id
            inode.packed, inode.mount_id = packed, mount_id
        if inode.is_dir:
            inode.good_until_s = good_until_s
        inode.lookups += 1
        if self._journal is not None:
            if is_told:
                self._journal.lookups(inode.node_id, inode.lookups)
            else:
                record = InodeRecord(directory, packed, number, inode.is_dir, mount_id, inode.lookups)
                self._journal.inode(inode.node_id, record)
        return inode

    def _add(
        self, node_id: int, directory: str, packed: bytes, number: int, mount_id: str | None, path: str | None
    ) -> Inode:
        """``path`` is there for directories."""
        if path is not None:
            inode: Inode = Directory(node_id, directory, packed, True, mount_id, whole=path)
            self._directories[path] = inode
        else:
            inode = Inode(node_id, directory, packed, False, mount_id)
        self._by_id[node_id] = inode
        held = self._by_number.get(number)
        self._by_number[number] = inode if held is None else (*_all(held), inode)
        return inode

    def forget(self, node_id: int, lookups: int) -> None:
        """The kernel gives back lookups; the last one drops the inode. Unknown ids are ignored, the root stays."""
        inode = self._by_id.get(node_id)
        if inode is None or node_id == ROOT_ID:
            return
        inode.lookups -= lookups
        if self._journal is not None:
            self._journal.lookups(node_id, max(0, inode.lookups))
        if inode.lookups <= 0:
            self._drop(inode)

    def _drop(self, inode: Inode) -> None:
        number = packed_inode(inode.packed)
        del self._by_id[inode.node_id]
        held = self._by_number[number]
        if held is inode:  # nearly always: one version of a name
            del self._by_number[number]
        else:
            left = tuple(i for i in _all(held) if i is not inode)
            self._by_number[number] = left[0] if len(left) == 1 else left
        if inode.is_dir and self._directories.get(inode.path) is inode:
            del self._directories[inode.path]

    def shrink(self) -> None:
        """After many a `forget`: gives memory back."""
        self._by_id, self._by_number = self._by_id.shrunk(), self._by_number.shrunk()

    def numbers(self) -> tuple[int, ...]:
        """All node ids, as of now."""
        return tuple(self._by_id)

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
                assert inode in _all(self._by_number[inode.entry.inode])
            if inode.is_dir:
                assert self._directories[inode.path] is inode
        assert sum(len(_all(held)) for held in self._by_number.values()) == len(self._by_id) - 1
        assert len(self._by_id) <= self._limit


def _all(held: Inode | tuple[Inode, ...]) -> tuple[Inode, ...]:
    return held if isinstance(held, tuple) else (held,)


def _known(held: Inode | tuple[Inode, ...], directory: str, entry: Entry, packed: bytes) -> Inode | None:
    """Which of the inodes of one number is what ``entry`` says: to the byte, or the same version."""
    for inode in _all(held):
        if inode.packed == packed and inode.directory == directory:
            return inode
    return next((inode for inode in _all(held) if inode.is_version(directory, entry)), None)
