"""Open files and directories of one session, by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from forebay.errors import Overloaded
from forebay_fuse.directories import OpenDir
from forebay_fuse.inodes import Inode
from forebay_fuse.journal import Journal, NoJournal, OpenMode, OpenRecord
from forebay_fuse.modes import Mode
from forebay_fuse.sdk import Block, Reader
from forebay_fuse.splice import Piece

HANDLES_MAX = 100_000


@dataclass(slots=True)
class OpenFile:
    """An open file: one version of one path, and the SDK's reader of it, made (by ``make``) when it is needed."""

    inode: Inode
    make: Callable[[], Reader]
    mode: Mode
    block_size: int
    made: Reader | None = None
    is_stale: bool = False

    @property
    def reader(self) -> Reader:
        """The reader."""
        if self.made is None:
            self.made = self.make()
        return self.made

    def free(self) -> None:
        """Frees the reader."""
        if self.made is not None:
            self.made.free()
            self.made = None

    def local(self, offset: int, length: int) -> list[tuple[Block, Piece]] | None:
        """The bytes as pieces of block files that workers on this host hold whole in memory; ``None`` if any of them
        is not here. Good until the next await."""
        found: list[tuple[Block, Piece]] = []
        block_size = self.block_size
        while length:
            index, start = divmod(offset, block_size)
            block = self.reader.local_block(index)
            if block is None or block.tier != "MEM":
                return None
            n = min(length, block_size - start)
            found.append((block, Piece(block.fd, start, n)))
            offset, length = offset + n, length - n
        return found


class HandleTable:
    """Handles by number; numbers are never used twice."""

    def __init__(self, limit: int = HANDLES_MAX, journal: Journal | None = None) -> None:
        self._limit = limit
        self._journal = journal or NoJournal()
        self._handles: dict[int, OpenFile | OpenDir] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._handles) >= self._limit

    def restore(self, handles: Mapping[int, OpenFile | OpenDir], fh_max: int) -> None:
        """What was open in an earlier gateway."""
        self._handles.update(handles)
        self._next = max(self._next, fh_max + 1)

    def add(self, handle: OpenFile | OpenDir, backing_id: int = 0) -> int:
        """The number of a new handle.

        Raises:
            Overloaded: the table is full.
        """
        if self.full:
            raise Overloaded("too many files are open", limit=self._limit)
        number, self._next = self._next, self._next + 1
        self._handles[number] = handle
        mode: OpenMode = handle.mode.value if isinstance(handle, OpenFile) else "dir"
        self._journal.opened(number, OpenRecord(handle.inode.node_id, mode, backing_id))
        return number

    def file(self, number: int) -> OpenFile | None:
        """An open file."""
        handle = self._handles.get(number)
        return handle if isinstance(handle, OpenFile) else None

    def directory(self, number: int) -> OpenDir | None:
        """An open directory."""
        handle = self._handles.get(number)
        return handle if isinstance(handle, OpenDir) else None

    def remove(self, number: int) -> OpenFile | OpenDir | None:
        """Takes a handle out."""
        self._journal.released(number)
        return self._handles.pop(number, None)

    def all(self) -> Mapping[int, OpenFile | OpenDir]:
        """What is open."""
        return self._handles
