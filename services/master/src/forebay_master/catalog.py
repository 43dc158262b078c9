"""Lookups and listings: the mount table, then the store where it is good enough, then the under store.

A lookup in a directory without a good listing asks for that name alone, so a new master answers at once; a listing
brings the whole directory in first. What is answered never mixes two syncs, and "not there" is only said when the
under store said so.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import msgspec

from forebay.contracts import Change, ListReply, ListRequest, LookupReply, Mount, SyncReply, SyncRequest, encode
from forebay.errors import InvalidRequest, NotFound, Overloaded
from forebay_master import freshness, listings
from forebay_master.access_times import AccessTimes
from forebay_master.changes import Feed
from forebay_master.database import Database
from forebay_master.entries import DIRECTORY, Origin, given_directory
from forebay_master.listings import DirectoryName, Known
from forebay_master.namespace import MountTable, Place, name_of, normalise, parent_of
from forebay_master.observe import Meters, counting_errors
from forebay_master.pages import PageRequest, build_page
from forebay_master.paging import directory_tag, parse_token
from forebay_master.stats import Stats
from forebay_master.syncs import Sight, Syncs

SYNC_ROUNDS_MAX = 4
"""Syncs that one listing request waits for; more than two only if the mount is changed meanwhile."""

SYNC_TOGETHER = 64
"""Directories that one call for a sync asks for at once; how many are listed at once is ``SyncLimits``'."""


@dataclass(frozen=True)
class _Page:
    body: bytes
    entry_count: int


class Catalog:
    """Answers questions about names. ``table`` reads the mount table of now; ``clock`` is wall time."""

    def __init__(
        self,
        table: Callable[[], MountTable],
        database: Database,
        syncs: Syncs,
        stats: Stats,
        meters: Meters,
        *,
        clock: Callable[[], float],
        feed: Feed,
        accesses: AccessTimes,
    ) -> None:
        self._table = table
        self._feed = feed
        self._database = database
        self._syncs = syncs
        self._stats = stats
        self._meters = meters
        self._clock = clock
        self._accesses = accesses

    async def lookup(self, path: str) -> LookupReply:
        """Attributes and layout of a path.

        Raises:
            InvalidRequest: no normal path. NotFound: not there; ``details`` has ``synced_at_s`` and ``valid_s`` as a
                reply would. What ``Stats.ask`` raises.
        """
        with counting_errors(self._meters.lookups):
            place = self._table().place(normalise(path))
            if place.is_given:
                return self._given(place)
            if place.mount is None:
                raise self._missing(place.path, self._clock(), freshness.NAMESPACE_VALID_S)
            return await self._lookup_below(place, place.mount)

    async def known(self, paths: Sequence[str]) -> dict[str, LookupReply]:
        """Replies for those of ``paths`` that the store or the mount table can answer, in one read."""
        table, asked_at_s = self._table(), self._clock()
        given, below = {}, {}
        for path in paths:
            try:
                place = table.place(normalise(path))
            except InvalidRequest:
                continue  # said by the lookup of that path
            if place.is_given:
                given[path] = self._given(place)
            elif place.mount is not None:
                below[path] = (place, place.mount)
        return given | await self._database.read(partial(self._find_all, below=below, asked_at_s=asked_at_s))

    def _find_all(
        self, db: sqlite3.Connection, below: Mapping[str, tuple[Place, Mount]], asked_at_s: float
    ) -> dict[str, LookupReply]:
        """On a database thread."""
        found: dict[str, LookupReply] = {}
        for path, (place, mount) in below.items():
            directory, name = parent_of(f"/{place.key}").lstrip("/"), name_of(place.key)
            max_age_s = freshness.max_age_of(mount, place.key)
            known = listings.find(db, DirectoryName.of(mount, directory), name)
            since_s, now_s = freshness.needed_since(asked_at_s, max_age_s), self._clock()
            newer = self._stats.recall(mount, directory, name)
            if known is None or not known.rows or not freshness.is_good(known.synced_at_s, since_s, now_s):
                continue
            if newer is None or newer.synced_at_s <= known.synced_at_s:
                found[path] = LookupReply(
                    entry=Origin.of(mount, directory).entries(known.rows)[0],
                    mount_id=mount.mount_id,
                    synced_at_s=known.synced_at_s,
                    valid_s=freshness.valid_s(known.synced_at_s, max_age_s, now_s),
                    accessed_s=self._accesses.one(db, mount, directory, name),
                )
        self._meters.lookups.add(len(found), "store")
        return found

    async def list_page(self, request: ListRequest) -> bytes:
        """A page of a directory as an encoded ``ListReply``: building and encoding 10,000 entries is no work for the
        event loop.

        Raises:
            InvalidRequest: no normal path, or a bad page token. NotFound: no such directory. What ``Syncs.bring``
                raises.
        """
        with counting_errors(self._meters.lists):
            place = self._table().place(normalise(request.path))
            tag = directory_tag(place.path, place.mount)
            asked = PageRequest(place, tag, parse_token(tag, request.page_token), request.limit)
            if place.mount is not None:
                return await self._list_mounted(asked, place.mount)
            if not place.is_given:
                raise self._missing(place.path, self._clock(), freshness.NAMESPACE_VALID_S)
            return self._list_given(asked)

    async def sync(self, request: SyncRequest) -> SyncReply:
        """Asks the under store about a path now: about a name, and if it is a directory about all names in it.

        Raises:
            InvalidRequest: no normal path. NotFound: not there. What ``Stats.ask`` and ``Syncs.bring`` raise.
        """
        asked_at_s = self._clock()
        place = self._table().place(normalise(request.path))
        if place.mount is None:
            raise self._missing(place.path, asked_at_s, freshness.NAMESPACE_VALID_S)
        mount, told = place.mount, self._feed.told
        if not place.is_mount_point:
            directory, name = parent_of(f"/{place.key}").lstrip("/"), name_of(place.key)
            known, _ = await self._know(mount, directory, name, asked_at_s)
            if not known.rows:
                raise self._missing(place.path, known.synced_at_s, 0.0)
            if known.rows[0].kind != DIRECTORY:
                return SyncReply(directories=0, changes=self._feed.told - told, synced_at_s=known.synced_at_s)
        if self._stats.has_forgotten(mount):  # names that somebody may hold and this master cannot compare
            self._feed.tell((Change(mount_id=mount.mount_id, path=place.path, kind="dir"),))
        directories = await self._directories(mount, place.key, recursive=request.recursive)
        for some in batched(directories, SYNC_TOGETHER):
            await asyncio.gather(*(self._bring_again(mount, each, asked_at_s, each != place.key) for each in some))
        return SyncReply(directories=len(directories), changes=self._feed.told - told, synced_at_s=asked_at_s)

    async def _directories(self, mount: Mount, directory: str, *, recursive: bool) -> list[str]:
        if not recursive:
            return [directory]
        below = partial(listings.listed_below, name=DirectoryName.of(mount, directory))
        known = {*await self._database.read(below), *self._stats.asked_below(mount, directory)}
        return [directory, *sorted(known - {directory})]

    async def _bring_again(self, mount: Mount, directory: str, since_s: float, may_be_gone: bool) -> None:
        try:
            await self._syncs.bring(mount, directory, since_s, insist=True)
        except NotFound:  # told to those who watch
            if not may_be_gone:
                raise

    def _given(self, place: Place) -> LookupReply:
        self._meters.lookups.add(1, "namespace")
        return LookupReply(
            entry=given_directory(place.path),
            mount_id=place.mount.mount_id if place.is_mount_point and place.mount else None,
            synced_at_s=self._clock(),
            valid_s=freshness.NAMESPACE_VALID_S,
        )

    async def _lookup_below(self, place: Place, mount: Mount) -> LookupReply:
        asked_at_s = self._clock()
        directory, name = parent_of(f"/{place.key}").lstrip("/"), name_of(place.key)
        max_age_s = freshness.max_age_of(mount, place.key)
        known, source = await self._know(mount, directory, name, freshness.needed_since(asked_at_s, max_age_s))
        now_s = self._clock()
        if not known.rows:
            valid_s = freshness.negative_valid_s(known.synced_at_s, max_age_s, now_s)
            raise self._missing(place.path, known.synced_at_s, valid_s)
        self._meters.lookups.add(1, source)
        return LookupReply(
            entry=Origin.of(mount, directory).entries(known.rows)[0],
            mount_id=mount.mount_id,
            synced_at_s=known.synced_at_s,
            valid_s=freshness.valid_s(known.synced_at_s, max_age_s, now_s),
            accessed_s=await self._accesses.of(mount, directory, name),
        )

    async def _know(self, mount: Mount, directory: str, name: str, since_s: float) -> tuple[Known, str]:
        """The newest of what the listing and single answers say, if it is good enough; else the under store. And which
        of the two it was."""
        find = partial(listings.find, name=DirectoryName.of(mount, directory), entry=name)
        listed = await self._database.read(find)
        recalled = self._stats.recall(mount, directory, name)
        now_s = self._clock()
        good = [k for k in (listed, recalled) if k is not None and freshness.is_good(k.synced_at_s, since_s, now_s)]
        if good:
            return max(good, key=lambda known: known.synced_at_s), "store"
        before = max((k for k in (listed, recalled) if k), key=lambda known: known.synced_at_s, default=None)
        return await self._stats.ask(mount, directory, name, since_s, before=before), "ufs"

    async def _list_mounted(self, asked: PageRequest, mount: Mount) -> bytes:
        asked_at_s = self._clock()
        max_age_s = freshness.listing_age_of(mount, asked.place.key)
        since_s = freshness.needed_since(asked_at_s, max_age_s)
        if asked.cursor is not None:
            since_s = freshness.needed_to_continue(asked_at_s, max_age_s, asked.cursor.begun_with_s)
        source = "store"
        for _ in range(SYNC_ROUNDS_MAX):
            page = await self._database.read(partial(self._read_page, asked=asked, mount=mount, since_s=since_s))
            if asked.cursor is not None:
                self._syncs.check_whole(mount, asked.place.key, asked.cursor.begun_with_s)
            if page is not None:
                self._count(source, page.entry_count)
                return page.body
            source = "ufs"
            try:
                page = await self._while_listed(asked, mount, since_s)
                if page is not None:
                    self._count(source, page.entry_count)
                    return page.body
            except NotFound:
                if not asked.place.below:
                    raise
                return self._list_given(asked)
        raise Overloaded("the directory changes hands too fast; list it again", path=asked.place.path)

    async def _while_listed(self, asked: PageRequest, mount: Mount, since_s: float) -> _Page | None:
        """A page of what is certain already of a listing that comes in; ``None`` when all of it is there."""
        seen = asked.after
        while True:
            sight = await self._syncs.sight(mount, asked.place.key, since_s, after=seen, rows=asked.rows_wanted)
            if sight is None:
                return None
            page = await self._database.read(partial(self._read_part, asked=asked, sight=sight))
            if page is not None and page.entry_count:
                return page
            seen = sight.before  # it was thrown away meanwhile, or other mounts hide what is there

    def _read_part(self, db: sqlite3.Connection, asked: PageRequest, sight: Sight) -> _Page | None:
        """On a database thread."""
        rows = listings.part(db, sight.listing, asked.after, sight.before, asked.rows_wanted)
        if rows is None:
            return None
        reply = build_page(asked, rows, synced_at_s=sight.synced_at_s, now_s=self._clock(), before=sight.before)
        return _Page(encode(self.accessed(db, asked, reply)), len(reply.entries))

    def accessed(self, db: sqlite3.Connection, asked: PageRequest, reply: ListReply) -> ListReply:
        """The page with when its files were opened. On a database thread."""
        if not self._accesses.rows or asked.place.mount is None or not reply.entries:
            return reply
        mount, directory, last = asked.place.mount, asked.place.key, reply.entries[-1].name
        found = self._accesses.among(db, mount, directory, after=asked.after, through=last)
        return msgspec.structs.replace(reply, accessed=found) if found else reply

    def _read_page(self, db: sqlite3.Connection, asked: PageRequest, mount: Mount, since_s: float) -> _Page | None:
        """On a database thread: the page if the listing there is good enough."""
        begun_s = perf_counter()
        name = DirectoryName.of(mount, asked.place.key)
        known = listings.page(db, name, asked.after, asked.rows_wanted)
        now_s = self._clock()
        if known is None or not freshness.is_good(known.synced_at_s, since_s, now_s):
            return None
        reply = build_page(asked, known.rows, synced_at_s=known.synced_at_s, now_s=now_s)
        page = _Page(encode(self.accessed(db, asked, reply)), len(reply.entries))
        self._meters.page_seconds.observe(perf_counter() - begun_s)
        return page

    def _list_given(self, asked: PageRequest) -> bytes:
        now_s = self._clock()
        reply = build_page(asked, (), synced_at_s=now_s, now_s=now_s)
        self._count("namespace", len(reply.entries))
        return encode(reply)

    def _count(self, source: str, entry_count: int) -> None:
        self._meters.lists.add(1, source)
        self._meters.entries.add(entry_count)

    @staticmethod
    def _missing(path: str, synced_at_s: float, valid_s: float) -> NotFound:
        return NotFound("no such file or directory", path=path, synced_at_s=synced_at_s, valid_s=valid_s)


def batched(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """``items`` in pieces of at most ``size``."""
    return (items[at : at + size] for at in range(0, len(items), size))
