"""Bringing directories in: the pages of an under store's listing go into a listing of their own, sealed at the end.

A sync that fails is counted, logged, kept for the status page until the same directory succeeds, and tried again by the
next request that needs it. Nothing is ever concluded from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from forebay.contracts import Change, Mount
from forebay.errors import ForebayError, NotFound, TooLarge, UfsError
from forebay.runtime import Deadline, Supervisor, logs
from forebay.ufs import Ufs, UfsPage
from forebay_master import listings
from forebay_master.changes import Feed, path_of
from forebay_master.database import Database
from forebay_master.entries import Origin
from forebay_master.flights import Flights
from forebay_master.listings import DirectoryName, Sealed
from forebay_master.observe import Meters, counting_errors, timing
from forebay_master.sources import Sources

LOG = logs.get(__name__)


@dataclass(frozen=True)
class SyncLimits:
    """Bounds of bringing directories in."""

    running_max: int = 8
    """Directories that are listed at the same time."""
    flights_max: int = 4096
    """Directories that are listed or wait for it."""
    sync_max_s: float = 900.0
    """One directory: 10 million names at 1,000 a request of 80 ms."""
    names_max: int = 10_000_000
    """Names in one directory."""
    failures_kept: int = 1000
    """Directories whose last failure is remembered for the status page."""


@dataclass(frozen=True)
class SyncFailure:
    """Why the last sync of a directory failed, and when."""

    mount_id: str
    code: str
    message: str
    failed_at_s: float


class Syncs:
    """Lists directories, each once at a time. ``clock`` is wall time."""

    def __init__(
        self,
        database: Database,
        sources: Sources,
        supervisor: Supervisor,
        meters: Meters,
        *,
        clock: Callable[[], float],
        feed: Feed,
        limits: SyncLimits | None = None,
    ) -> None:
        self._database = database
        self._feed = feed
        self._sources = sources
        self._supervisor = supervisor
        self._meters = meters
        self._clock = clock
        self._limits = limits or SyncLimits()
        self._flights = Flights[DirectoryName, int](
            "sync",
            supervisor,
            clock=clock,
            running_max=self._limits.running_max,
            flights_max=self._limits.flights_max,
        )
        self._failures: OrderedDict[DirectoryName, SyncFailure] = OrderedDict()
        self.is_sweeping = False
        self.changes = 0
        """Grows whenever the listings in the store change."""

    def __len__(self) -> int:
        return len(self._flights)

    def failures(self, mount_id: str) -> list[SyncFailure]:
        """The directories of a mount whose last sync failed, the newest failure last."""
        return [failure for failure in self._failures.values() if failure.mount_id == mount_id]

    async def bring(self, mount: Mount, directory: str, since_s: float) -> int:
        """Returns when the directory has a listing from ``since_s`` or later: how many changes its sync found.

        Raises:
            NotFound: there is no such directory in the under store. UfsError and its kinds, PermissionDenied: the
                listing failed. Overloaded, TooLarge, DeadlineExceeded: see ``SyncLimits``.
        """
        return await self._flights.join(
            DirectoryName.of(mount, directory), since_s, partial(self._sync, mount, directory)
        )

    def sweep_soon(self) -> None:
        """Throws dead listings away in the background."""
        self.changes += 1
        if not self.is_sweeping:
            self.is_sweeping = True
            self._supervisor.spawn("sweep", self._sweep())

    async def _sync(self, mount: Mount, directory: str) -> int:
        name = DirectoryName.of(mount, directory)
        try:
            with counting_errors(self._meters.syncs), timing(self._meters.sync_seconds):
                sealed = await self._fill(mount, name)
        except NotFound:
            self._failures.pop(name, None)
            if await self._database.write(lambda db: listings.bury(db, name)):
                self._feed.tell((Change(mount_id=mount.mount_id, path=path_of(mount, directory), kind="removed"),))
            raise
        except ForebayError as e:
            self._failed(name, e)
            raise
        finally:
            self.sweep_soon()
        self._failures.pop(name, None)
        self._meters.syncs.add(1, "done")
        LOG.debug("synced", mount_id=mount.mount_id, directory=directory, names=sealed.names)
        changes = sealed_changes(mount, directory, sealed)
        self._feed.tell(changes)
        return len(changes)

    async def _fill(self, mount: Mount, name: DirectoryName) -> Sealed:
        begun_s = self._clock()
        listing = await self._database.write(lambda db: listings.begin(db, name, begun_s))
        is_sealed = False
        try:
            async with Deadline.after(self._limits.sync_max_s).timeout(), self._sources.use(mount) as ufs:
                await self._take_pages(ufs, Origin.of(mount, name.directory), listing)
            sealed = await self._database.write(lambda db: listings.seal(db, name, listing))
            is_sealed = True
            return sealed
        finally:
            if not is_sealed:
                await self._database.write(lambda db: listings.abandon(db, listing))

    async def _take_pages(self, ufs: Ufs, origin: Origin, listing: int) -> None:
        taken, token = 0, None
        while True:
            page = await ufs.list_page(origin.directory, token=token)
            taken += await self._take(page, origin, listing)
            if taken > self._limits.names_max:
                raise TooLarge("the directory has too many names", limit=self._limits.names_max)
            if page.next_token is None:
                return
            if page.next_token == token:
                raise UfsError("the under store's listing does not move on", directory=origin.directory)
            token = page.next_token

    async def _take(self, page: UfsPage, origin: Origin, listing: int) -> int:
        rows = [row for row in map(origin.row, page.entries) if row is not None]
        self._meters.synced_entries.add(len(rows))
        self._meters.refused_entries.add(len(page.entries) - len(rows))
        await self._database.write(partial(listings.add, listing=listing, rows=rows))
        return len(rows)

    def _failed(self, name: DirectoryName, error: ForebayError) -> None:
        LOG.warning(
            "sync_failed", mount_id=name.mount_id, directory=name.directory, code=error.code, reason=error.message
        )
        self._failures[name] = SyncFailure(name.mount_id, error.code, error.message, self._clock())
        self._failures.move_to_end(name)
        while len(self._failures) > self._limits.failures_kept:
            self._failures.popitem(last=False)

    async def _sweep(self) -> None:
        try:
            while await self._database.write(listings.sweep):
                pass
        except ForebayError as e:
            LOG.warning("sweep_failed", code=e.code, reason=e.message)  # the next sync sweeps again
        finally:
            self.is_sweeping = False


def sealed_changes(mount: Mount, directory: str, sealed: Sealed) -> tuple[Change, ...]:
    """What a new listing means for those who watch."""
    if sealed.more:
        return (Change(mount_id=mount.mount_id, path=path_of(mount, directory), kind="dir"),)
    return tuple(
        Change(
            mount_id=mount.mount_id,
            path=path_of(mount, directory, each.name),
            kind=each.kind,
            fingerprint=each.fingerprint or None,
        )
        for each in sealed.differences
    )
