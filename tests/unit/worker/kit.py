"""A worker's store, fills and reads over real tier directories and a fake under store, without the network."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forebay.contracts import BlockTarget, Mount, UfsOptions
from forebay.contracts.blocks import ByteRange
from forebay.contracts.identity import block_id
from forebay.contracts.records import TierName
from forebay.runtime import Supervisor
from forebay.telemetry import Metrics
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import Ufs, UfsFile, UfsUri
from forebay_worker.access import Asked, derive
from forebay_worker.block import State
from forebay_worker.directory import Manner, TierSpec
from forebay_worker.files import IoThreads
from forebay_worker.fill import Filler
from forebay_worker.goodput import Bounds, Plan
from forebay_worker.hints import Hints
from forebay_worker.index import StoreIndex
from forebay_worker.lanes import Lanes
from forebay_worker.mounts import Mounted
from forebay_worker.moves import Mover
from forebay_worker.observe import WorkerMetrics
from forebay_worker.policies import Lru
from forebay_worker.queue import FillQueue
from forebay_worker.reads import Read, Reads
from forebay_worker.routing import ReadOptions
from forebay_worker.sources import BlockSource, UfsSource, closing
from forebay_worker.steps import Steps, nothing
from forebay_worker.store import Store
from forebay_worker.tiers import boot_id, open_tier

MIB = 1 << 20
URI = UfsUri.parse("file:///data")
BLOCK_SIZE = 16 * MIB
PLAIN = ReadOptions()
MOUNT = Mount(
    mount_id="m1",
    generation=1,
    path="/",
    ufs_uri=str(URI),
    ufs_id=URI.ufs_id(UfsOptions()),
    block_size=BLOCK_SIZE,
)


@contextmanager
def memory_dir() -> Iterator[Path]:
    """A directory on tmpfs."""
    path = Path(tempfile.mkdtemp(prefix="forebay-test-", dir="/dev/shm"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that repeat nowhere near an extent's length."""
    return random.Random(seed).randbytes(size)


def asked_for(file: UfsFile, index: int = 0, *, size: int | None = None) -> Asked:
    """The block of a file, as a client with that layout asks for it."""
    target = BlockTarget(
        mount_id="m1",
        key=file.key,
        size=file.size if size is None else size,
        fingerprint=file.fingerprint,
        index=index,
    )
    name = block_id(URI.version_id(MOUNT.options, file.key, file.fingerprint), BLOCK_SIZE, index)
    return derive(name, target, Mounted(MOUNT, URI), expires_at_s=1e18, version=1)


@dataclass
class Kit:
    """The parts, wired as the service wires them."""

    ufs: MemoryUfs
    store: Store
    queue: FillQueue
    filler: Filler
    reads: Reads
    metrics: WorkerMetrics
    spawner: Supervisor
    mover: Mover
    lanes: Lanes
    order: Hints
    is_atomic: bool = True

    def source(self, asked: Asked) -> UfsSource:
        """The under store's view of a block."""

        async def opened() -> Ufs:
            return self.ufs

        target = asked.target
        return UfsSource(opened, target.key, target.size, target.fingerprint, asked.offset, is_atomic=self.is_atomic)

    async def read(
        self,
        asked: Asked,
        start: int = 0,
        stop: int | None = None,
        *,
        options: ReadOptions = PLAIN,
        source: BlockSource | None = None,
        has_home_elsewhere: bool = False,
    ) -> bytes:
        """What a client would get."""
        part = ByteRange(start, asked.length if stop is None else stop)
        ready = self.reads.at_once(asked, part)
        if ready is not None:
            return bytes(ready[1])
        read = Read(asked, part, options, source or self.source(asked), has_home_elsewhere)
        body = await self.reads.open(read)
        async with closing(body.rest) as rest:
            return b"".join([bytes(body.first), *[bytes(piece) async for piece in rest]])

    def validate(self) -> None:
        """All invariants."""
        self.store.index.validate()
        self.queue.validate()

    @property
    def is_quiet(self) -> bool:
        """Whether no task is left."""
        return len(self.spawner) == 0

    def sealed(self) -> int:
        """Blocks that are complete."""
        return self.store.index.counts()[State.SEALED]


@asynccontextmanager
async def kit(
    *tiers: tuple[TierName, Path, int],
    ufs: MemoryUfs | None = None,
    passive: bool = False,
    streams_max: int = 4,
    run_extents_max: int = 1,
    files_max: int = 100,
    tunes: bool = False,
    steps: Steps = nothing,
    scans: bool = True,
) -> AsyncIterator[Kit]:
    """A store over ``tiers`` (kind, directory, capacity), restored (or only prepared, if it does not scan), and torn
    down with its invariants checked."""
    opened = [open_tier(TierSpec(*tier), setting="--tier-dirs", manner=Manner(steps)) for tier in tiers]
    metrics = WorkerMetrics(Metrics())
    index = StoreIndex([(capacity, Lru()) for _, _, capacity in tiers])
    store = Store(opened, index, IoThreads(2), metrics, files_max=files_max)
    await (store.restore(boot_id()) if scans else store.prepare(boot_id()))
    queue = FillQueue(streams_max=streams_max)
    try:
        async with Supervisor() as spawner:
            bounds = Bounds(Plan(streams_max, run_extents_max), streams_max, run_extents_max)
            lanes = Lanes(queue, metrics, bounds, tunes=tunes)
            filler = Filler(store, queue, spawner, metrics, lanes=lanes)
            mover = Mover(store, spawner, metrics)
            order = Hints(0, lambda block_id: index.get(block_id) is not None)
            reads = Reads(store, filler, metrics, passive=passive, mover=mover, order=order)
            parts = Kit(ufs or MemoryUfs(), store, queue, filler, reads, metrics, spawner, mover, lanes, order)
            try:
                yield parts
            finally:
                filler.close()
        parts.validate()
    finally:
        store.close()
        for tier in opened:
            tier.close()
