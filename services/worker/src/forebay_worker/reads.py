"""Answers reads: from the tiers, from a fill as its extents arrive, or past the tiers.

A read of bytes that are all present in memory never waits: ``at_once`` gives a slice of the mapping. Everything else
is a ``Body``: its first piece decides the status of the answer, so it is awaited before the head is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from forebay.contracts.blocks import ByteRange
from forebay.contracts.blocks import Source as SourceName
from forebay.errors import InternalError, NotCached
from forebay_worker.access import Asked
from forebay_worker.block import Block, State
from forebay_worker.files import BlockFile, Corrupt, TierFailed
from forebay_worker.fill import Abandoned, Filler, Filling
from forebay_worker.hints import Hints
from forebay_worker.moves import Mover
from forebay_worker.observe import WorkerMetrics
from forebay_worker.peers import PeerSource
from forebay_worker.routing import ReadOptions, Route, route
from forebay_worker.sources import BlockSource, closing
from forebay_worker.store import Store

Piece = bytes | memoryview

ROUNDS_MAX = 2
"""Tries of one read to have its bytes from a tier: once more after a block had to be dropped."""


@dataclass(frozen=True)
class Read:
    """One read of a block: which bytes, how, and where they come from when they are not here.

    ``keeps``: a copy is kept although another worker is home. ``overflow``: where they come from if the policy does
    not admit the block. ``completes``: the rest of the block follows in the background.
    """

    asked: Asked
    part: ByteRange
    options: ReadOptions
    source: BlockSource
    has_home_elsewhere: bool
    keeps: bool = False
    overflow: PeerSource | None = None

    @property
    def completes(self) -> bool:
        """A block read from its start is completed by those who own it (or stand in for its home)."""
        return self.part.start == 0 and (self.keeps or not self.has_home_elsewhere)

    @property
    def is_spare(self) -> bool:
        """Whether only room that nobody needs may be taken: a copy of what another worker is home of, on request."""
        return self.options.is_spare and self.has_home_elsewhere and not self.keeps

    @property
    def offered_to(self) -> str | None:
        """The member that answered in this worker's stead, because the policy here did not admit the block."""
        return self.overflow.served_by if self.overflow is not None else None

    def source_name(self) -> SourceName:
        """Where bytes that are not here come from, as far as that is known by now."""
        return "peer" if self.offered_to is not None else self.source.name


@dataclass(frozen=True)
class Body:
    """An answer whose first piece is there. Close ``rest`` whatever happens: it holds the block."""

    source: SourceName
    first: Piece
    rest: AsyncIterator[Piece]


class Reads:
    """All reads of one worker. ``passive``: keep copies of what was read through a home."""

    def __init__(
        self,
        store: Store,
        filler: Filler,
        metrics: WorkerMetrics,
        *,
        passive: bool,
        mover: Mover | None = None,
        order: Hints | None = None,
    ) -> None:
        self._order = Hints(0) if order is None else order
        self._mover = mover
        self._store = store
        self._filler = filler
        self._metrics = metrics
        self.passive = passive

    def at_once(self, asked: Asked, part: ByteRange) -> tuple[Block, memoryview] | None:
        """The bytes, if they lie mapped in memory; the caller leases the block while it sends them."""
        block = self._store.index.get(asked.block_id)
        if block is None or block.state is not State.SEALED or block.length != asked.length:
            return None
        file = self._store.opened(block)
        if file is None or file.view is None or not file.is_checked:
            return None
        if self._mover is not None and self._mover.wants(block):
            return None
        self._store.read(block.block_id, asked.target.mount_id)
        return block, file.view[part.start : part.stop]

    def crcs(self, block_id: str) -> tuple[int, ...]:
        """CRC32C sums by extent of a complete block, if they are at hand."""
        block = self._store.index.get(block_id)
        return () if block is None or block.state is not State.SEALED else self._store.crcs(block)

    async def open(self, read: Read) -> Body:
        """The answer to a read.

        Raises:
            NotCached: ``only-if-cached``, and it is not here.
            ForebayError: whatever kept the first byte from coming.
        """
        asked, part = read.asked, read.part
        await self._store.make_ready(asked.block_id)
        block = self._store.index.get(asked.block_id)
        fitting = block is None or block.length == asked.length
        here = block is not None and fitting and block.extents.present_until(part.start, part.stop) == part.stop
        way = route(
            read.options,
            is_here=here,
            is_fitting=fitting,
            has_home_elsewhere=read.has_home_elsewhere,
            passive=self.passive or read.keeps or read.options.is_spare,
        )
        if way is Route.NOT_CACHED:
            raise NotCached("the bytes are not here", block_id=asked.block_id)
        if block is not None and not fitting:
            return await _begin(read.source_name, self._judged(read, block))
        if way is Route.THROUGH:
            return await _begin(read.source_name, self._through(read.source, part.start, part.stop))
        self._store.read(asked.block_id, asked.target.mount_id)
        if here and block is not None:
            if read.options.read_type == "CACHE_PROMOTE" and self._mover is not None:
                self._mover.promote(block)
            tier = self._tier_name(block)
            return await _begin(lambda: tier, self._kept(read))
        return await _begin(read.source_name, self._kept(read))

    async def _kept(self, read: Read) -> AsyncIterator[Piece]:
        """From a block that is here or is being filled; filled anew from where its bytes turn out to have rotted; past
        the tiers from where a directory errs."""
        position, stop = read.part.start, read.part.stop
        beyond: BlockSource = read.source
        for _ in range(ROUNDS_MAX):
            is_corrupt = False
            block = await self._admitted(read)
            if block is None:
                if read.overflow is not None and self._may_overflow(read.asked.block_id):
                    beyond = read.overflow
                break
            self._store.index.lease(block)
            at = block.tier
            try:
                rest = replace(read, part=ByteRange(position, stop))
                async with closing(self._from_block(rest, block)) as pieces:
                    async for piece in pieces:
                        yield piece
                        position += len(piece)
            except TierFailed as e:
                is_corrupt = isinstance(e, Corrupt)
                await self._lost(block, at, e)
            except Abandoned:
                pass  # given up between two looks at it; go on past it
            finally:
                self._store.index.release(block)
            if position == stop or not is_corrupt:
                break
        if position < stop:
            async with closing(self._through(beyond, position, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _lost(self, block: Block, at: int, error: TierFailed) -> None:
        """The block's bytes cannot be read: it goes, whatever its state, if it is still where they were read."""
        filling = self._filler.get(block)
        if filling is not None:
            self._filler.unreadable(filling, error)
        elif self._store.index.is_at(block, at):
            self._store.failed(block, error)
            await self._store.discard(block)

    def _may_overflow(self, block_id: str) -> bool:
        """Whether another worker may keep the block instead: not one of an order, which will be fetched here."""
        return self._store.index.get(block_id) is None and not self._order.knows(block_id)

    async def _admitted(self, read: Read) -> Block | None:
        block = self._store.index.get(read.asked.block_id)
        if block is None and self._order.is_past(read.asked.block_id):
            return None
        if block is None or block.state is State.FILLING:
            block = await self._filler.admit(read.asked, read.source, is_spare=read.is_spare)
            if block is None:
                self._order.goes_past(read.asked.block_id)
        if block is not None and block.length != read.asked.length:
            return None
        return block

    async def _from_block(self, read: Read, block: Block) -> AsyncIterator[Piece]:
        filling = self._filler.get(block)
        if filling is not None:
            async with closing(self._from_filling(read, filling)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        file = await self._store.open(block)
        name = self._tier_name(block)
        async for piece in file.read(read.part.start, read.part.stop, self._store.threads):
            yield self._counted(piece, name)

    async def _from_filling(self, read: Read, filling: Filling) -> AsyncIterator[Piece]:
        """Extent by extent as they arrive; what is present already counts as the tier's."""
        block, part = filling.block, read.part
        extents = block.extents
        missing = extents.missing(extents.geometry.touched(part.start, part.stop))
        reader = self._filler.want(filling, missing)
        if read.completes:
            self._filler.complete(filling)
        tier, awaited, position = self._tier_name(block), frozenset(missing), part.start
        try:
            while position < part.stop:
                extent = position // extents.geometry.extent_size
                if extent not in extents:
                    await self._filler.wait(filling, reader, extent)
                    continue
                file = await self._file_of(filling)
                until = min(part.stop, extents.geometry.span(extent)[1])
                name = filling.source.name if extent in awaited else tier
                async for piece in file.read(position, until, self._store.threads):
                    yield self._counted(piece, name)
                position = until
        finally:
            self._filler.unwant(filling, reader)

    async def _file_of(self, filling: Filling) -> BlockFile:
        """The file of a block of which something is present; it may have been sealed meanwhile."""
        if self._filler.get(filling.block) is filling or filling.block.state is not State.SEALED:
            return await self._filler.opened(filling)
        return await self._store.open(filling.block)

    async def _through(self, source: BlockSource, start: int, stop: int) -> AsyncIterator[Piece]:
        """Past the tiers."""
        left = stop - start
        async with closing(source.read(start, left)) as pieces:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise InternalError("a source gave more than it was asked for", extra_bytes=-left)
                yield self._counted(piece, source.name)
        if left:
            raise InternalError("a source gave less than it was asked for", missing_bytes=left)

    async def _judged(self, read: Read, block: Block) -> AsyncIterator[Piece]:
        """Past the tiers because client and block disagree on the length: the under store says who is right. If it is
        the client, the block here is wrong and goes."""
        is_first = True
        async with closing(self._through(read.source, read.part.start, read.part.stop)) as pieces:
            async for piece in pieces:
                if is_first:
                    await self._store.discard(block)
                    is_first = False
                yield piece

    def _counted(self, piece: Piece, name: SourceName) -> Piece:
        self._metrics.served.add(len(piece), name)
        return piece

    def _tier_name(self, block: Block) -> SourceName:
        return "ssd" if self._store.label(block) == "ssd" else "mem"


async def _begin(name: Callable[[], SourceName], pieces: AsyncIterator[Piece]) -> Body:
    """Waits for the first piece, so that what fails before it is an error answer and not a broken body; ``name`` says
    where it came from."""
    try:
        first = await anext(pieces)
        return Body(name(), first, pieces)
    except StopAsyncIteration as e:
        raise InternalError("a read gave no bytes") from e
