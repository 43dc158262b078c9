"""A master's parts around an under store in memory, a clock by hand, and a real database in a temporary directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from forebay.contracts import ListReply, ListRequest, Mount, MountRequest, UfsOptions, decode
from forebay.errors import ForebayError
from forebay.runtime import Supervisor
from forebay.telemetry import Metrics
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import PAGE_NAMES_MAX, AllowedRoots, Ufs, UfsEntry, UfsPage, UfsUri
from forebay_master.access_times import AccessTimes
from forebay_master.catalog import Catalog
from forebay_master.changes import Feed
from forebay_master.database import Database
from forebay_master.mount_store import SqliteMountStore
from forebay_master.mounts import Mounts, canonical
from forebay_master.observe import Meters
from forebay_master.sources import Sources
from forebay_master.stats import StatLimits, Stats
from forebay_master.syncs import SyncLimits, Syncs
from forebay_master.trees import Trees

ROOT = "file:///memory"
ALLOWED = (ROOT, "file:///other")
PATIENT_S = 60.0
ACCESSES_MAX = 80


class ListedUfs(MemoryUfs):
    """``MemoryUfs`` that counts listings and stats, fails on command, and waits before each answer if told to."""

    def __init__(self, *, uri: str = ROOT, page_max: int = PAGE_NAMES_MAX) -> None:
        super().__init__(uri=uri)
        self.page_max = page_max
        self.listed: list[str] = []
        self.asked: list[str] = []
        self.fail: Callable[[str, str | None], ForebayError | None] = lambda key, token: None
        self.hold: asyncio.Event | None = None
        self.hold_from: str | None = None
        """Only pages that begin with this token, or a later one, wait."""
        self.is_closed = False

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """As it is there, unless told otherwise."""
        if token is None:
            self.listed.append(directory)
        await self._obey(directory, token)
        return await super().list_page(directory, token=token, limit=min(limit, self.page_max))

    async def stat(self, key: str) -> UfsEntry:
        """As it is there, unless told otherwise."""
        self.asked.append(key)
        await self._obey(key, None)
        return await super().stat(key)

    async def close(self) -> None:
        """Remembers it."""
        self.is_closed = True

    async def _obey(self, key: str, token: str | None) -> None:
        if self.hold is not None and (self.hold_from is None or (token or "") >= self.hold_from):
            await self.hold.wait()
        error = self.fail(key, token)
        if error is not None:
            raise error


@dataclass
class Clock:
    """Wall time that moves when told to."""

    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


@dataclass
class Kit:
    """The parts, wired as the application wires them."""

    clock: Clock
    database: Database
    sources: Sources
    syncs: Syncs
    stats: Stats
    mounts: Mounts
    catalog: Catalog
    metrics: Metrics
    supervisor: Supervisor
    stores: dict[str, ListedUfs]
    feed: Feed
    trees: Trees
    accesses: AccessTimes
    opened: list[ListedUfs] = field(default_factory=list)

    @property
    def ufs(self) -> ListedUfs:
        """What is behind ``file:///memory``."""
        return self.stores[ROOT]

    async def mount(self, path: str = "/", uri: str = ROOT, *, max_age_s: float | None = 60.0) -> Mount:
        """Mounts a source as a call would."""
        mount, _ = await self.mounts.mount(MountRequest(path=path, ufs_uri=uri, max_age_s=max_age_s))
        return mount

    def add_store(self, uri: str) -> ListedUfs:
        """One more under store."""
        return self.stores.setdefault(uri, ListedUfs(uri=uri))

    async def page(self, path: str, token: str | None = None, limit: int = 10_000) -> ListReply:
        """One page of a directory."""
        request = ListRequest(path=path, page_token=token, limit=limit)
        return decode(ListReply, await self.catalog.list_page(request))

    async def names(self, path: str, limit: int = 10_000) -> list[str]:
        """All names of a directory, page by page."""
        found: list[str] = []
        token: str | None = None
        while True:
            page = await self.page(path, token, limit)
            found += [entry.name for entry in page.entries]
            token = page.next_page_token
            if token is None:
                return found

    async def settled(self) -> None:
        """Until nothing is swept, synced or asked any more."""
        async with asyncio.timeout(10):
            while self.syncs.is_sweeping or len(self.syncs) or len(self.stats):
                await asyncio.sleep(0.002)

    def counted(self, name: str, outcome: str) -> float:
        """A counter's value."""
        return self.metrics.counter(f"forebay_master_{name}_total", "", ("outcome",)).value(outcome)


@asynccontextmanager
async def kit(
    folder: Path,
    *,
    roots: Sequence[str] = ALLOWED,
    sync_limits: SyncLimits | None = None,
    stat_limits: StatLimits | None = None,
    sight_s: float = PATIENT_S,
) -> AsyncIterator[Kit]:
    """The parts; at the end their invariants are checked and nothing is under way. A page of a listing that comes in
    waits to be full, however slow the machine, unless ``sight_s`` says otherwise."""
    clock, metrics = Clock(), Metrics()
    stores = {uri: ListedUfs(uri=uri) for uri in ALLOWED}
    opened: list[ListedUfs] = []

    async def open_ufs(uri: UfsUri, options: UfsOptions) -> Ufs:
        ufs = stores[str(uri)]
        ufs.is_closed = False
        opened.append(ufs)
        return ufs

    database = Database.open(folder / "state")
    async with Supervisor() as supervisor:
        meters = Meters(metrics)
        sources = Sources(open_ufs, AllowedRoots.parse(roots))
        feed = Feed()
        stats = Stats(sources, supervisor, meters, clock=clock, feed=feed, limits=stat_limits)
        syncs = Syncs(
            database,
            sources,
            supervisor,
            meters,
            clock=clock,
            feed=feed,
            singles=stats.take,
            limits=replace(sync_limits or SyncLimits(), sight_s=sight_s),
        )
        await syncs.load()
        mounts = Mounts(
            SqliteMountStore(database),
            sources,
            supervisor,
            "test",
            on_gone=syncs.sweep_soon,
            on_change=feed.tell_mounts,
        )
        await mounts.load()
        accesses = AccessTimes(lambda: mounts.table, database, clock=clock, rows_max=ACCESSES_MAX)
        catalog = Catalog(
            lambda: mounts.table, database, syncs, stats, meters, clock=clock, feed=feed, accesses=accesses
        )
        trees = Trees(lambda: mounts.table, database, syncs, catalog, meters, clock=clock, accesses=accesses)
        parts = Kit(
            clock=clock,
            database=database,
            sources=sources,
            syncs=syncs,
            stats=stats,
            mounts=mounts,
            catalog=catalog,
            metrics=metrics,
            supervisor=supervisor,
            stores=stores,
            feed=feed,
            trees=trees,
            accesses=accesses,
            opened=opened,
        )
        yield parts
        await parts.settled()
        mounts.validate()
        assert (database.reads, database.writes) == (0, 0)
    await sources.close()
    await database.close()


def request(path: str = "/", uri: str = ROOT, *, max_age_s: float | None = 60.0) -> MountRequest:
    """A request in canonical form."""
    return canonical(MountRequest(path=path, ufs_uri=uri, max_age_s=max_age_s))
