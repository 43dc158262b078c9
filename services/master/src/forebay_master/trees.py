"""Names in bulk: pages that span directories, whole mounts, batches of paths.

A page is filled from the store. Directories that have no good listing yet are brought in on the way, several at a
time, for `EXTRA_S` at most once the page has something in it: a page may end early, never wrong. Only an error of the
first directory is the page's; a later one is met again by the next page.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from forebay.contracts import (
    BatchItem,
    BatchReply,
    BatchRequest,
    DirectoryPage,
    ErrorReply,
    ListReply,
    LookupReply,
    Mount,
    TreeReply,
    TreeRequest,
    encode,
)
from forebay.contracts.tree import BATCH_MAX
from forebay.errors import ForebayError, InvalidRequest, NotFound, Overloaded, TooLarge
from forebay_master import freshness, listings
from forebay_master.access_times import AccessTimes
from forebay_master.catalog import Catalog, batched
from forebay_master.database import Database
from forebay_master.entries import Origin
from forebay_master.leaves import Packed
from forebay_master.listings import DirectoryName
from forebay_master.namespace import MountTable, Place, join, normalise
from forebay_master.observe import Meters, counting_errors
from forebay_master.pages import PageRequest, build_page
from forebay_master.paging import Cursor, directory_tag
from forebay_master.syncs import Syncs
from forebay_master.walks import Spot, Walk, make_token, parse_token

EXTRA_S = 0.5
"""How long a page that has names already waits for further directories."""

AHEAD = 32
"""Directories that are brought in at once for the pages to come."""

TOGETHER = 8
"""Directories that are waited for at once; those after them come in meanwhile."""

COLD_S = 5.0
"""A page with a listing no older than this stands where a tree is coming in: what follows is brought in ahead. Where
listings may not be as old as this, they would be brought in twice."""

LOOK_AHEAD = 3 * AHEAD
"""Directories that are looked at for that."""

ROUNDS_MAX = 10_000
MANIFEST_LIMIT = 10_000
"""Entries in one line of a manifest."""

LOOKUPS_TOGETHER = 64


@dataclass
class _Filling:
    """A page that is being filled. ``spot`` is where to go on (``None``: the end); ``missing`` the directories that
    must be brought in first, the one at ``spot`` in front."""

    walk: Walk
    since: Callable[[str], float]
    limit: int
    spot: Spot | None
    pages: list[DirectoryPage] = field(default_factory=list)
    count: int = 0
    missing: tuple[str, ...] = ()
    packed: bool = False
    was_cold: bool = False


class Trees:
    """Answers for many names at once. ``clock`` is wall time."""

    def __init__(
        self,
        table: Callable[[], MountTable],
        database: Database,
        syncs: Syncs,
        catalog: Catalog,
        meters: Meters,
        *,
        clock: Callable[[], float],
        accesses: AccessTimes,
    ) -> None:
        self._table = table
        self._accesses = accesses
        self._database = database
        self._syncs = syncs
        self._catalog = catalog
        self._meters = meters
        self._clock = clock
        self.manifest_limit = MANIFEST_LIMIT

    async def page(self, request: TreeRequest) -> bytes:
        """A page of a tree as an encoded ``TreeReply``.

        Raises:
            InvalidRequest: no normal path, a bad token, or nothing that one mount holds. NotFound: no such directory.
            What ``Syncs.bring`` raises for the first directory.
        """
        with counting_errors(self._meters.trees):
            body = await self._page(request)
        self._meters.trees.add(1, "done")
        return body

    async def _page(self, request: TreeRequest) -> bytes:
        place = self._table().place(normalise(request.path))
        if place.mount is None:
            raise NotFound("no mount holds this path", path=place.path)
        walk = Walk(place.mount, place.key, request.depth, self._hidden(place.mount))
        tag = directory_tag(f"tree {request.depth} {place.path}", place.mount)
        spot = self._begin(walk, tag, request)
        filling = _Filling(walk, self._needed(place.mount), request.limit, spot, packed=request.packed)
        await self._fill(filling)
        if filling.spot is not None and self._is_coming_in(filling):
            ahead = await self._database.read(partial(self._ahead, filling=filling, directory=filling.spot.directory))
            self._syncs.bring_ahead(place.mount, ahead, filling.since)
        self._meters.entries.add(filling.count)
        token = make_token(tag, filling.spot) if filling.spot is not None else None
        return await asyncio.to_thread(encode, TreeReply(directories=tuple(filling.pages), next_page_token=token))

    async def manifest(self, mount_id: str, token: str | None) -> AsyncGenerator[bytes, None]:
        """All names of a mount, as pages of its tree, each an encoded ``TreeReply`` and a newline."""
        while True:
            mount = next((mount for mount in self._table().mounts if mount.mount_id == mount_id), None)
            if mount is None:
                raise NotFound("no such mount", mount_id=mount_id)
            body = await self.page(TreeRequest(path=mount.path, page_token=token, limit=self.manifest_limit))
            yield body + b"\n"
            token = next_token(body)
            if token is None:
                return

    async def batch(self, request: BatchRequest) -> BatchReply:
        """Attributes and layouts of many paths.

        Raises:
            TooLarge: more than ``BATCH_MAX``.
        """
        if len(request.paths) > BATCH_MAX:
            raise TooLarge(f"a batch has at most {BATCH_MAX} paths", limit=BATCH_MAX)
        known = await self._catalog.known(request.paths)
        items: dict[str, BatchItem] = {path: BatchItem(reply=reply) for path, reply in known.items()}
        rest = [path for path in dict.fromkeys(request.paths) if path not in items]
        for some in batched(rest, LOOKUPS_TOGETHER):
            items.update(zip(some, await asyncio.gather(*map(self._item, some)), strict=True))
        return BatchReply(items=tuple(items[path] for path in request.paths))

    async def _item(self, path: str) -> BatchItem:
        try:
            reply: LookupReply = await self._catalog.lookup(path)
        except ForebayError as e:
            return BatchItem(error=ErrorReply(code=e.code, message=e.message, details=e.details, retryable=e.retryable))
        return BatchItem(reply=reply)

    def _hidden(self, mount: Mount) -> frozenset[str]:
        """Keys of the mount where another one is mounted, or a directory leads to one."""
        base = "" if mount.path == "/" else mount.path
        return frozenset(
            path[len(base) + 1 :]
            for path in self._table().given_paths()
            if path.startswith(f"{base}/") and path != mount.path
        )

    def _needed(self, mount: Mount) -> Callable[[str], float]:
        asked_at_s = self._clock()
        return lambda directory: freshness.needed_since(asked_at_s, freshness.listing_age_of(mount, directory))

    @staticmethod
    def _begin(walk: Walk, tag: bytes, request: TreeRequest) -> Spot:
        if request.page_token is not None:
            spot = parse_token(tag, request.page_token)
        elif request.start is not None:
            spot = Spot(f"{walk.root}/{request.start}" if walk.root else request.start)
        else:
            spot = Spot(walk.root)
        if not walk.contains(spot.directory) or spot.directory in walk.hidden:
            raise InvalidRequest("the walk does not come by there", reason="other_directory")
        return spot

    async def _fill(self, filling: _Filling) -> None:
        until_s = monotonic() + EXTRA_S
        for _ in range(ROUNDS_MAX):
            await self._database.read(partial(self._take, filling=filling))
            if filling.spot is None or filling.count >= filling.limit or not filling.missing:
                return
            if filling.pages and monotonic() > until_s:
                return
            if not await self._bring(filling):
                return
        raise Overloaded("the directories change hands too fast; begin anew", path=filling.walk.mount.path)

    async def _bring(self, filling: _Filling) -> bool:
        """Brings missing directories in; whether there is something to go on with."""
        mount, spot = filling.walk.mount, filling.spot
        assert spot is not None
        filling.was_cold = True
        self._syncs.bring_ahead(mount, filling.missing[TOGETHER:], filling.since)
        tasks = [self._syncs.bring_missing(mount, each, filling.since(each)) for each in filling.missing[:TOGETHER]]
        first = (await asyncio.gather(*tasks, return_exceptions=True))[0]
        if not isinstance(first, BaseException):
            return True
        if not isinstance(first, ForebayError) or not filling.pages:
            raise first
        if not isinstance(first, NotFound):
            return False  # the next page begins there, and says so
        skipped = partial(filling.walk.following, directory=spot.directory, enter=False)
        after = await self._database.read(skipped)
        filling.spot = Spot(after) if after is not None else None
        return after is not None

    def _is_coming_in(self, filling: _Filling) -> bool:
        age_s = freshness.listing_age_of(filling.walk.mount, filling.walk.root)
        if age_s is not None and age_s < COLD_S:
            return False
        return filling.was_cold or any(self._clock() - page.synced_at_s < COLD_S for page in filling.pages)

    def _take(self, db: sqlite3.Connection, filling: _Filling) -> None:
        """On a database thread: directories into the page, as long as they have good listings."""
        filling.missing = ()
        while filling.spot is not None and filling.count < filling.limit:
            page = self._directory(db, filling, filling.spot)
            if page is None:
                first = filling.spot.directory
                filling.missing = tuple(dict.fromkeys((first, *self._ahead(db, filling, first))))
                return
            filling.pages.append(page.page)
            filling.count += page.count
            if not page.page.is_last:
                begun_s = filling.spot.begun_with_s if filling.spot.after else page.page.synced_at_s
                filling.spot = Spot(filling.spot.directory, page.last, begun_s)
                return
            following = filling.walk.following(db, filling.spot.directory)
            filling.spot = Spot(following) if following is not None else None

    def _directory(self, db: sqlite3.Connection, filling: _Filling, spot: Spot) -> _Part | None:
        mount, now_s = filling.walk.mount, self._clock()
        since_s = filling.since(spot.directory)
        cursor = Cursor(spot.begun_with_s, spot.after) if spot.after else None
        if cursor is not None:
            age_s = freshness.listing_age_of(mount, spot.directory)
            since_s = freshness.needed_to_continue(now_s, age_s, cursor.begun_with_s)
        path = join(mount.path, spot.directory) if spot.directory else mount.path
        place: Place = self._table().place(path)
        asked = PageRequest(place, b"", cursor, max(1, filling.limit - filling.count))
        name = DirectoryName.of(mount, spot.directory)
        if filling.packed and not place.below:
            held = listings.packed(db, name, asked.after, asked.limit)
            if held is None or not freshness.is_good(held[0], since_s, now_s):
                return None
            accessed = self._accesses.among(db, mount, spot.directory, after=asked.after, through=held[1].last)
            return packed_part(asked, mount, *held, now_s=now_s, accessed=accessed)
        known = listings.page(db, name, asked.after, asked.rows_wanted)
        if known is None or not freshness.is_good(known.synced_at_s, since_s, now_s):
            return None
        reply = build_page(asked, known.rows, synced_at_s=known.synced_at_s, now_s=now_s)
        return listed_part(asked, self._catalog.accessed(db, asked, reply))

    def _ahead(self, db: sqlite3.Connection, filling: _Filling, directory: str) -> tuple[str, ...]:
        """Which of the directory and those after it, as far as they are known, have no good listing."""
        missing: list[str] = []
        each: str | None = directory
        now_s = self._clock()
        for _ in range(LOOK_AHEAD):
            if each is None or len(missing) == AHEAD:
                break
            synced_at_s = listings.synced_at(db, DirectoryName.of(filling.walk.mount, each))
            if synced_at_s is None or not freshness.is_good(synced_at_s, filling.since(each), now_s):
                missing.append(each)
            each = filling.walk.following(db, each)
        return tuple(missing)


@dataclass(frozen=True)
class _Part:
    """A directory's part of a page: so many names, the last of them."""

    page: DirectoryPage
    count: int
    last: str


def listed_part(asked: PageRequest, reply: ListReply) -> _Part:
    """A directory's names as records."""
    page = DirectoryPage(
        path=asked.place.path,
        entries=reply.entries,
        mount_id=reply.mount_id,
        synced_at_s=reply.synced_at_s,
        valid_s=reply.valid_s,
        is_first=asked.cursor is None,
        is_last=reply.next_page_token is None,
        accessed=reply.accessed,
    )
    return _Part(page, len(reply.entries), reply.entries[-1].name if reply.entries else "")


def packed_part(
    asked: PageRequest, mount: Mount, synced_at_s: float, names: Packed, *, now_s: float, accessed: dict[str, float]
) -> _Part:
    """A directory's names as leaves."""
    page = DirectoryPage(
        path=asked.place.path,
        entries=(),
        mount_id=mount.mount_id,
        synced_at_s=synced_at_s,
        valid_s=freshness.valid_s(synced_at_s, freshness.listing_age_of(mount, asked.place.key), now_s),
        is_first=asked.cursor is None,
        is_last=not names.more,
        shared=Origin.of(mount, asked.place.key).shared,
        leaves=names.leaves,
        accessed=accessed,
    )
    return _Part(page, names.count, names.last)


def next_token(body: bytes) -> str | None:
    """The token at the end of an encoded ``TreeReply``, without reading all of it."""
    _, _, rest = body.rpartition(b'"next_page_token":')
    text = rest.removesuffix(b"}").strip(b'"').decode()
    return None if text == "null" else text
