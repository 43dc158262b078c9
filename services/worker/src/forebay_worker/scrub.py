"""Reads all blocks again, slowly, and compares them with their checksums: what rots between two reads is found.

On a disk the reads go past the page cache (``O_DIRECT``): the cache would answer with the good bytes of yesterday, and
scrubbing would push out what is read. A pass takes a list of blocks at its start; what comes later has its turn in the
next pass. A block that does not have its checksum is dropped and filled again (``refills``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
from dataclasses import dataclass

import google_crc32c

from forebay_worker.block import Block
from forebay_worker.directory import TierDirectory, name_of
from forebay_worker.extents import Geometry
from forebay_worker.files import Corrupt, TierFailed
from forebay_worker.observe import WorkerMetrics
from forebay_worker.store import Store


@dataclass
class Progress:
    """Of the pass that is running over one tier directory."""

    done: int = 0
    blocks: int = 0
    passes: int = 0

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.done / self.blocks if self.blocks else 1.0


class Scrubber:
    """``rate`` in bytes a second (0: off) may change while it runs; a new one counts at once."""

    def __init__(self, store: Store, metrics: WorkerMetrics, *, rate: int, pause_s: float) -> None:
        self._store = store
        self._metrics = metrics
        self.rate = rate
        self._pause_s = pause_s
        self._rate_changed = asyncio.Event()
        self.progress = [Progress() for _ in store.tiers]

    async def run(self) -> None:
        """Pass after pass, for ever."""
        while True:
            if self.rate:
                for number in range(len(self._store.tiers)):
                    await self.scrub(number)
            await self._pause(self._pause_s if self.rate else None)

    def set_rate(self, rate: int) -> None:
        """Bytes a second from now on."""
        if rate != self.rate:
            self.rate = rate
            self._rate_changed.set()

    async def _pause(self, most_s: float | None) -> None:
        """For so long, or until another rate is set."""
        self._rate_changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._rate_changed.wait()

    async def scrub(self, number: int) -> None:
        """One pass over one tier directory; it ends early when the scrubber is switched off."""
        names = self._store.index.sealed_ids(number)
        progress = self.progress[number] = Progress(0, len(names), self.progress[number].passes)
        for name in names:
            if not self.rate:
                return
            block = self._store.index.get(name)
            if block is not None and self._store.index.is_at(block, number):
                await self._scrub_block(number, block)
            progress.done += 1
        progress.passes += 1

    async def _scrub_block(self, number: int, block: Block) -> None:
        store, tier = self._store, self._store.tiers[number]
        try:
            reader = await store.threads.run(Reader, tier, block.block_id, block.length, block.crcs)
            for extent in range(reader.geometry.count):
                size = await store.threads.run(reader.check, extent)
                self._metrics.scrubbed.add(size, store.label(block))
                if not self.rate:
                    return
                await self._pause(size / self.rate)
        except TierFailed as e:
            if not store.index.is_at(block, number):  # it left or moved while it was looked at
                return
            if isinstance(e, Corrupt):
                await store.drop_rotten(block, e, found_by="scrub")
            else:
                store.health.failed(number, e)


class Reader:
    """An open block and a buffer that direct reads can use. The file closes with its last user: a thread may still
    read when the scrubber is cancelled."""

    _fd = -1

    def __init__(self, tier: TierDirectory, block_id: str, length: int, crcs: tuple[int, ...]) -> None:
        self.geometry = Geometry(length, tier.manner.extent_size)
        self._crcs = crcs or tier.read_crcs(block_id, length)
        if not self._crcs:
            raise Corrupt("the sidecar of a block is missing or broken")
        self._fd = _open_direct(tier, name_of(block_id, "blk"))
        self._buffer = mmap.mmap(-1, -(-min(length, tier.manner.extent_size) // mmap.PAGESIZE) * mmap.PAGESIZE)

    def check(self, extent: int) -> int:
        """Compares one extent; its bytes."""
        start, stop = self.geometry.span(extent)
        found = os.preadv(self._fd, [self._buffer], start)
        while 0 < found < stop - start and found % mmap.PAGESIZE == 0:
            more = os.preadv(self._fd, [memoryview(self._buffer)[found:]], start + found)
            if not more:
                break
            found += more
        if found < stop - start:
            raise Corrupt("a block file is shorter than it was", length=start + found)
        if google_crc32c.value(self._buffer[: stop - start]) != self._crcs[extent]:
            raise Corrupt("an extent does not have its checksum", extent=extent)
        return stop - start

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _open_direct(tier: TierDirectory, name: str) -> int:
    """Past the page cache where the file system can do that."""
    if not tier.in_memory:
        with contextlib.suppress(OSError):
            return tier.open_name(name, os.O_RDONLY | os.O_DIRECT)
    try:
        return tier.open_name(name, os.O_RDONLY)
    except FileNotFoundError as e:
        raise Corrupt("a block file is gone", errno=errno.errorcode[errno.ENOENT]) from e
