"""Open block files: bytes in memory are mapped, bytes on a disk are read without ever stopping the event loop.

A file on tmpfs is mapped once, when its fill starts or at its first read, and served as slices of that mapping: no
copy, no system call. It is safe because block files are unlinked, never truncated: a mapping keeps its pages, and a
page that a present extent covers was written before. A mapping of a file on a disk could stop the loop for as long as
the disk takes (317 ms were seen) or kill the process with SIGBUS, so there a thread reads whole extents, and compares
them with their checksums while it has them. (``preadv(RWF_NOWAIT)`` on the loop saves the hop, 60 µs for 4 MiB, and
would pay for it with 170 µs of summing there.)
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import ParamSpec, Protocol, TypeVar

import google_crc32c

from forebay.errors import ForebayError
from forebay_worker.extents import Geometry

BUFFERS_MAX = 32
"""Extents (4 MiB each) read from disks that are on their way to readers at the same time."""

RECENT_EXTENTS_MAX = 8
PIECES_MAX = 512
"""Of one system call; the kernel takes 1024 (IOV_MAX)."""

P = ParamSpec("P")
T = TypeVar("T")


class TierFailed(ForebayError):
    """A tier directory erred (full disk, I/O error). Never leaves the worker: the read goes on past the tier."""


class IoThreads:
    """The bounded pool for everything that may wait for a file system."""

    def __init__(self, threads_max: int) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="worker-io")
        self.buffers = asyncio.Semaphore(BUFFERS_MAX)
        self.recent = RecentExtents()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs ``work`` on a thread; an ``OSError`` becomes ``TierFailed``. If the caller is cancelled the work still
        ends by itself."""
        try:
            return await self.start(work, *args, **kwargs)
        except OSError as e:
            raise translated(e) from e

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As ``run``, for callers that must hear of the end even if nobody waits; errors stay as they are."""
        return asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Waits for running work; nothing new is taken."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def translated(error: OSError) -> TierFailed:
    """What a file system said, as an error of ours."""
    return TierFailed(f"a tier directory failed: {error}", errno=errno.errorcode.get(error.errno or 0))


class Corrupt(TierFailed):
    """Bytes of a block do not have the checksum that they were written with. Never leaves the worker: the block is
    dropped, and the read goes on."""


class RecentExtents:
    """The last few extents that were verified for reads of a part of them, so that a reader that takes an extent in
    small pieces has it read and summed once. Keys are numbers of ``BlockFile`` objects, never used twice."""

    def __init__(self, extents_max: int = RECENT_EXTENTS_MAX) -> None:
        self._extents_max = extents_max
        self._held: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def get(self, key: tuple[int, int]) -> bytes | None:
        """An extent's bytes."""
        data = self._held.get(key)
        if data is not None:
            self._held.move_to_end(key)
        return data

    def put(self, key: tuple[int, int], data: bytes) -> None:
        """Keeps an extent."""
        self._held[key] = data
        if len(self._held) > self._extents_max:
            self._held.popitem(last=False)


class Sidecar(Protocol):
    """Where the sums of a half-filled block are kept; ``directory.PartMap`` is one."""

    def note(self, extent: int, crc: int) -> None:
        """The extent is written and has this sum."""


class BlockFile:
    """One open block file; owns ``fd``. ``view`` is the whole block as bytes if it lies in memory; ``crcs`` are the
    CRC32C sums of the extents that are present (``None``: not present, or not known).

    What lies on a disk is compared with its sums each time it is read: the page cache may have come from the disk a
    moment ago. What lies in memory is compared when it is read for the first time after it was opened, and again when
    somebody wrote to the file since (its time says so); the scrubber looks for the rest.

    The descriptor closes when the last user lets go of the object, so no thread ever reads from a reused number.
    """

    _numbers = count()

    def __init__(
        self,
        fd: int,
        length: int,
        *,
        in_memory: bool,
        crcs: Mapping[int, int] | Sequence[int] | None = None,
        part_map: Sidecar | None = None,
    ) -> None:
        self.fd = fd
        self.length = length
        self.geometry = Geometry(length)
        self.crcs: list[int | None] = [None] * self.geometry.count
        self._number = next(self._numbers)
        self._part_map = part_map
        self._unchecked: set[int] = set()
        self._mtime_ns: int | None = None
        self.view: memoryview | None = None
        if crcs is not None:
            for extent, crc in crcs.items() if isinstance(crcs, Mapping) else enumerate(crcs):
                self.crcs[extent] = crc
        if in_memory and length:
            # The mapping duplicates the descriptor, and its views keep the mapping.
            self.view = memoryview(mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ))

    def __del__(self) -> None:
        os.close(self.fd)

    # -- writing (blocking)

    def write(self, pieces: Sequence[bytes | memoryview], start: int) -> None:
        """Writes ``pieces`` one after the other from byte ``start``."""
        rest = list(pieces)
        while rest:
            written = os.pwritev(self.fd, rest[:PIECES_MAX], start)
            start += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest and written:
                rest[0] = memoryview(rest[0])[written:]

    def land(self, extent: int, crc: int) -> None:
        """An extent is written and has this sum."""
        if self._part_map is not None:
            self._part_map.note(extent, crc)
        self.crcs[extent] = crc

    def settle(self) -> None:
        """Nothing is written any more; what is there was checked on its way in."""
        self._part_map = None
        self._mtime_ns = os.fstat(self.fd).st_mtime_ns

    def doubt(self) -> None:
        """Nothing of it has been checked yet by this process."""
        self._mtime_ns = os.fstat(self.fd).st_mtime_ns
        self._unchecked = set(range(len(self.crcs))) if self.view is not None else set()

    def all_crcs(self) -> tuple[int, ...]:
        """Sums of all extents; none at all if one is not known."""
        known = tuple(crc for crc in self.crcs if crc is not None)
        return known if len(known) == len(self.crcs) else ()

    # -- reading

    @property
    def is_checked(self) -> bool:
        """Whether slices of the mapping may be sent as they are."""
        return not self._unchecked and (self._mtime_ns is None or os.fstat(self.fd).st_mtime_ns == self._mtime_ns)

    async def read(self, start: int, stop: int, threads: IoThreads) -> AsyncIterator[memoryview]:
        """Bytes ``start`` to ``stop`` in pieces; each is the receiver's own, or a slice of the immutable mapping.

        Raises:
            Corrupt: an extent does not have its sum; none of its bytes are given.
            TierFailed: the file system erred.
        """
        geometry = self.geometry
        if self.view is not None:
            if not self.is_checked:
                await threads.run(self._check_mapped, geometry.touched(start, stop))
            yield self.view[start:stop]
            return
        for extent in geometry.touched(start, stop):
            first, last = geometry.span(extent)
            async with threads.buffers:
                data = await self._extent(extent, threads, is_part=start > first or stop < last)
                yield memoryview(data)[max(0, start - first) : min(stop, last) - first]

    async def _extent(self, extent: int, threads: IoThreads, *, is_part: bool) -> bytes:
        key = (self._number, extent)
        data = threads.recent.get(key) if is_part else None
        if data is None:
            data = await threads.run(self.read_extent, extent)
            if is_part:
                threads.recent.put(key, data)
        return data

    def read_extent(self, extent: int) -> bytes:
        """An extent's bytes, compared with their sum (blocking). Raises ``Corrupt`` or what the file system says."""
        start, stop = self.geometry.span(extent)
        parts: list[bytes] = []
        while start < stop:
            parts.append(os.pread(self.fd, stop - start, start))
            if not parts[-1]:
                raise Corrupt("a block file is shorter than it was", length=start)
            start += len(parts[-1])
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._compare(extent, data)
        return data

    def _check_mapped(self, extents: range) -> None:
        if self.view is None:
            return
        mtime_ns = os.fstat(self.fd).st_mtime_ns
        if self._mtime_ns is not None and mtime_ns != self._mtime_ns:
            self.doubt()
        for extent in extents:
            if extent in self._unchecked:
                start, stop = self.geometry.span(extent)
                self._compare(extent, bytes(self.view[start:stop]))
                self._unchecked.discard(extent)

    def _compare(self, extent: int, data: bytes) -> None:
        if google_crc32c.value(data) != self.crcs[extent]:
            raise Corrupt("an extent does not have its checksum", extent=extent)


class OpenFiles:
    """Open files of sealed blocks, the longest unused let go of first. Each takes a descriptor, or two when mapped.

    Letting go of a large mapping takes milliseconds (25 for 256 MiB), so ``let_go`` should do it on a thread.
    """

    def __init__(self, files_max: int, let_go: Callable[[BlockFile], None]) -> None:
        self._files_max = files_max
        self._let_go = let_go
        self._files: OrderedDict[str, BlockFile] = OrderedDict()

    def get(self, block_id: str) -> BlockFile | None:
        """The file if it is open."""
        file = self._files.get(block_id)
        if file is not None:
            self._files.move_to_end(block_id)
        return file

    def put(self, block_id: str, file: BlockFile) -> None:
        """Keeps an open file."""
        self._files[block_id] = file
        while len(self._files) > self._files_max:
            self._let_go(self._files.popitem(last=False)[1])

    def take(self, block_id: str) -> BlockFile | None:
        """Takes a file out; reads that use it keep it open."""
        return self._files.pop(block_id, None)

    def clear(self) -> None:
        """Lets go of all."""
        self._files.clear()

    def __len__(self) -> int:
        return len(self._files)
