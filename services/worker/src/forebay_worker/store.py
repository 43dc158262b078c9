"""The store: carries out what the index decides. Admission with eviction, files of blocks, sealing, leaving.

``fill.Filler`` brings the bytes in, ``reads.Reads`` hands them out; both go through here. All blocking work runs on
``IoThreads``; on the loop there are only decisions, so between two awaits the index is consistent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from forebay.runtime import logs
from forebay_worker.extents import Geometry
from forebay_worker.files import BlockFile, IoThreads, OpenFiles, TierFailed, translated
from forebay_worker.index import Block, Reserved, State, StoreIndex
from forebay_worker.observe import WorkerMetrics
from forebay_worker.tiers import Scan, TierDirectory

EVICT_PERIOD_S = 0.5
"""How often the tiers are looked at without anybody pressing."""

RETIRED_S = 30.0
"""How long a tier directory that erred takes no new blocks."""


@dataclass
class _Leaving:
    """``file`` keeps the mapping until the thread that unlinks takes it: undoing it there spares the loop."""

    block: Block
    gone: asyncio.Event
    file: BlockFile | None


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
        self._leaving: dict[str, _Leaving] = {}
        self._pressed = asyncio.Event()
        self._retired_until = [0.0] * len(self.tiers)
        self._log = logs.get("forebay_worker.store")
        self.on_evicted: Callable[[Block], BlockFile | None] = lambda block: None
        """Told of a block that was still being filled, before its file goes; gives the file if it has it open."""

    # -- start

    async def restore(self, boot_id: str) -> None:
        """Takes in what the directories hold; what has no room any more (a smaller capacity) is unlinked."""
        for number, tier in enumerate(self.tiers):
            scan = await self.threads.run(tier.scan, boot_id)
            dropped = 0
            for found in reversed(scan.blocks):  # the newest first, as long as there is room
                if self.index.restore(found.block_id, found.length, number, self._clock()) is None:
                    await self.threads.run(tier.remove, found.block_id, sealed=True)
                    dropped += 1
            for found in scan.blocks:  # and the newest is the youngest
                self.read(found.block_id)
            self._tell(tier, scan, dropped)

    def _tell(self, tier: TierDirectory, scan: Scan, dropped: int) -> None:
        self._log.info(
            "tier_opened",
            tier=tier.spec.tier,
            path=str(tier.spec.path),
            capacity_bytes=tier.spec.capacity_bytes,
            in_memory=tier.in_memory,
            blocks=len(scan.blocks) - dropped,
            torn=scan.torn,
            unsafe=scan.unsafe,
            dropped=dropped,
        )
        if scan.unknown:
            self._log.warning("unknown_files_left_alone", path=str(tier.spec.path), names=list(scan.unknown))

    # -- admission and eviction

    def read(self, block_id: str, dataset: str = "") -> bool:
        """Tells the policy of a read or a touch; whether the block is here. ``dataset`` is the mount, if known."""
        return self.index.read(block_id, self._clock(), dataset)

    async def admit(
        self, block_id: str, geometry: Geometry, dataset: str = "", *, is_spare: bool = False
    ) -> Block | None:
        """Reserves room for a block, without waiting for any to be made; the block that is here already if another
        came first; ``None`` if it cannot be kept now. ``is_spare``: see ``StoreIndex.reserve``."""
        self._return_tiers()
        outcome = self.index.get(block_id)
        if outcome is None and block_id in self._leaving:
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

    async def _has_left(self, block_id: str) -> None:
        """Waits for a block whose file is being unlinked right now: its successor must not be asked for twice."""
        leaving = self._leaving[block_id]
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
        """One pass of background eviction over all tiers."""
        for number in range(len(self.tiers)):
            excess = self.index.excess(number)
            if excess:
                await self.evict(self.index.victims(number, excess, self._clock()))

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
        self.index.leave(block)
        self._leaving[block.block_id] = _Leaving(block, asyncio.Event(), file)

    async def unlink(self, block: Block, *, sealed: bool) -> None:
        """Removes a leaving block's file; its capacity comes back when the file is gone, even if nobody waits."""
        await asyncio.wait([self._unlink(block, sealed=sealed)])

    def _unlink(self, block: Block, *, sealed: bool) -> asyncio.Future[None]:
        leaving = self._leaving[block.block_id]
        file, leaving.file = leaving.file, None
        removing = self.threads.start(_remove, self.tiers[block.tier], block.block_id, sealed, file)
        removing.add_done_callback(partial(self._unlinked, block))
        return removing

    def _unlinked(self, block: Block, removing: asyncio.Future[None]) -> None:
        error = None if removing.cancelled() else removing.exception()
        if isinstance(error, OSError):  # the file may stay: its capacity is given back, but the tier is out of service
            self.failed(block, translated(error))
        self.index.left(block)
        self._leaving.pop(block.block_id).gone.set()

    # -- files

    async def create(self, block: Block) -> BlockFile:
        """The empty file of a block whose room is reserved.

        Raises:
            TierFailed: the directory erred.
        """
        return await self.threads.run(_create, self.tiers[block.tier], block.block_id, block.length)

    async def seal(self, block: Block, file: BlockFile, crcs: tuple[int, ...]) -> None:
        """Makes a complete block durable under its final name.

        Raises:
            TierFailed: the directory erred.
        """
        await self.threads.run(self.tiers[block.tier].seal, block.block_id, file.fd, block.length)
        file.crcs = crcs
        self.index.sealed(block, crcs)
        self._files.put(block.block_id, file)

    def opened(self, block: Block) -> BlockFile | None:
        """The file of a sealed block if it is open; this is the warm path."""
        return self._files.get(block.block_id)

    def crcs(self, block: Block) -> tuple[int, ...]:
        """CRC32C sums of a sealed block's extents, if they are at hand."""
        if block.crcs:
            return block.crcs
        file = self._files.get(block.block_id)
        return () if file is None else file.crcs

    async def open(self, block: Block) -> BlockFile:
        """The file of a sealed block.

        Raises:
            TierFailed: it cannot be opened, or is not as long as it was.
        """
        file = self._files.get(block.block_id)
        if file is not None:
            return file
        file = await self.threads.run(_open, self.tiers[block.tier], block.block_id)
        if file.length != block.length:
            raise TierFailed("a block file changed its length", length=file.length, expected=block.length)
        if self.index.get(block.block_id) is block:
            self._files.put(block.block_id, file)
        return file

    # -- health

    def failed(self, block: Block, error: TierFailed) -> None:
        """A block's directory erred: no new blocks for a while. A single file that is missing or of the wrong length
        is the file's fault, not the directory's."""
        self._log.warning("tier_error", path=str(self.tiers[block.tier].spec.path), error=error.message)
        self._metrics.tier_errors.add(1, self.label(block))
        if error.details.get("errno") not in {None, "ENOENT"}:
            self._retired_until[block.tier] = self._clock() + RETIRED_S
            self.index.retire(block.tier)

    async def discard(self, block: Block) -> None:
        """Lets go of a sealed block that cannot be read or is not what it should be."""
        if block.state is State.SEALED:
            self.detach(block)
            await self.unlink(block, sealed=True)

    def label(self, block: Block) -> str:
        """The tier's metric label and source name: ``mem`` or ``ssd``."""
        return self.tiers[block.tier].spec.tier.lower()

    def _let_go(self, file: BlockFile) -> None:
        self.threads.start(_drop, file)

    def _return_tiers(self) -> None:
        for number, until in enumerate(self._retired_until):
            if until and self._clock() >= until:
                self._retired_until[number] = 0.0
                self.index.return_to_service(number)

    def close(self) -> None:
        """Ends the threads and lets go of the files; sealed blocks stay. The directories' opener closes them."""
        self._files.clear()
        self.threads.close()


# Run on a thread and return the owner of the descriptor, so that it closes even if nobody waits for it any more.


def _create(tier: TierDirectory, block_id: str, length: int) -> BlockFile:
    return BlockFile(tier.create_part(block_id, length), length, in_memory=tier.in_memory)


def _open(tier: TierDirectory, block_id: str) -> BlockFile:
    fd, length = tier.open_block(block_id)
    return BlockFile(fd, length, in_memory=tier.in_memory)


def _remove(tier: TierDirectory, block_id: str, sealed: bool, file: BlockFile | None) -> None:
    """``file`` comes along to be let go of here: the last user of an unlinked file waits while its pages are freed."""
    tier.remove(block_id, sealed=sealed)


def _drop(file: BlockFile) -> None:
    """Lets go of a file on a thread."""
