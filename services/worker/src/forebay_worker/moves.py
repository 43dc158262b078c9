"""Moves sealed blocks between tiers: promotion when a read asks for it, demotion when MEM needs room.

A move copies, extent by extent and each compared with its checksum, into a ``.part`` of the other tier, which is sealed
there like any other; only then the index says that the block lives there, and the old file is unlinked. Reads go on
from the old file all the while, those that have it open even after that. A crash in between leaves the block in both
directories, and the next start drops one of them.
"""

from __future__ import annotations

from forebay_worker.block import Block, State
from forebay_worker.files import BlockFile, Corrupt, TierFailed
from forebay_worker.fill import Spawner
from forebay_worker.observe import WorkerMetrics
from forebay_worker.store import Store

MOVES_MAX = 2
"""Promotions at the same time; reads that ask for more of them are answered all the same."""


class Mover:
    """All moves of one worker."""

    def __init__(self, store: Store, spawner: Spawner, metrics: WorkerMetrics) -> None:
        self._store = store
        self._spawner = spawner
        self._metrics = metrics
        self._promoting: set[str] = set()
        self._memory = [n for n, tier in enumerate(store.tiers) if tier.spec.tier == "MEM"]
        self._disks = [n for n, tier in enumerate(store.tiers) if tier.spec.tier == "SSD"]
        store.demote = self.demote

    def wants(self, block: Block) -> bool:
        """Whether there is a faster tier that the block could be promoted to."""
        return bool(self._memory) and block.tier in self._disks

    def promote(self, block: Block) -> None:
        """Moves a block to memory in the background, if it is complete and few others are on their way."""
        if block.state is not State.SEALED or not self.wants(block) or block.moving_to is not None:
            return
        if len(self._promoting) < MOVES_MAX and block.block_id not in self._promoting:
            self._promoting.add(block.block_id)
            self._spawner.spawn("promote_block", self._promote(block))

    async def _promote(self, block: Block) -> None:
        try:
            for number in self._memory:
                if await self._make_room(number, block) and await self._move(block, number):
                    self._metrics.promotions.add(1)
                    return
        finally:
            self._promoting.discard(block.block_id)

    async def _make_room(self, number: int, block: Block) -> bool:
        """Demotes (or, where the disks are full, evicts) what the policy would give for this block."""
        index = self._store.index
        lacking = block.charge - (index.capacity(number) - index.used(number))
        if lacking <= 0:
            return True
        if not index.is_in_service(number) or block.charge > index.capacity(number):
            return False
        victims = index.victims(number, lacking, self._store.now_s())
        if sum(victim.charge for victim in victims) < lacking:
            return False
        await self._store.make_way(victims)
        return block.charge <= index.capacity(number) - index.used(number)

    async def demote(self, block: Block) -> bool:
        """Moves a block from memory to a disk; whether it lives there now."""
        if block.tier not in self._memory or not block.is_evictable or block.state is not State.SEALED:
            return False
        for number in self._disks:
            if await self._move(block, number):
                self._metrics.demotions.add(1)
                return True
        return False

    async def _move(self, block: Block, to: int) -> bool:
        store = self._store
        if not store.index.begin_move(block, to, store.now_s()):
            return False
        copy = await self._copied(block, to)
        if copy is None:
            return False
        ghost = store.moved(block, copy)
        store.tiers[to].manner.steps("move.switched")
        self._metrics.moved.add(block.length, store.label(block))
        await store.unlink(ghost, sealed=True)
        return True

    async def _copied(self, block: Block, to: int) -> BlockFile | None:
        """A complete copy under its final name; ``None`` if a directory erred or the block has rotted: then nothing of
        the copy is left, and the block stays, or goes if it has rotted."""
        store, at_fault = self._store, block.tier
        try:
            source = await store.open(block)
            at_fault = to
            copy = await store.create_in(to, block)
            for extent in range(source.geometry.count):
                at_fault = block.tier
                data = await store.threads.run(source.read_extent, extent)
                at_fault = to
                await store.threads.run(_write_extent, copy, extent, data, source.crcs[extent])
            store.tiers[to].manner.steps("move.copied")
            await store.seal_in(to, block, copy)
            return copy
        except TierFailed as e:
            await self._abandon(block, to)
            if isinstance(e, Corrupt):
                await store.drop_rotten(block, e, found_by="move")
            else:
                store.health.failed(at_fault, e)
            return None

    async def _abandon(self, block: Block, to: int) -> None:
        """The copy goes."""
        store = self._store
        try:
            await store.threads.run(store.tiers[to].remove_all, block.block_id)
        except TierFailed as e:
            store.health.failed(to, e)
            store.health.remember(to, block.block_id)
        store.index.abandon_move(block)


def _write_extent(copy: BlockFile, extent: int, data: bytes, crc: int | None) -> None:
    if crc is None:
        raise Corrupt("an extent's checksum is not known", extent=extent)
    copy.write([data], copy.geometry.span(extent)[0])
    copy.land(extent, crc)
