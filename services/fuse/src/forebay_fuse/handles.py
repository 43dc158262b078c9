"""Open files and directories of one session, by number."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field

from forebay.errors import Overloaded
from forebay_fuse.directories import OpenDir
from forebay_fuse.inodes import Inode
from forebay_fuse.sdk import Block, Reader

HANDLES_MAX = 100_000

MAPS_MAX = 8
"""Block files that one handle maps; a mapping keeps an evicted block's memory in use."""


@dataclass(slots=True)
class OpenFile:
    """An open file: its reader, and the block files of this host that it maps (least recently mapped first)."""

    inode: Inode
    reader: Reader
    block_size: int
    maps: dict[int, tuple[Block, memoryview, mmap.mmap]] = field(default_factory=dict)
    is_stale: bool = False

    def local(self, offset: int, length: int) -> memoryview | None:
        """The bytes, where they lie in one block that a worker on this host holds whole in memory; without a copy.

        Should the file be damaged, ``writev`` from the mapping fails with EFAULT: no SIGBUS, for we do not touch it.
        """
        index, start = divmod(offset, self.block_size)
        if start + length > self.block_size:
            return None
        found = self.maps.get(index) or self._map(index)
        if found is None:
            return None
        found[0].count(length)
        return found[1][start : start + length]

    def _map(self, index: int) -> tuple[Block, memoryview, mmap.mmap] | None:
        block = self.reader.local_block(index)
        if block is None or block.tier != "MEM":
            return None
        mapped = mmap.mmap(block.fd, block.length, prot=mmap.PROT_READ)
        if len(self.maps) >= MAPS_MAX:
            self._unmap(next(iter(self.maps)))
        found = self.maps[index] = (block, memoryview(mapped), mapped)
        return found

    def _unmap(self, index: int) -> None:
        _, view, mapped = self.maps.pop(index)
        view.release()
        mapped.close()

    async def close(self) -> None:
        """Gives everything back."""
        for index in tuple(self.maps):
            self._unmap(index)
        await self.reader.close()


class HandleTable:
    """Handles by number; numbers are never used twice."""

    def __init__(self, limit: int = HANDLES_MAX) -> None:
        self._limit = limit
        self._handles: dict[int, OpenFile | OpenDir] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._handles) >= self._limit

    def add(self, handle: OpenFile | OpenDir) -> int:
        """The number of a new handle.

        Raises:
            Overloaded: the table is full.
        """
        if self.full:
            raise Overloaded("too many files are open", limit=self._limit)
        number, self._next = self._next, self._next + 1
        self._handles[number] = handle
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
        return self._handles.pop(number, None)

    def all(self) -> Mapping[int, OpenFile | OpenDir]:
        """What is open."""
        return self._handles
