"""The store: carries out what the index decides. Admission with eviction, files of blocks, sealing, leaving.

``fill.Filler`` brings the bytes in, ``reads.Reads`` hands them out; both go through here. All blocking work runs on
``IoThreads``; on the loop there are only decisions, so between two awaits the index is consistent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from forebay.runtime import logs
from forebay_worker import blockwork
from forebay_worker.block import Block, State
from forebay_worker.directory import TierDirectory
from forebay_worker.extents import Geometry
from forebay_worker.files import BlockFile, Corrupt, IoThreads, OpenFiles, TierFailed, translated
from forebay_worker.health import Health
from forebay_worker.held import HeldFiles
from forebay_worker.index import Reserved, StoreIndex
from forebay_worker.observe import WorkerMetrics
from forebay_worker.recovery import Mended
from forebay_worker.restart import Restart

EVICT_PERIOD_S = 0.5
"""How often the tiers are looked at without anybody pressing."""

SYNC_PERIOD_S = 5.0
"""How often small blocks are brought to the disk."""

DROPPED_HERE_BYTES = 1 << 20
"""A mapping of at most this much is undone at once: a thread would cost more."""


FORGOTTEN_AT_ONCE = 500
"""Blocks of a directory that went away that leave the index at a stretch."""


@dataclass
class _Leaving:
    """``file`` keeps the mapping until the thread that unlinks takes it: undoing it there spares the loop. ``gone``:
    its name is free."""

    block: Block
    gone: asyncio.Event
    file: list[BlockFile]


class Store:
    """Blocks of one worker in its tier directories."""

    def __init__(
        self,
        tiers: Sequence[TierDirectory],
        index: StoreIndex,
        threads: IoThreads,
        metrics: WorkerMetrics,
        *,
        files_max: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.index = index
        self.threads = threads
        self.tiers = tuple(tiers)
        self._metrics = metrics
        self._files = OpenFiles(files_max, self._let_go)
        self._clock = clock
        self._leaving: dict[Block, _Leaving] = {}
        self._going: dict[str, _Leaving] = {}
        self._mended: dict[Block, dict[int, int]] = {}
        self._pressed = asyncio.Event()
        self._log = logs.get("forebay_worker.store")
        self.restart = Restart(self.tiers, index, threads, clock)
        self.health = Health(
            self.tiers, index, threads, metrics, self.restart, clock=clock, on_gone=self._forget_directory
        )
        self.held = HeldFiles(threads, self.index.left)
        self.on_evicted: Callable[[Block], BlockFile | None] = lambda block: None
        """Told of a block that was still being filled, before its file goes; gives the file if it has it open."""
        self.on_rotten: Callable[[str], None] = lambda block_id: None
        """Told of a block that was dropped because it had rotted, and that nobody was reading."""
        self.demote: Callable[[Block], Awaitable[bool]] = _nowhere
        """Moves a block to a slower tier instead of evicting it; whether it could be."""

    # -- start

    async def prepare(self, boot_id: str) -> None:
        """What must be done before anything is served: see ``recovery.prepare``."""
        self.health.started(boot_id)
        await self.restart.prepare(boot_id)

    async def scan(self) -> None:
        """Takes in what the directories hold, then verifies half-filled blocks. A directory that errs is scanned again
        when it returns to service."""
        for number in range(len(self.tiers)):
            if self.restart.is_expected(number):
                try:
                    await self.restart.scan_tier(number)
                except TierFailed as e:
                    self.health.failed(number, e)

    async def mend_all(self) -> None:
        """Verifies what a crash left half-filled, one block after the other."""
        for block_id in self.restart.torn():
            await self.make_ready(block_id)

    async def restore(self, boot_id: str) -> None:
        """All of the start at once."""
        await self.prepare(boot_id)
        await self.scan()

    async def make_ready(self, block_id: str) -> None:
        """Before the index is asked for a block: it may lie in a directory whose scan has not ended, or be torn."""
        block = self.index.get(block_id)
        try:
            if block is None and self.restart.is_scanning:
                await self.restart.adopt(block_id)
            elif block is not None and self.restart.is_torn(block):
                await self._mend(block)
        except TierFailed as e:
            if block is not None:
                self.failed(block, e)
                await self._drop_torn(block)

    async def _mend(self, block: Block) -> None:
        mended = await self.restart.mend(block)
        if mended is None:
            await self._drop_torn(block)
        elif block.state is State.FILLING:
            self._take_mended(block, mended)

    async def _drop_torn(self, block: Block) -> None:
        """Of what a crash left of the block nothing is right, or it cannot be read."""
        if block.state is State.FILLING and block.is_evictable:
            self._log.info("torn_block_dropped", block_id=block.block_id)
            self.detach(block)
            await self.unlink(block, sealed=False)

    def _take_mended(self, block: Block, mended: Mended) -> None:
        for extent in mended.crcs:
            self.index.landed(block, extent)
        if mended.is_sealed:
            self.index.sealed(block, tuple(mended.crcs.values()))
        elif mended.crcs:
            self._mended[block] = mended.crcs

    # -- admission and eviction

    def now_s(self) -> float:
        """The clock that policies are told."""
        return self._clock()

    def read(self, block_id: str, dataset: str = "") -> bool:
        """Tells the policy of a read or a touch; whether the block is here. ``dataset`` is the mount, if known."""
        return self.index.read(block_id, self._clock(), dataset)

    async def admit(
        self, block_id: str, geometry: Geometry, dataset: str = "", *, is_spare: bool = False
    ) -> Block | None:
        """Reserves room for a block, without waiting for any to be made; the block that is here already if another
        came first; ``None`` if it cannot be kept now. ``is_spare``: see ``StoreIndex.reserve``."""
        await self.make_ready(block_id)
        outcome = self.index.get(block_id)
        if outcome is None and block_id in self._going:
            await self._has_left(block_id)
            outcome = self.index.get(block_id)
        if outcome is not None:
            return outcome
        reserved = self.index.reserve(block_id, geometry, dataset, self._clock(), is_spare=is_spare)
        if any(map(self.index.is_pressed, range(len(self.tiers)))):
            self._pressed.set()
        if isinstance(reserved, Reserved):
            return reserved.block
        self._metrics.refused.add(1, reserved.reason)
        return None

    def ask_room(self, wanted_bytes: int) -> None:
        """Eviction makes so much room, as far as something may go: blocks of these bytes are about to come."""
        if self.index.ask_room(wanted_bytes):
            self._pressed.set()

    async def _has_left(self, block_id: str) -> None:
        """Waits for a block whose file is being unlinked right now: its successor must not be asked for twice."""
        leaving = self._going[block_id]
        if leaving.block.is_going:
            await leaving.gone.wait()

    async def evict(self, victims: Iterable[Block], cause: str = "room") -> None:
        """Lets blocks go, those that are still evictable: all of them at once, so that others count on their room."""
        chosen = [(block, block.state is State.SEALED) for block in victims if block.is_evictable]
        for block, _ in chosen:
            self.detach(block)
            self._metrics.evictions.add(1, self.label(block), self.index.policy(block.tier).name, cause)
            self._metrics.evicted_bytes.add(block.length, self.label(block))
        removing = [self._unlink(block, sealed=sealed) for block, sealed in chosen]
        if removing:
            await asyncio.wait(removing)

    async def make_room(self) -> None:
        """One pass of background eviction over all tiers, the slowest first: the faster ones demote into it."""
        for number in reversed(range(len(self.tiers))):
            excess = self.index.excess(number)
            if excess:
                await self.make_way(self.index.victims(number, excess, self._clock()))

    async def make_way(self, victims: Iterable[Block]) -> None:
        """Demotes blocks where there is a slower tier with room, and evicts the rest."""
        await self.evict([block for block in victims if not await self.demote(block)])

    def press(self) -> None:
        """Eviction looks at the tiers now."""
        self._pressed.set()

    async def keep_room(self) -> None:
        """Evicts in the background for ever: when an admission found too little room, and now and then."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVICT_PERIOD_S):
                    await self._pressed.wait()
            self._pressed.clear()
            await self.make_room()

    def detach(self, block: Block) -> None:
        """No read finds the block any more."""
        is_filling = block.state in {State.FILLING, State.SEALING}
        file = self.on_evicted(block) if is_filling else self._files.take(block.block_id)
        self._mended.pop(block, None)
        self.restart.forget(block)
        self.index.leave(block)
        self.leaves(block, file)

    def leaves(self, block: Block, file: BlockFile | None) -> None:
        """A LEAVING block of the index whose file is to be unlinked; ``file`` if it is open here."""
        leaving = _Leaving(block, asyncio.Event(), [] if file is None else [file])
        self._leaving[block] = self._going[block.block_id] = leaving

    async def unlink(self, block: Block, *, sealed: bool) -> None:
        """Removes a leaving block's file; its capacity comes back when the file is gone and nobody has it open, even
        if nobody waits."""
        await asyncio.wait([self._unlink(block, sealed=sealed)])

    def _unlink(self, block: Block, *, sealed: bool) -> asyncio.Future[int | None]:
        files, self._leaving[block].file = self._leaving[block].file, []
        removing = self.threads.start(blockwork.remove, self.tiers[block.tier], block.block_id, sealed, files)
        removing.add_done_callback(partial(self._unlinked, block, sealed))
        return removing

    def _unlinked(self, block: Block, sealed: bool, removing: asyncio.Future[int | None]) -> None:
        error = None if removing.cancelled() else removing.exception()
        held_fd = None if removing.cancelled() or error is not None else removing.result()
        if isinstance(error, OSError):  # the file may stay: its capacity is given back, but the tier is out of service
            self.failed(block, translated(error))
            self.health.remember(block.tier, block.block_id)
        if held_fd is not None and self.held.hold(block, held_fd):
            self.index.unnamed(block)
        else:
            self.index.left(block)
        self._has_gone(block)

    def _has_gone(self, block: Block) -> None:
        leaving = self._leaving.pop(block)
        if self._going.get(block.block_id) is leaving:
            del self._going[block.block_id]
        leaving.gone.set()

    async def _forget_directory(self, number: int) -> None:
        """A tier directory is not there any more: its blocks leave the index, those that are still being written when
        their own writers notice."""
        for count, block_id in enumerate(self.index.ids(number)):
            block = self.index.get(block_id)
            if block is not None and block.tier == number and block.busy == 0 and block.state is not State.SEALING:
                self.detach(block)
                self.index.left(block)
                self._has_gone(block)
            if count % FORGOTTEN_AT_ONCE == FORGOTTEN_AT_ONCE - 1:
                await asyncio.sleep(0)

    # -- files

    async def create(self, block: Block) -> BlockFile:
        """The file of a block whose room is reserved: empty, or with what a crash left and was verified since.

        Raises:
            TierFailed: the directory erred.
        """
        tier, present = self.tiers[block.tier], self._mended.pop(block, None)
        return await self.threads.run(blockwork.create, tier, block.block_id, block.length, block.dataset, present)

    async def seal(self, block: Block, file: BlockFile) -> None:
        """Makes a complete block durable under its final name. One that was given up meanwhile loses it again.

        Raises:
            TierFailed: the directory erred.
        """
        crcs = file.all_crcs()
        await self.threads.run(blockwork.seal, self.tiers[block.tier], block.block_id, file, crcs, block.dataset)
        if block.state is not State.SEALING:
            await self.take_name(block)
            return
        self.index.sealed(block, crcs)
        self._files.put(block.block_id, file)

    async def take_name(self, block: Block) -> None:
        """Unlinks what was sealed after its block had been given up. The block's own ``unlink`` comes after this, and
        its id is not admitted anew before that."""
        try:
            await self.threads.run(self.tiers[block.tier].remove, block.block_id, sealed=True)
        except TierFailed as e:
            self.health.failed(block.tier, e)
            self.health.remember(block.tier, block.block_id)

    async def put_small(self, block: Block, data: bytes, *, is_read: bool) -> BlockFile:
        """Writes and seals a block of one extent at once; ``sealed_small`` makes it the index's. On tmpfs that is done
        right here (0.1 ms for 100 KiB, as much as handing it to a thread costs, and nothing there to wait for).
        ``is_read``: somebody is about to read it; ``sealed_small`` is told the same.

        Raises:
            TierFailed: the directory erred.
        """
        tier = self.tiers[block.tier]
        if not tier.in_memory:
            return await self.threads.run(blockwork.put, tier, block.block_id, data, block.dataset, is_read=is_read)
        try:
            return blockwork.put(tier, block.block_id, data, block.dataset, is_read=is_read)
        except OSError as e:
            raise translated(e) from e

    def sealed_small(self, block: Block, file: BlockFile, *, is_read: bool) -> None:
        """What ``put_small`` wrote is the block from now on. The file stays open only for readers."""
        self.index.landed(block, 0)
        self.index.sealed(block, file.all_crcs())
        if is_read:
            self._files.put(block.block_id, file)

    async def create_in(self, number: int, block: Block) -> BlockFile:
        """The empty file of a copy of a block in another tier. Raises ``TierFailed``."""
        tier = self.tiers[number]
        return await self.threads.run(blockwork.create, tier, block.block_id, block.length, block.dataset, None)

    async def seal_in(self, number: int, block: Block, copy: BlockFile) -> None:
        """Gives a complete copy its final name. Raises ``TierFailed``."""
        await self.threads.run(blockwork.seal, self.tiers[number], block.block_id, copy, copy.all_crcs(), block.dataset)

    def moved(self, block: Block, copy: BlockFile) -> Block:
        """The copy is the block from now on; what has to be unlinked in the old tier."""
        ghost = self.index.end_move(block, self._clock())
        self.leaves(ghost, self._files.take(block.block_id))
        self._files.put(block.block_id, copy)
        return ghost

    def opened(self, block: Block) -> BlockFile | None:
        """The file of a sealed block if it is open; this is the warm path."""
        return self._files.get(block.block_id)

    def crcs(self, block: Block) -> tuple[int, ...]:
        """CRC32C sums of a sealed block's extents, if they are at hand."""
        if block.crcs:
            return block.crcs
        file = self._files.get(block.block_id)
        return () if file is None else file.all_crcs()

    async def open(self, block: Block) -> BlockFile:
        """The file of a sealed block.

        Raises:
            TierFailed: it cannot be opened.
            Corrupt: it is not as long as it was, or its checksums are lost.
        """
        while (file := self._files.get(block.block_id)) is None:
            tier = block.tier
            try:
                file = await self.threads.run(
                    blockwork.open_sealed, self.tiers[tier], block.block_id, block.length, block.crcs
                )
            except TierFailed:
                if block.tier == tier or block.state is not State.SEALED:
                    raise
                continue  # it moved to another tier meanwhile
            if self.index.get(block.block_id) is not block or block.tier != tier:
                return file
            if self._files.get(block.block_id) is None:
                self._files.put(block.block_id, file)
        return file

    # -- health

    def failed(self, block: Block, error: TierFailed) -> None:
        """Reading or writing a block failed: bad bytes are the block's fault, anything else its directory's."""
        if isinstance(error, Corrupt):
            self.corrupt(block, error, found_by="read")
        else:
            self.health.failed(block.tier, error)

    def corrupt(self, block: Block, error: Corrupt, *, found_by: str) -> None:
        """A block's bytes are not what was written."""
        self._metrics.corrupt.add(1, self.label(block), found_by)
        path = str(self.tiers[block.tier].spec.path)
        self._log.error("corrupt_block", path=path, block_id=block.block_id, found_by=found_by, error=error.message)

    async def drop_rotten(self, block: Block, error: Corrupt, *, found_by: str) -> None:
        """A block that nobody reads turned out to have rotted."""
        self.corrupt(block, error, found_by=found_by)
        await self.discard(block)
        if self.index.get(block.block_id) is None:
            self.on_rotten(block.block_id)

    async def discard(self, block: Block) -> None:
        """Lets go of a sealed block that cannot be read or is not what it should be. (One on the move is left to its
        mover, which reads and compares all of it.)"""
        if block.state is State.SEALED and block.moving_to is None:
            self.detach(block)
            await self.unlink(block, sealed=True)

    def label(self, block: Block) -> str:
        """The tier's metric label and source name: ``mem`` or ``ssd``."""
        return self.tiers[block.tier].spec.tier.lower()

    def _let_go(self, file: BlockFile) -> None:
        if file.length > DROPPED_HERE_BYTES:
            self.threads.start(blockwork.drop, file)

    async def sync(self) -> None:
        """Brings small blocks to the disks, so that another boot of the machine finds them trustworthy."""
        for number, tier in enumerate(self.tiers):
            if self.index.is_in_service(number):
                try:
                    await self.threads.run(tier.sync)
                except TierFailed as e:
                    self.health.failed(number, e)

    async def keep_synced(self) -> None:
        """``sync`` for ever."""
        while True:
            await asyncio.sleep(SYNC_PERIOD_S)
            await self.sync()
            await self.shorten_logs()

    async def shorten_logs(self) -> None:
        """Logs of small blocks that mostly speak of blocks that are gone are written anew."""
        for number, tier in enumerate(self.tiers):
            log = tier.log
            if log is None or self.restart.is_expected(number) or not self.index.is_in_service(number):
                continue
            if log.is_wasteful(len(self.index.policy(number))):
                until, names = log.end, self.index.ids(number)  # at one moment: who comes later stands behind it
                try:
                    await self.threads.run(blockwork.shorten, log, names, until)
                except TierFailed as e:
                    self.health.failed(number, e)

    def close(self) -> None:
        """Ends the threads and lets go of the files; sealed blocks stay. The directories' opener closes them."""
        self._files.clear()
        self.threads.close()
        self.held.close()


async def _nowhere(block: Block) -> bool:
    return False
