"""After a start: takes in what the tier directories hold, while reads are already served.

``prepare`` is quick and comes first. Until a directory's ``scan`` has ended it takes no new blocks (nobody knows yet
how much room there is); a block that is asked for meanwhile is looked up by its name (``adopt``). Half-filled blocks
enter the index with no extent present and are *torn* until ``mend`` has compared their bytes with their sums: when one
is read, or in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forebay.runtime import logs
from forebay_worker import recovery
from forebay_worker.block import Block, charge_of
from forebay_worker.directory import TierDirectory
from forebay_worker.extents import Geometry
from forebay_worker.files import IoThreads, TierFailed
from forebay_worker.index import StoreIndex
from forebay_worker.ondisk import Seals
from forebay_worker.recovery import FoundBlock, FoundPart, Mended, Scan

SCANNING = "scanning"
"""Why a directory takes no blocks yet."""

BATCH = 500
"""Blocks that enter the index at a stretch."""

STUCK_SHOWN_MAX = 20


@dataclass
class Quarantine:
    """What lies in a directory's quarantine."""

    files: int = 0
    size_bytes: int = 0


class Restart:
    """What was found, per tier directory. All state changes on the loop; all file work on ``threads``."""

    def __init__(
        self,
        tiers: Sequence[TierDirectory],
        index: StoreIndex,
        threads: IoThreads,
        clock: Callable[[], float],
    ) -> None:
        self._tiers = tiers
        self._index = index
        self._threads = threads
        self._clock = clock
        self._unscanned: set[int] = set()
        self._torn: dict[str, int] = {}
        self._mending = asyncio.Lock()
        self._log = logs.get("forebay_worker.store")
        self.quarantines = [Quarantine() for _ in tiers]

    @property
    def is_scanning(self) -> bool:
        """Whether the index may not know everything yet."""
        return bool(self._unscanned)

    def is_expected(self, number: int) -> bool:
        """Whether a directory has to be scanned."""
        return number in self._unscanned

    async def prepare(self, boot_id: str) -> None:
        """See ``recovery.prepare``; for all directories."""
        for number, tier in enumerate(self._tiers):
            self.expect(number)
            doubted = await self._threads.run(recovery.prepare, tier, boot_id)
            if doubted:
                path = str(tier.spec.path)
                self._log.warning("blocks_doubted_after_boot", path=path, blocks=doubted)

    def expect(self, number: int) -> None:
        """The directory has to be scanned (again)."""
        self._unscanned.add(number)
        self._index.retire(number, SCANNING)

    async def scan(self) -> None:
        """Takes in what all directories hold.

        Raises:
            TierFailed: one of them erred; it stays as it is until the next scan.
        """
        for number in sorted(self._unscanned):
            await self.scan_tier(number)

    async def scan_tier(self, number: int) -> None:
        """Takes in what one directory holds; what has no room any more (a smaller capacity) is unlinked."""
        tier, scan = self._tiers[number], Scan()
        for folder in await self._threads.run(recovery.scan_root, tier, scan):
            await self._threads.run(recovery.scan_folder, tier, folder, scan)
        await self._take_blocks(number, scan.blocks)
        await self._take_parts(number, scan.parts)
        dropped = await self._drop_rest(number, scan)
        await self._tidy(number, scan)
        self._unscanned.discard(number)
        self._index.return_to_service(number, SCANNING)
        self._tell(number, scan, dropped)

    async def _take_blocks(self, number: int, found: list[FoundBlock]) -> None:
        """The newest as long as there is room, and the newest as the youngest. Some are in the index already: reads
        had them adopted, or they were found in another directory."""
        room = self._index.capacity(number) - self._index.used(number)
        kept: list[FoundBlock] = []
        new = [block for block in found if self._index.get(block.block_id) is None]
        for block in sorted(new, key=lambda block: block.mtime_ns, reverse=True):
            room -= charge_of(block.length)
            if room < 0:
                break
            kept.append(block)
        for count, block in enumerate(reversed(kept)):
            self._restore(number, block)
            if count % BATCH == BATCH - 1:
                await asyncio.sleep(0)

    def _restore(self, number: int, found: FoundBlock) -> None:
        self._index.restore(found.block_id, found.length, number, self._clock(), dataset=found.dataset, crcs=found.crcs)

    async def _take_parts(self, number: int, found: list[FoundPart]) -> None:
        """Those of blocks that lie nowhere as a whole: a move that was cut short leaves both."""
        extent_size = self._tiers[number].manner.extent_size
        for part in found:
            if self._index.get(part.block_id) is None:
                await self.adopt(part.block_id)
            geometry = Geometry(part.length, extent_size)
            now_s = self._clock()
            if self._index.restore_part(part.block_id, geometry, number, now_s, present=(), dataset=part.dataset):
                self._torn[part.block_id] = number

    async def _drop_rest(self, number: int, scan: Scan) -> int:
        """Unlinks what found no room here, or is in another directory already."""
        dropped = 0
        names = [*((b.block_id, True) for b in scan.blocks), *((p.block_id, False) for p in scan.parts)]
        for block_id, sealed in names:
            if not self._index.is_known(block_id, number):
                await self._threads.run(self._tiers[number].remove, block_id, sealed=sealed)
                dropped += 1
        return dropped

    async def _tidy(self, number: int, scan: Scan) -> None:
        """Forgets the log's words about blocks that are in the index now, and shortens the log if it is mostly about
        blocks that are gone."""
        tier = self._tiers[number]
        parts = {bytes.fromhex(part.block_id) for part in scan.parts}
        live = frozenset(bytes.fromhex(b.block_id) for b in scan.blocks if b.crcs) | parts
        tier.known = Seals({raw: sealed for raw, sealed in tier.known.blocks.items() if raw in parts})
        if tier.log is not None and tier.log.is_wasteful(len(live)):
            await self._threads.run(tier.log.rewrite, live)
        files, size = await self._threads.run(recovery.quarantined, tier)
        self.quarantines[number] = Quarantine(files, size)

    def _tell(self, number: int, scan: Scan, dropped: int) -> None:
        tier = self._tiers[number]
        path = str(tier.spec.path)
        self._log.info(
            "tier_opened",
            tier=tier.spec.tier,
            path=path,
            capacity_bytes=tier.spec.capacity_bytes,
            in_memory=tier.in_memory,
            blocks=len(scan.blocks),
            half_filled=len(scan.parts),
            torn=scan.torn,
            dropped=dropped,
        )
        if scan.unknown:
            self._log.warning("unknown_files_quarantined", path=path, files=scan.unknown)
        if scan.stuck:
            self._log.warning("unknown_files_left_alone", path=path, names=scan.stuck[:STUCK_SHOWN_MAX])

    # -- single blocks

    async def adopt(self, block_id: str) -> None:
        """Takes in a complete block of a directory whose scan has not ended."""
        for number in sorted(self._unscanned):
            try:
                found = await self._threads.run(recovery.look, self._tiers[number], block_id)
            except TierFailed:  # the scan finds that out as well, and says so
                continue
            if found is not None and number in self._unscanned:
                self._restore(number, found)
                return

    def is_torn(self, block: Block) -> bool:
        """Whether the block's extents are still to be verified."""
        return block.block_id in self._torn

    def torn(self) -> list[str]:
        """Ids of all that are."""
        return list(self._torn)

    async def mend(self, block: Block) -> Mended | None:
        """Verifies a torn block; ``None`` if nothing of it is right. One at a time.

        Raises:
            TierFailed: the directory erred.
        """
        async with self._mending:
            if self._torn.get(block.block_id) != block.tier:
                return Mended(block.length, block.dataset, {}, is_sealed=False)
            block.busy += 1
            try:
                return await self._threads.run(recovery.mend, self._tiers[block.tier], block.block_id)
            finally:
                block.busy -= 1
                self._torn.pop(block.block_id, None)

    def forget(self, block: Block) -> None:
        """The block left before it was mended."""
        self._torn.pop(block.block_id, None)
