"""Fills blocks: streams take runs of extents from the queue, read them from a source and write them into the file.

The tasks belong to the service, not to the readers: a reader that goes away withdraws its wishes and harms no one
else's. What a failure costs: a source that is unavailable costs the run (its waiters get the error, the rest of the
block stays); a version that is gone, or a tier directory that errs, costs the block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import google_crc32c

from forebay.errors import ForebayError, InternalError, NotCached, NotFound, StaleVersion
from forebay.runtime import logs
from forebay_worker.access import Asked
from forebay_worker.block import Block, State
from forebay_worker.files import BlockFile, TierFailed
from forebay_worker.goodput import Bounds, Plan
from forebay_worker.lanes import Lanes
from forebay_worker.observe import WorkerMetrics
from forebay_worker.queue import FillQueue, Run
from forebay_worker.sources import BlockSource, closing
from forebay_worker.store import Store

WRITE_BYTES = 512 << 10
"""Pieces are gathered to this much before a thread writes them: a hop costs as much as copying 100 KiB."""

SUM_BYTES = 128 << 10
"""The checksum takes bytes objects alone, so what it sums is copied; this much stays in the processor's cache."""

SMALL_BYTES = 512 << 10

ATTEMPTS_MAX = 3
BACKOFF_S = 0.1
"""Tries of one run while the source says that trying again may help; the wait doubles, give or take a half."""


class Abandoned(ForebayError):
    """The block was given up because nobody wanted it; who comes at that moment reads past the tier. Never leaves
    the worker."""


def fresh(error: ForebayError) -> ForebayError:
    """The same error without its history: a traceback holds on to frames, and they to the block's file."""
    return type(error)(error.message, **error.details)


class Spawner(Protocol):
    """Owns tasks; ``runtime.Supervisor`` is one."""

    def spawn(self, name: str, coro: Coroutine[Any, Any, None]) -> None:
        """Starts a task."""


@dataclass(eq=False)
class Filling:
    """A block that is not complete yet. ``error`` is set once it is given up;
    ``context`` is the last reader's, so that a run belongs to the trace of one who wants its block."""

    block: Block
    file_size: int
    source: BlockSource
    opened: asyncio.Future[None]
    context: Context
    file: BlockFile | None = None
    waiters: dict[int, set[asyncio.Future[None]]] = field(default_factory=dict)
    error: ForebayError | None = None
    is_read: bool = False
    """Whether a reader asked for bytes of it; otherwise it is filled for later."""

    @property
    def is_small(self) -> bool:
        """Whether it is fetched in one piece, and written and sealed in one step."""
        return self.block.extents.geometry.count == 1 and self.block.length <= SMALL_BYTES

    def is_over(self) -> bool:
        """Whether it was given up (asked anew after each await)."""
        return self.error is not None

    def wake(self, extent: int, error: ForebayError | None = None) -> None:
        """Lets go of those who wait for an extent."""
        for waiter in self.waiters.pop(extent, ()):
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(fresh(error))


class Filler:
    """All fills of one worker. ``lanes`` tune the sources; without them all have the queue's streams and
    ``run_extents_max``. Sources that are not atomic are read extent by extent."""

    def __init__(
        self,
        store: Store,
        queue: FillQueue,
        spawner: Spawner,
        metrics: WorkerMetrics,
        *,
        run_extents_max: int = 1,
        lanes: Lanes | None = None,
    ) -> None:
        fixed = Plan(queue.streams_max, run_extents_max)
        bounds = Bounds(fixed, streams_max=fixed.streams, run_extents_max=fixed.run_extents)
        self._lanes = lanes or Lanes(queue, metrics, bounds, tunes=False)
        self._store = store
        self._queue = queue
        self._spawner = spawner
        self._metrics = metrics
        self._fillings: dict[str, Filling] = {}
        self._readers = count()
        self._closed = False
        self._log = logs.get("forebay_worker.fill")
        store.on_evicted = self._forget
        self.on_missed: Callable[[Asked], None] = lambda asked: None
        """Told of a block that is asked for and not complete here."""

    # -- for readers

    async def admit(
        self, asked: Asked, source: BlockSource, *, is_spare: bool = False, context: Context | None = None
    ) -> Block | None:
        """The block, being filled or complete; ``None`` if it cannot be kept, or is being filled by another claim
        about the file's size (the under store judges each by itself). ``source`` is used from now on: a newer
        reader's rights live longer. ``context``: the caller's, if one is for many blocks."""
        self.on_missed(asked)
        block = await self._store.admit(asked.block_id, asked.geometry, asked.target.mount_id, is_spare=is_spare)
        if block is None or block.state is not State.FILLING:
            return block
        filling = self._fillings.get(asked.block_id)
        if filling is None:
            self._start(block, asked.target.size, source, context or copy_context())
        elif filling.file_size != asked.target.size:
            return None
        else:
            filling.source = source
            filling.context = context or copy_context()
        return block

    def get(self, block: Block) -> Filling | None:
        """How a block is being filled; ``None`` once it is sealed or given up."""
        filling = self._fillings.get(block.block_id)
        return filling if filling is not None and filling.block is block else None

    def unreadable(self, filling: Filling, error: TierFailed) -> None:
        """What was written cannot be read back: the block is given up."""
        if filling.error is None:
            filling.block.busy += 1
            self._give_up(filling, error)
            self._rest(filling)

    def complete(self, filling: Filling) -> None:
        """Fills the rest of the block in the background."""
        if filling.block.state is State.FILLING and filling.error is None:
            self._queue.complete(filling.block.block_id)
            self._pump()

    async def begin(self, asked: Asked, source: BlockSource, context: Context | None = None) -> Filling | None:
        """Fills all of a block in the background; ``None`` if it is here already. ``context`` as for ``admit``.

        Raises:
            NotCached: it cannot be kept.
        """
        block = await self.admit(asked, source, context=context)
        if block is None or block.length != asked.length:
            raise NotCached("the block cannot be kept here", block_id=asked.block_id)
        filling = self.get(block)
        if filling is not None:
            self.complete(filling)
        return filling

    async def finished(self, filling: Filling) -> None:
        """Until all of a block is here. Raises as ``wait``."""
        reader = self.want(filling, [])
        try:
            for extent in range(filling.block.extents.geometry.count):
                await self.wait(filling, reader, extent)
        finally:
            self.unwant(filling, reader)

    def want(self, filling: Filling, extents: list[int]) -> int:
        """A new reader waits for extents; returns its number for ``wait`` and ``unwant``."""
        reader = next(self._readers)
        filling.is_read = filling.is_read or bool(extents)
        if filling.block.state is State.FILLING and extents:
            self._metrics.joins.add(self._queue.want(filling.block.block_id, reader, extents))
            self._pump()
        return reader

    def unwant(self, filling: Filling, reader: int) -> None:
        """The reader is gone."""
        if self._fillings.get(filling.block.block_id) is filling:
            self._queue.unwant(filling.block.block_id, reader)

    async def opened(self, filling: Filling) -> BlockFile:
        """The block's file, for reading what is present.

        Raises:
            ForebayError: it could not be made, or the block was given up.
        """
        await asyncio.shield(filling.opened)
        if filling.file is None:
            raise fresh(filling.error or Abandoned("the block left"))
        return filling.file

    async def wait(self, filling: Filling, reader: int, extent: int) -> None:
        """Until the extent is present.

        Raises:
            ForebayError: its run failed, or the block was given up.
        """
        if filling.error is not None:
            raise fresh(filling.error)
        block = filling.block
        if block.state is not State.FILLING or extent in block.extents:
            return
        if not self._queue.is_wanted(block.block_id, reader, extent):
            self._queue.want(block.block_id, reader, [extent])
            self._pump()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        filling.waiters.setdefault(extent, set()).add(waiter)
        try:
            await waiter
        finally:
            filling.waiters.get(extent, set()).discard(waiter)
            del waiter  # it holds the error, and the error's traceback this frame

    # -- the fill itself

    def _start(self, block: Block, file_size: int, source: BlockSource, context: Context) -> None:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        filling = self._fillings[block.block_id] = Filling(block, file_size, source, opened, context)
        self._lanes.enter(source.lane)
        count = block.extents.geometry.count if source.is_atomic else 1
        self._queue.open(block.block_id, block.extents, run_extents_max=count, lane=source.lane)
        block.busy += 1
        if filling.is_small:
            opened.get_loop().call_soon(self._rest, filling)  # whoever wants it has said so by then
        else:
            self._spawner.spawn("open_block", self._open(filling))

    async def _open(self, filling: Filling) -> None:
        try:
            file = await self._store.create(filling.block)
            if filling.error is None:
                filling.file = file
                filling.opened.set_result(None)
        except TierFailed as e:
            self._give_up(filling, e)
        finally:
            self._rest(filling)

    def _pump(self) -> None:
        while (taken := self._take_run()) is not None:
            self._spawn(*taken)

    def _spawn(self, filling: Filling, run: Run) -> None:
        filling.context.run(self._spawner.spawn, "fill_runs", self._stream(filling, run))

    def _take_run(self) -> tuple[Filling, Run] | None:
        run = None if self._closed else self._queue.next_run()
        if run is None:
            return None
        filling = self._fillings[run.block_id]
        filling.block.busy += 1
        return filling, run

    async def _stream(self, filling: Filling, run: Run) -> None:
        """A run, and then others as long as they are of the same context: of small blocks a task for each would be a
        tenth of the work."""
        context = filling.context
        while True:
            await self._run(filling, run)
            taken = self._take_run()
            if taken is None:
                return
            self._pump()  # there may be more streams than before
            filling, run = taken
            if filling.context is not context:
                return self._spawn(filling, run)

    async def _run(self, filling: Filling, run: Run) -> None:
        outcome = "cancelled"
        try:
            await self._fetch(filling, run)
            outcome = "ok"
        except ForebayError as e:
            outcome = e.code
            self._run_failed(filling, run, e)
        except Exception as e:  # noqa: BLE001 - one object that trips a bug must not take the worker down
            outcome = "internal"
            self._log.error("fill_bug", error=repr(e), exc_info=True)
            self._run_failed(filling, run, InternalError("a fill failed by a bug of ours"))
        except asyncio.CancelledError:
            self._closed = True  # only the end of the service cancels fills: start no others
            raise
        finally:
            self._metrics.fill_runs.add(1, outcome)
            self._queue.ended(run)
            self._rest(filling)

    async def _fetch(self, filling: Filling, run: Run) -> None:
        start, stop = filling.block.extents.geometry.span(run.first, run.count)
        sink = None if filling.is_small else _Sink(self, filling, run, start)
        for attempt in range(ATTEMPTS_MAX):
            try:
                if sink is None:
                    await self._fetch_small(filling, run)
                else:
                    await self._fetch_into(sink, filling.source, stop)
                return
            except ForebayError as e:
                if not e.retryable or attempt == ATTEMPTS_MAX - 1 or filling.error is not None:
                    raise
                self._lanes.throttled(run.lane)
                await asyncio.sleep(BACKOFF_S * 2**attempt * self._lanes.jitter())

    @staticmethod
    async def _fetch_into(sink: _Sink, source: BlockSource, stop: int) -> None:
        async with closing(source.lend(sink.position, stop - sink.position)) as pieces:
            async for piece in pieces:
                await sink.take(piece, source.name)
        if sink.position != stop:
            raise InternalError("a source gave less than it was asked for", missing_bytes=stop - sink.position)

    async def _fetch_small(self, filling: Filling, run: Run) -> None:
        block, source = filling.block, filling.source
        data = await source.take(0, block.length)
        if len(data) != block.length:
            raise InternalError("a source gave other than it was asked for", length=len(data), expected=block.length)
        if filling.is_over():
            return
        is_read = filling.is_read
        file = await self._store.put_small(block, data, is_read=is_read)
        self._metrics.filled.add(len(data), source.name)
        self._lanes.came(run.lane, len(data))
        if filling.is_over():
            await self._store.take_name(block)
            return
        self._store.sealed_small(block, file, is_read=is_read)
        self._queue.landed(run, 0)
        filling.wake(0)
        self._forget(block)

    async def write(self, file: BlockFile, piece: Held, source: str, lane: str) -> int:
        """Writes bytes of one extent; returns its sum so far."""
        crc = await self._store.threads.run(_write_and_sum, file, piece)
        size = sum(map(len, piece.pieces))
        self._metrics.filled.add(size, source)
        if self._lanes.came(lane, size):
            self._pump()
        return crc

    def landed(self, filling: Filling, run: Run, extent: int) -> None:
        """An extent of a run is written, and its sum is noted."""
        if filling.error is not None:
            return
        is_complete = self._store.index.landed(filling.block, extent)
        self._queue.landed(run, extent)
        filling.wake(extent)
        if is_complete:
            filling.block.busy += 1
            self._spawner.spawn("seal_block", self._seal(filling))

    async def _seal(self, filling: Filling) -> None:
        block = filling.block
        try:
            await self._store.seal(block, await self.opened(filling))
            self._forget(block)
        except ForebayError as e:  # the directory's, or the one that the block was given up for meanwhile
            self._give_up(filling, e)
        finally:
            self._rest(filling)

    # -- failure and the end

    def _run_failed(self, filling: Filling, run: Run, error: ForebayError) -> None:
        self._queue.failed(run)
        if isinstance(error, StaleVersion | NotFound | TierFailed):
            self._give_up(filling, error)
            return
        for extent in run.extents:
            filling.wake(extent, error)

    def _give_up(self, filling: Filling, error: ForebayError) -> None:
        if filling.error is not None:
            return
        filling.error = fresh(error)
        block = filling.block
        if isinstance(error, TierFailed):
            self._store.failed(block, error)
        if not filling.opened.done():
            filling.opened.set_exception(fresh(error))
            filling.opened.exception()  # seen: there may be no reader left to see it
        for extent in list(filling.waiters):
            filling.wake(extent, error)
        self._store.detach(block)

    def _rest(self, filling: Filling) -> None:
        """One of the block's tasks ended. The last one of a given-up block removes its file; a block that has nothing
        and that nobody wants is given up."""
        block = filling.block
        block.busy -= 1
        if block.busy:
            return
        if filling.error is None and self._is_useless(filling):
            self._give_up(filling, Abandoned("nobody wants this block any more"))
        if filling.error is not None and not self._closed:
            self._spawner.spawn("unlink_part", self._store.unlink(block, sealed=False))

    def _is_useless(self, filling: Filling) -> bool:
        block = filling.block
        return block.state is State.FILLING and not len(block.extents) and self._queue.is_idle(block.block_id)

    def _forget(self, block: Block) -> BlockFile | None:
        filling = self._fillings.pop(block.block_id, None)
        self._queue.close(block.block_id)
        if filling is None:
            return None
        file, filling.file = filling.file, None
        return file

    def close(self) -> None:
        """Takes no more work; the tasks are cancelled by their owner."""
        self._closed = True

    def __len__(self) -> int:
        return len(self._fillings)


class _Sink:
    """Gathers pieces of one run and writes them, extent by extent, in order."""

    def __init__(self, filler: Filler, filling: Filling, run: Run, position: int) -> None:
        self._filler = filler
        self._filling = filling
        self._run = run
        self._held: list[bytes | memoryview] = []
        self._held_from = position
        self._crc = 0
        self.position = position

    async def take(self, piece: bytes | memoryview, source: str) -> None:
        """Takes the next piece, which is only lent: waits while it is written, or copies it if it is small."""
        if self._filling.error is not None:
            raise fresh(self._filling.error)
        geometry = self._filling.block.extents.geometry
        rest = piece
        while len(rest):
            extent = self.position // geometry.extent_size
            if extent not in self._run.extents:
                raise InternalError("a source gave more than it was asked for", extra_bytes=len(rest))
            room = geometry.span(extent)[1] - self.position
            part, rest = (rest, b"") if len(rest) <= room else (rest[:room], rest[room:])
            self.position += len(part)
            is_end = len(part) == room
            if is_end or self.position - self._held_from >= WRITE_BYTES:
                self._held.append(part)
                await self._write(source, extent if is_end else None)
            else:
                self._held.append(bytes(part))
            if is_end:
                self._filler.landed(self._filling, self._run, extent)
                self._crc = 0

    async def _write(self, source: str, ended: int | None) -> None:
        held = Held(self._held, self._held_from, self._crc, ended)
        self._held, self._held_from = [], self.position
        file = await self._filler.opened(self._filling)
        self._crc = await self._filler.write(file, held, source, self._run.lane)


@dataclass(frozen=True)
class Held:
    """Neighbouring pieces of one extent from byte ``start``, the sum of what came before them, and the extent if they
    are its end."""

    pieces: list[bytes | memoryview]
    start: int
    crc: int
    ended: int | None


def _write_and_sum(file: BlockFile, held: Held) -> int:
    file.write(held.pieces, held.start)
    crc = held.crc
    for piece in held.pieces:
        for start in range(0, len(piece), SUM_BYTES):
            crc = google_crc32c.extend(crc, bytes(piece[start : start + SUM_BYTES]))
    if held.ended is not None:
        file.land(held.ended, crc)
    return crc
