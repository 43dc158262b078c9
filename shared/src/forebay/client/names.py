"""Names as a client sees them: asked of the masters, held within named limits, forgotten when they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import PurePosixPath

import msgspec

from forebay.client.accesses import AccessTimes
from forebay.client.masters import ATTEMPT_S, Masters
from forebay.client.metadata import MetadataCache
from forebay.client.options import ClientOptions
from forebay.client.pages import PageCache, as_reply
from forebay.contracts import (
    BatchItem,
    BatchReply,
    BatchRequest,
    ChangesReply,
    DirectoryPage,
    Entry,
    ListReply,
    ListRequest,
    LookupReply,
    LookupRequest,
    SyncReply,
    SyncRequest,
    TreeReply,
    TreeRequest,
)
from forebay.contracts.names import CHANGES_PATH, SYNC_PATH
from forebay.contracts.tree import BATCH_PATH, TREE_PATH, unpacked
from forebay.errors import InvalidRequest, NotFound, PeerMisbehaved
from forebay.runtime import Deadline
from forebay.telemetry import Metrics

CHANGES_WAIT_S = 25.0
"""How long one wait for changes lasts."""

TREE_ATTEMPT_S = 15.0
"""Time for one master to fill a page that spans directories."""

WALK_NAMES = 10_000
"""Names asked for at once by whoever walks over directories, however small the pages that are wanted of each."""

SYNC_DEADLINE_S = 900.0
"""Time for one call to ask an under store anew."""


class Names:
    """Lookups and listings by absolute path. For one event loop; what the calls promise stands at `Client`."""

    def __init__(
        self, masters: Masters, options: ClientOptions, metrics: Metrics, accesses: AccessTimes | None = None
    ) -> None:
        self._masters = masters
        self._accesses = accesses
        self._options = options
        entries_max = options.metadata_cache_entries if options.metadata_cache else 0
        self._cache = MetadataCache(
            entries_max=entries_max, expire_s=options.metadata_cache_s, negative_s=options.negative_cache_s
        )
        self._pages = PageCache(entries_max=entries_max, expire_s=options.metadata_cache_s)
        self._asked: dict[str, asyncio.Event] = {}
        self._too_large: str | None = None
        """Where the last walk met a directory that is larger than the pages that are wanted: it goes on singly."""
        looked = metrics.counter("forebay_client_lookups_total", "lookups, by what answered", ("result",))
        self._hit, self._negative, self._miss = (looked.cell(result) for result in ("hit", "negative", "miss"))
        metrics.observed("forebay_client_names_held", "answers of masters in memory", lambda: len(self._cache))

    def __len__(self) -> int:
        """Answers of masters that are in memory."""
        return len(self._cache)

    async def lookup(self, path: str) -> LookupReply:
        """`Client.lookup`; who looks for the same path at once shares one call."""
        path = normal(path)
        now = time.monotonic()
        held = self._cache.get(path, now)
        if held is None and self._options.metadata_cache and (asked := self._asked.get(path)) is not None:
            await asked.wait()
            held = self._cache.get(path, time.monotonic())  # nothing, where answers may not be kept: then ask
        if held is None:
            self._miss.count += 1
            return await self._ask(path)
        if held.reply is None:
            self._negative.count += 1
            raise _missing(path, held.missing)
        self._hit.count += 1
        return held.reply

    def held(self, path: str) -> LookupReply | NotFound | None:
        """`Client.held`."""
        held = self._cache.get(path, time.monotonic())
        if held is None:
            return None
        if held.reply is None:
            self._negative.count += 1
            return _missing(path, held.missing)
        self._hit.count += 1
        return held.reply

    async def _ask(self, path: str) -> LookupReply:
        """A master's answer; who looks for the same path meanwhile waits for it."""
        answered = asyncio.Event()
        is_first = self._asked.setdefault(path, answered) is answered
        try:
            return await self._lookup_master(path)
        finally:
            if is_first:
                del self._asked[path]
                answered.set()

    async def _lookup_master(self, path: str) -> LookupReply:
        asked_at_s = time.time()
        try:
            reply = await self._masters.call(
                "/v1/lookup", LookupRequest(path=path), LookupReply, deadline=self._deadline()
            )
        except NotFound as e:
            self._cache.put_missing(path, e, time.monotonic(), synced_at_s=asked_at_s)
            raise
        self._heard_of(path, reply)
        return self._cache.put(path, reply, time.monotonic())

    async def list_page(self, path: str, page_token: str | None = None, limit: int = 10_000) -> ListReply:
        """One page of a directory with attributes and layouts; the entries' lookups are answered from it later, also
        where the page itself is held: whoever lists a directory looks at what is in it next."""
        path = normal(path)
        now_s = time.monotonic()
        held = self._pages.get(path, page_token, limit, now_s)
        is_walk = page_token is None and self._pages.is_walk(path, limit, now_s)
        if held is not None:
            self._cache.put_page(path, held, now_s)
            return held
        if is_walk and self._too_large != parent_of(path) and (walked := await self._walk(path, limit)) is not None:
            return walked
        request = ListRequest(path=path, page_token=page_token, limit=limit)
        reply = await self._masters.call("/v1/list", request, ListReply, deadline=self._deadline())
        now_s = time.monotonic()
        self._heard(path, reply.accessed)
        self._cache.put_page(path, reply, now_s)
        self._pages.put(path, page_token, limit, reply, now_s)
        return reply

    async def _walk(self, path: str, limit: int) -> ListReply | None:
        """The listing of ``path`` together with those of the directories after it; ``None`` if it is not whole."""
        parent, _, name = path.rpartition("/")
        try:
            asked = TreeRequest(path=parent or "/", start=name, limit=max(limit, WALK_NAMES))
            pages = await self.tree_page(asked, held_for=limit)
        except (InvalidRequest, NotFound):  # other mounts are in the way: the directory alone says what is so
            return None
        first = pages.directories[0] if pages.directories else None
        whole = first is not None and first.path == path and first.is_first and first.is_last
        if first is not None and len(first.entries) > limit:
            self._too_large = parent_of(path)
            return None
        return as_reply(first) if first is not None and whole else None

    async def tree_page(self, request: TreeRequest, *, held_for: int | None = None) -> TreeReply:
        """Names of many directories; whole ones are held, for those who list them with the limit ``held_for``, and so
        are the lookups of all names."""
        limit = request.limit if held_for is None else held_for
        return self._taken(await self._ask_tree(request), limit)

    async def tree(self, path: str) -> AsyncGenerator[TreeReply, None]:
        """`Client.tree`. A master fills the next page while one is taken apart here."""
        request = TreeRequest(path=normal(path), limit=WALK_NAMES)
        coming = asyncio.ensure_future(self._ask_tree(request))
        try:
            while True:
                answer = await coming
                token = answer.next_page_token
                if token is not None:
                    coming = asyncio.ensure_future(self._ask_tree(msgspec.structs.replace(request, page_token=token)))
                    await asyncio.sleep(0)  # so that the request goes out first
                yield self._taken(answer, request.limit)
                if token is None:
                    return
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _ask_tree(self, request: TreeRequest) -> TreeReply:
        packed = msgspec.structs.replace(request, packed=True)
        return await self._masters.call(
            TREE_PATH, packed, TreeReply, deadline=self._deadline(), attempt_s=TREE_ATTEMPT_S
        )

    def _taken(self, answer: TreeReply, limit: int) -> TreeReply:
        reply = msgspec.structs.replace(answer, directories=tuple(map(_unpacked, answer.directories)))
        now_s = time.monotonic()
        for page in reply.directories:
            listed = as_reply(page)
            self._heard(page.path, page.accessed)
            self._cache.put_page(page.path, listed, now_s)
            if page.is_first and page.is_last and len(page.entries) <= limit:
                self._pages.put(page.path, None, limit, listed, now_s)
        return reply

    async def load_names(self, path: str) -> int:
        """`Client.load_names`."""
        count = 0
        async with aclosing(self.tree(path)) as pages:
            async for reply in pages:
                count += sum(len(page.entries) for page in reply.directories)
        return count

    async def lookup_many(self, paths: Sequence[str]) -> Sequence[BatchItem]:
        """`Client.lookup_many`."""
        request = BatchRequest(paths=tuple(normal(path) for path in paths))
        reply = await self._masters.call(BATCH_PATH, request, BatchReply, deadline=self._deadline())
        if len(reply.items) != len(paths):
            raise PeerMisbehaved("the answer to a batch has another length than the batch")
        now_s = time.monotonic()
        for path, item in zip(request.paths, reply.items, strict=True):
            if item.reply is not None:
                self._heard_of(path, item.reply)
                self._cache.put(path, item.reply, now_s)
        return reply.items

    def _heard_of(self, path: str, reply: LookupReply) -> None:
        if reply.accessed_s is not None:
            self._heard(parent_of(path), {reply.entry.name: reply.accessed_s})

    def _heard(self, directory: str, accessed: Mapping[str, float]) -> None:
        if self._accesses is not None:
            self._accesses.heard(directory, accessed)

    async def list(self, path: str) -> AsyncIterator[Entry]:
        """All entries of a directory, in byte order of names."""
        token: str | None = None
        while True:
            page = await self.list_page(path, token)
            for entry in page.entries:
                yield entry
            token = page.next_page_token
            if token is None:
                return

    async def changes(self, after: str | None, wait_s: float = CHANGES_WAIT_S) -> ChangesReply:
        """`Client.changes`."""
        query = f"wait_s={wait_s:g}" if after is None else f"after={after}&wait_s={wait_s:g}"
        longest_s = wait_s + ATTEMPT_S
        reply = await self._masters.call(
            f"{CHANGES_PATH}?{query}",
            None,
            ChangesReply,
            deadline=Deadline.after(longest_s + self._options.metadata_deadline_s),
            method="GET",
            attempt_s=longest_s,
        )
        if reply.reset:
            self._forget_below("/")
        for change in reply.changes:
            (self._forget_below if change.kind == "dir" else self.forget)(change.path)
        return reply

    async def sync(self, path: str, *, recursive: bool = False, deadline_s: float = SYNC_DEADLINE_S) -> SyncReply:
        """`Client.sync`."""
        path = normal(path)
        request = SyncRequest(path=path, recursive=recursive)
        reply = await self._masters.call(
            SYNC_PATH, request, SyncReply, deadline=Deadline.after(deadline_s), attempt_s=deadline_s
        )
        self._forget_below(path)
        return reply

    def forget(self, path: str) -> None:
        """The next lookup of ``path`` asks a master."""
        path = normal(path)
        self._cache.expire(path)
        self._pages.forget(path)

    def _forget_below(self, path: str) -> None:
        self._cache.expire_below(path)
        self._pages.forget_below(path)

    def sweep(self) -> None:
        """Drops what is of no use any more."""
        now_s = time.monotonic()
        self._cache.sweep(now_s)
        self._pages.sweep(now_s)

    def _deadline(self) -> Deadline:
        return Deadline.after(self._options.metadata_deadline_s)


def _unpacked(page: DirectoryPage) -> DirectoryPage:
    try:
        return unpacked(page)
    except InvalidRequest as e:
        raise PeerMisbehaved(f"the names of {page.path} cannot be read: {e.message}") from e


def _missing(path: str, said: NotFound | None) -> NotFound:
    """The master's word again; a new exception, for one that was raised carries its traceback."""
    return NotFound(said.message, **said.details) if said is not None else NotFound(f"no such path: {path}", path=path)


def parent_of(path: str) -> str:
    """The directory that holds a normal path."""
    return path.rpartition("/")[0] or "/"


def normal(path: str) -> str:
    """An absolute path without empty parts or a trailing slash.

    Raises:
        InvalidRequest: relative, with ``..`` or NUL.
    """
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidRequest(f"want an absolute path without '..': {path!r}")
    return "/" + str(PurePosixPath(path)).lstrip("/")
