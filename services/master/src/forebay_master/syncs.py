"""Bringing directories in: the pages of an under store's listing go into a listing of their own, sealed at the end.

What is certain of a listing that still comes in may be read before its end (``sight``): where the next page begins and
how far it may go. Who has read some of it and then meets a failure gets the failure, not an end.

A sync that fails is counted, logged, stored with its cause until the same directory succeeds (``failures``), and tried
again by the next request that needs it, after some failures in a row not before a stored time. Nothing is ever
concluded from it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from forebay.contracts import Change, Mount
from forebay.errors import Conflict, ForebayError, NotFound, TooLarge, UfsError
from forebay.runtime import Deadline, Supervisor, logs
from forebay.ufs import Ufs, UfsDir, UfsEntry, UfsPage, lists_whole
from forebay_master import failures, freshness, listings
from forebay_master.changes import Feed, path_of
from forebay_master.database import Database
from forebay_master.entries import Origin
from forebay_master.failures import KEPT_MAX, SyncFailure
from forebay_master.flights import Flights
from forebay_master.frontier import Frontier
from forebay_master.listings import DirectoryName, Known, Sealed
from forebay_master.namespace import name_of
from forebay_master.observe import Meters, counting_errors, timing
from forebay_master.sources import Sources
from forebay_master.stats import answer_changes

LOG = logs.get(__name__)
K = TypeVar("K")

PROBES_MAX = 4
"""Questions about single names that one page of a listing may cost."""


@dataclass(frozen=True)
class Sight:
    """What may be read of a listing that still comes in: names below ``before``."""

    listing: int
    synced_at_s: float
    before: str


class _Stream:
    """A listing that comes in. ``news`` is set, and replaced, whenever there is more of it."""

    def __init__(self, listing: int, begun_s: float) -> None:
        self.listing = listing
        self.begun_s = begun_s
        self.frontier = Frontier()
        self.news = asyncio.Event()
        self.was_seen = False
        self._page: list[str] = []

    def advance(self, names: list[str], page: UfsPage) -> None:
        """A page was put into the store."""
        self._page = names
        self.frontier.advance(names, order_of(page.entries[-1]) if page.entries else "")

    def blocking(self) -> list[str]:
        """Names in doubt that hold back the whole last page."""
        return self.frontier.blocking(self._page)

    def wake(self) -> None:
        """Tells those who wait for more."""
        self.news.set()
        self.news = asyncio.Event()


@dataclass(frozen=True)
class SyncLimits:
    """Bounds of bringing directories in."""

    running_max: int = 8
    """Directories that are listed at the same time."""
    flights_max: int = 4096
    """Directories that are listed or wait for it."""
    ahead_max: int = 64
    """With so many flights nothing is brought in that nobody waits for yet."""
    sync_max_s: float = 900.0
    """One directory: 10 million names at 1,000 a request of 80 ms."""
    names_max: int = 10_000_000
    """Names in one directory."""
    sight_s: float = 0.5
    """How long a page of a listing that comes in waits to be full."""
    disorders_kept: int = 1000
    """Mounts, and listings, that are remembered for coming in without order."""


class Syncs:
    """Lists directories, each once at a time. ``clock`` is wall time; ``singles`` takes the answers about
    single names of a directory from before a time: a listing that differs from them is a change, too."""

    def __init__(
        self,
        database: Database,
        sources: Sources,
        supervisor: Supervisor,
        meters: Meters,
        *,
        clock: Callable[[], float],
        feed: Feed,
        singles: Callable[[Mount, str, float], Mapping[str, Known]] = lambda mount, directory, before_s: {},
        limits: SyncLimits | None = None,
    ) -> None:
        self._singles = singles
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
        self._streams: dict[DirectoryName, _Stream] = {}
        self._begun = asyncio.Event()
        self._disordered: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._torn: OrderedDict[tuple[DirectoryName, float], None] = OrderedDict()
        self.is_sweeping = False
        self.changes = 0
        """Grows whenever the listings in the store change."""

    def __len__(self) -> int:
        return len(self._flights)

    async def load(self) -> None:
        """Takes up what failed before the last end of this master."""
        found = await self._database.read(failures.load)
        self._failures = OrderedDict((failure.name, failure) for failure in found)

    def failures(self, mount: Mount) -> list[SyncFailure]:
        """The directories of a mount whose last sync failed, the newest failure last."""
        whole = (mount.mount_id, mount.generation)
        return [failure for failure in self._failures.values() if failure.name[:2] == whole]

    async def bring(self, mount: Mount, directory: str, since_s: float, *, insist: bool = False) -> int:
        """Returns when the directory has a listing from ``since_s`` or later: how many changes its sync found.
        ``insist``: the under store is asked although it failed a moment ago.

        Raises:
            NotFound: there is no such directory in the under store. UfsError and its kinds, PermissionDenied: the
                listing failed, now or a moment ago; ``details`` has ``sync_error``, ``failed_at_s`` and
                ``retry_at_s``. Overloaded, TooLarge, DeadlineExceeded: see ``SyncLimits``.
        """
        name = DirectoryName.of(mount, directory)
        failure = self._failures.get(name)
        is_paused = failure is not None and failure.failed_at_s <= self._clock() < failure.retry_at_s
        if failure is not None and is_paused and not insist and self._flights.started_at(name) is None:
            raise failure.error()
        return await self._flights.join(name, since_s, partial(self._sync, mount, directory))

    async def sight(self, mount: Mount, directory: str, since_s: float, *, after: str, rows: int) -> Sight | None:
        """As soon as ``rows`` names behind ``after`` are certain, or some after ``sight_s``: what may be read. ``None``
        when the directory has a whole listing from ``since_s`` or later.

        Raises:
            What ``bring`` raises.
        """
        name = DirectoryName.of(mount, directory)
        until_s = asyncio.get_running_loop().time() + self._limits.sight_s
        brought = asyncio.ensure_future(self._bring_again(mount, name, since_s))
        try:
            while not brought.done():
                stream = self._good_stream(name, since_s)
                left_s = until_s - asyncio.get_running_loop().time()
                if stream is not None and stream.frontier.certain(after) >= (rows if left_s > 0 else 1):
                    stream.was_seen = True
                    return Sight(stream.listing, stream.begun_s, stream.frontier.before)
                await self._hear(brought, stream, left_s if left_s > 0 else None)
            await brought
            return None
        finally:
            brought.cancel()

    async def _bring_again(self, mount: Mount, name: DirectoryName, since_s: float) -> int:
        """As ``bring``; a sync that comes in and is good enough by its own time is joined."""
        started_s = self._flights.started_at(name) if self._good_stream(name, since_s) else None
        return await self.bring(mount, name.directory, since_s if started_s is None else min(since_s, started_s))

    def _good_stream(self, name: DirectoryName, since_s: float) -> _Stream | None:
        stream = self._streams.get(name)
        return stream if stream is not None and stream.begun_s >= since_s else None

    def check_whole(self, mount: Mount, directory: str, begun_with_s: float) -> None:
        """Whether a listing that began with the sync of that moment can be gone on with.

        Raises:
            Conflict: names came too late for the pages that were given.
        """
        if (DirectoryName.of(mount, directory), begun_with_s) in self._torn:
            raise Conflict("the under store lists without order; list from the beginning", reason="disordered")

    async def bring_missing(self, mount: Mount, directory: str, since_s: float) -> int:
        """As ``bring``, for a caller whose look into the store was a while ago: it may have come in meanwhile."""
        return await self._flights.join(
            DirectoryName.of(mount, directory), since_s, partial(self._sync_missing, mount, directory, since_s)
        )

    def bring_ahead(self, mount: Mount, directories: Sequence[str], since: Callable[[str], float]) -> None:
        """Begins to bring directories in that somebody is about to ask for. Whether one fails is told to who asks."""
        if directories and len(self._flights) < self._limits.ahead_max:
            self._supervisor.spawn("ahead", self._bring_ahead(mount, directories, since))

    async def _bring_ahead(self, mount: Mount, directories: Sequence[str], since: Callable[[str], float]) -> None:
        flights = (self.bring_missing(mount, each, since(each)) for each in directories)
        await asyncio.gather(*flights, return_exceptions=True)

    async def _sync_missing(self, mount: Mount, directory: str, since_s: float) -> int:
        look = partial(listings.synced_at, name=DirectoryName.of(mount, directory))
        synced_at_s = await self._database.read(look)
        if synced_at_s is not None and freshness.is_good(synced_at_s, since_s, self._clock()):
            return 0
        return await self._sync(mount, directory)

    def sweep_soon(self) -> None:
        """Throws dead listings away in the background."""
        self.changes += 1
        if not self.is_sweeping:
            self.is_sweeping = True
            self._supervisor.spawn("sweep", self._sweep())

    async def _hear(self, brought: asyncio.Future[int], stream: _Stream | None, wait_s: float | None) -> None:
        """Until the sync is over, begins, or has more, or ``wait_s`` is over."""
        news = asyncio.ensure_future((stream.news if stream is not None else self._begun).wait())
        try:
            await asyncio.wait((brought, news), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    async def _sync(self, mount: Mount, directory: str) -> int:
        name = DirectoryName.of(mount, directory)
        try:
            with counting_errors(self._meters.syncs), timing(self._meters.sync_seconds):
                begun_s, sealed = await self._fill(mount, name)
        except NotFound:
            self.sweep_soon()
            await self._succeeded(name)
            was_listed = await self._database.write(lambda db: listings.bury(db, name))
            if was_listed or any(known.rows for known in self._singles(mount, directory, self._clock()).values()):
                self._feed.tell((Change(mount_id=mount.mount_id, path=path_of(mount, directory), kind="removed"),))
            raise
        except ForebayError as e:
            self.sweep_soon()
            await self._failed(name, e)
            raise
        self.changes += 1
        if not sealed.is_first:
            self.sweep_soon()
        await self._succeeded(name)
        self._meters.syncs.add(1, "done")
        LOG.debug("synced", mount_id=mount.mount_id, directory=directory, names=sealed.names)
        changes = sealed_changes(mount, directory, sealed)
        changes += await self._single_changes(mount, name, begun_s, sealed)
        self._feed.tell(changes)
        return len(changes)

    async def _single_changes(
        self, mount: Mount, name: DirectoryName, begun_s: float, sealed: Sealed
    ) -> tuple[Change, ...]:
        """What the listing that began at ``begun_s`` has otherwise than single answers from before, and is not among
        the differences from the listing before it."""
        told = {each.name for each in sealed.differences}
        singles = self._singles(mount, name.directory, begun_s)
        older = {each: known for each, known in singles.items() if each not in told}
        if not older or sealed.more:
            return ()
        now = await self._database.read(partial(_found, name=name, entries=tuple(older)))
        found = (answer_changes(mount, name.directory, each, older[each], known) for each, known in now.items())
        return tuple(change for changes in found for change in changes)

    async def _fill(self, mount: Mount, name: DirectoryName) -> tuple[float, Sealed]:
        begun_s = self._clock()
        whole = await self._fill_at_once(mount, name, begun_s)
        if whole is not None:
            return begun_s, whole
        listing = await self._database.write(lambda db: listings.begin(db, name, begun_s))
        stream, is_sealed = self._open_stream(name, listing, begun_s), False
        try:
            async with Deadline.after(self._limits.sync_max_s).timeout(), self._sources.use(mount) as ufs:
                await self._take_pages(ufs, Origin.of(mount, name.directory), stream)
            sealed = await self._database.write(lambda db: listings.seal(db, name, listing))
            is_sealed = True
            return begun_s, sealed
        finally:
            self._close_stream(name, stream)
            if not is_sealed:
                await self._database.write(lambda db: listings.abandon(db, listing))

    async def _fill_at_once(self, mount: Mount, name: DirectoryName, begun_s: float) -> Sealed | None:
        """The directory in one piece and one write, where the under store can and it is not too large."""
        async with self._sources.use(mount) as ufs:
            leaf = await ufs.list_whole(name.directory) if lists_whole(ufs) else None
        if leaf is None:
            return None
        self._meters.synced_entries.add(len(leaf))
        return await self._database.write(partial(listings.put_whole, name=name, synced_at_s=begun_s, leaf=leaf))

    def _open_stream(self, name: DirectoryName, listing: int, begun_s: float) -> _Stream:
        stream = _Stream(listing, begun_s)
        if name[:2] not in self._disordered:
            self._streams[name] = stream
            self._begun.set()
            self._begun = asyncio.Event()
        return stream

    def _close_stream(self, name: DirectoryName, stream: _Stream) -> None:
        if self._streams.get(name) is stream:
            del self._streams[name]
        if stream.frontier.is_disordered:
            LOG.warning("listing_without_order", mount_id=name.mount_id, directory=name.directory)
            _remember(self._disordered, name[:2], self._limits.disorders_kept)
            if stream.was_seen:
                _remember(self._torn, (name, stream.begun_s), self._limits.disorders_kept)
        stream.wake()

    async def _take_pages(self, ufs: Ufs, origin: Origin, stream: _Stream) -> None:
        taken, token = 0, None
        while True:
            page = await ufs.list_page(origin.directory, token=token)
            taken += await self._take(page, origin, stream)
            if taken > self._limits.names_max:
                raise TooLarge("the directory has too many names", limit=self._limits.names_max)
            if page.next_token is None:
                return
            if page.next_token == token:
                raise UfsError("the under store's listing does not move on", directory=origin.directory)
            token = page.next_token
            await self._settle(ufs, origin, stream)

    async def _take(self, page: UfsPage, origin: Origin, stream: _Stream) -> int:
        rows = [row for row in map(origin.row, page.entries) if row is not None]
        self._meters.synced_entries.add(len(rows))
        self._meters.refused_entries.add(len(page.entries) - len(rows))
        await self._database.write(partial(listings.add, listing=stream.listing, rows=rows))
        stream.advance([row.name for row in rows], page)
        return len(rows)

    async def _settle(self, ufs: Ufs, origin: Origin, stream: _Stream) -> None:
        """Asks for names that hold back the page that just came in, so that it can be read."""
        for name in stream.blocking()[:PROBES_MAX]:
            key = f"{origin.directory}/{name}" if origin.directory else name
            try:
                found = await ufs.stat(key)
            except NotFound:
                found = None
            except ForebayError as e:  # it stays in doubt until the listing comes by
                LOG.debug("not_settled", mount_id=origin.mount.mount_id, code=e.code, reason=e.message)
                return
            row = origin.row(found) if isinstance(found, UfsDir) else None
            if row is not None:
                await self._database.write(partial(listings.add, listing=stream.listing, rows=[row]))
            stream.frontier.settle(name)
        stream.wake()

    async def _failed(self, name: DirectoryName, error: ForebayError) -> None:
        failure = failures.following(self._failures.pop(name, None), name, error, self._clock())
        failures.explained(error, failure)
        LOG.warning(
            "sync_failed", mount_id=name.mount_id, directory=name.directory, code=error.code, reason=error.message
        )
        self._failures[name] = failure
        await self._note(lambda db: failures.put(db, failure))
        while len(self._failures) > KEPT_MAX:
            oldest, _ = self._failures.popitem(last=False)
            await self._note(partial(failures.drop, name=oldest))

    async def _succeeded(self, name: DirectoryName) -> None:
        if self._failures.pop(name, None) is not None:
            await self._note(partial(failures.drop, name=name))

    async def _note(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """What is told of failures must not hide them."""
        try:
            await self._database.write(work)
        except ForebayError as e:
            LOG.warning("failure_not_stored", code=e.code, reason=e.message)

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


def _found(db: sqlite3.Connection, name: DirectoryName, entries: Collection[str]) -> dict[str, Known]:
    """On a database thread: what the current listing says of names, nothing if there is none any more."""
    found = ((each, listings.find(db, name, each)) for each in entries)
    return {each: known for each, known in found if known is not None}


def order_of(entry: UfsEntry) -> str:
    """The last part of a key where S3's order sees it: a directory ends in "/"."""
    name = name_of(entry.key)
    return f"{name}/" if isinstance(entry, UfsDir) else name


def _remember(kept: OrderedDict[K, None], key: K, limit: int) -> None:
    kept[key] = None
    while len(kept) > limit:
        kept.popitem(last=False)
