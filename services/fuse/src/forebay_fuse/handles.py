"""Open files and directories of one session."""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from forebay.client import Client, Reader
from forebay.client.local import LocalBlock
from forebay.contracts import Entry
from forebay.errors import Overloaded
from forebay_fuse.inodes import Inode

HANDLES_MAX = 100_000


@dataclass(slots=True)
class OpenFile:
    """An open file: its reader, and the block files of this host that it maps."""

    inode: Inode
    reader: Reader
    block_size: int
    maps: dict[int, tuple[LocalBlock, memoryview, mmap.mmap]] = field(default_factory=dict)

    def local(self, offset: int, length: int) -> memoryview | None:
        """The bytes, where they lie in one block that a worker on this host holds whole in memory; without a copy."""
        index, start = divmod(offset, self.block_size)
        if start + length > self.block_size:
            return None
        found = self.maps.get(index)
        if found is None:
            block = self.reader.local_block(index)
            if block is None or block.tier != "MEM":
                return None
            mapped = mmap.mmap(block.fd, block.length, prot=mmap.PROT_READ)
            found = self.maps[index] = (block, memoryview(mapped), mapped)
        found[0].count(length)
        return found[1][start : start + length]

    def unmap(self) -> None:
        """Gives the mappings back."""
        for _, view, mapped in self.maps.values():
            view.release()
            mapped.close()
        self.maps.clear()


@dataclass(slots=True)
class OpenDir:
    """An open directory: the entries that were fetched so far, in order; ``token`` is ``None`` before the first page
    and ``done`` after the last."""

    inode: Inode
    entries: list[Entry] = field(default_factory=list)
    token: str | None = None
    done: bool = False
    mount_id: str | None = None
    valid_s: float | None = 0.0
    heard_s: float = 0.0

    async def fill(self, client: Client, count: int) -> None:
        """Fetches until ``count`` entries are here or the directory ends."""
        while len(self.entries) < count and not self.done:
            page = await client.list_page(self.inode.path, self.token)
            self.entries.extend(page.entries)
            self.token, self.mount_id, self.valid_s = page.next_page_token, page.mount_id, page.valid_s
            self.done, self.heard_s = page.next_page_token is None, time.monotonic()

    def left_s(self) -> float | None:
        """How long the last page's names may still be kept; ``None`` for ever."""
        return None if self.valid_s is None else max(0.0, self.valid_s - (time.monotonic() - self.heard_s))


class HandleTable:
    """Handles by number; numbers are never used twice."""

    def __init__(self, limit: int = HANDLES_MAX) -> None:
        self._limit = limit
        self._handles: dict[int, OpenFile | OpenDir] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: OpenFile | OpenDir) -> int:
        """The number of a new handle.

        Raises:
            Overloaded: the table is full.
        """
        if len(self._handles) >= self._limit:
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
