"""Open block files: bytes in memory are mapped, bytes on a disk are read without ever stopping the event loop.

A file on tmpfs is mapped once, when its fill starts or at its first read, and served as slices of that mapping: no
copy, no system call. It is safe because block files are unlinked, never truncated: a mapping keeps its pages, and a
page that a present extent covers was written before. A mapping of a file on a disk could stop the loop for as long as
the disk takes (317 ms were seen) or kill the process with SIGBUS, so there it is ``preadv(RWF_NOWAIT)``, which answers
from the page cache or not at all, and otherwise the same call on a thread.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from forebay.errors import ForebayError

PIECE_BYTES = 1 << 20
"""One read from a disk, one buffer."""

P = ParamSpec("P")
T = TypeVar("T")


class TierFailed(ForebayError):
    """A tier directory erred (full disk, I/O error). Never leaves the worker: the read goes on past the tier."""


class IoThreads:
    """The bounded pool for everything that may wait for a file system."""

    def __init__(self, threads_max: int) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="worker-io")

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


class BlockFile:
    """One open block file; owns ``fd``. ``view`` is the whole block as bytes if it lies in memory; ``crcs`` are the
    CRC32C sums of its extents once it is complete.

    The descriptor closes when the last user lets go of the object, so no thread ever reads from a reused number.
    """

    def __init__(self, fd: int, length: int, *, in_memory: bool) -> None:
        self.fd = fd
        self.length = length
        self.crcs: tuple[int, ...] = ()
        self.view: memoryview | None = None
        if in_memory and length:
            # The mapping duplicates the descriptor, and its views keep the mapping.
            self.view = memoryview(mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ))

    def __del__(self) -> None:
        os.close(self.fd)

    def write(self, pieces: Sequence[bytes | memoryview], start: int) -> None:
        """Writes ``pieces`` one after the other from byte ``start`` (blocking)."""
        rest = list(pieces)
        while rest:
            written = os.pwritev(self.fd, rest, start)
            start += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest and written:
                rest[0] = memoryview(rest[0])[written:]

    async def read(self, start: int, stop: int, threads: IoThreads) -> AsyncIterator[memoryview]:
        """Bytes ``start`` to ``stop`` in pieces; each is the receiver's own, or a slice of the immutable mapping."""
        if self.view is not None:
            yield self.view[start:stop]
            return
        while start < stop:
            piece = memoryview(bytearray(min(PIECE_BYTES, stop - start)))
            await self._read_piece(piece, start, threads)
            start += len(piece)
            yield piece

    async def _read_piece(self, piece: memoryview, start: int, threads: IoThreads) -> None:
        done = _read_cached(self.fd, piece, start)
        while done < len(piece):
            done += await threads.run(_read_some, self.fd, piece[done:], start + done)


def _read_cached(fd: int, piece: memoryview, start: int) -> int:
    """What the page cache gives at once; 0 if nothing, or if the file system cannot say."""
    try:
        return os.preadv(fd, [piece], start, os.RWF_NOWAIT)
    except OSError:
        return 0  # EAGAIN, EOPNOTSUPP; a real error comes again on the thread, where it is translated


def _read_some(fd: int, piece: memoryview, start: int) -> int:
    count = os.preadv(fd, [piece], start)
    if count == 0:
        raise OSError(errno.EIO, "a block file is shorter than it was")
    return count


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
