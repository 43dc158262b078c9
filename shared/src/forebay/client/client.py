"""The async client: names from the masters, bytes from the workers, both cached within named limits.

It meets the cluster in three ways: a registry (who is there; the last good map is kept when it is away), masters
(lookups, listings, tickets; any of them), and workers (block ranges). A file that has a layout needs no master.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import PurePosixPath
from types import TracebackType
from urllib.parse import urlsplit

from forebay.client.blocks import BlockSource, FileVersion
from forebay.client.hints import FILES_MAX, MISSING_NAMED, Part, directories_to_list, parts
from forebay.client.local import LocalBlock, LocalDirs
from forebay.client.masters import ATTEMPT_S, Masters
from forebay.client.members import Members
from forebay.client.metadata import MetadataCache
from forebay.client.options import ClientOptions
from forebay.client.pages import PageCache, as_reply
from forebay.client.readahead import budget_bytes
from forebay.client.reader import Reader, ReaderParts
from forebay.client.segments import SegmentTable
from forebay.client.sockets import LocalSockets
from forebay.client.tasks import Tasks
from forebay.client.tickets import TicketCache
from forebay.client.touches import STILL_OPEN_S, Touches
from forebay.contracts import (
    BatchItem,
    BatchReply,
    BatchRequest,
    ChangesReply,
    ClusterMap,
    Entry,
    HintReply,
    Layout,
    ListReply,
    ListRequest,
    LookupReply,
    LookupRequest,
    SyncReply,
    SyncRequest,
    TicketReply,
    TicketRequest,
    TouchReply,
    TreeReply,
    TreeRequest,
    identity,
)
from forebay.contracts.blocks import HINT_PATH, TICKET_HEADER, TOUCH_PATH
from forebay.contracts.members import master_addresses
from forebay.contracts.names import CHANGES_PATH, SYNC_PATH
from forebay.contracts.tree import BATCH_PATH, TREE_PATH
from forebay.discovery import Registry, open_registry
from forebay.errors import ForebayError, InvalidRequest, NotFound, PeerMisbehaved
from forebay.runtime import Deadline, logs
from forebay.runtime.cgroup import memory_limit_bytes
from forebay.runtime.tls import tls_files
from forebay.telemetry import Telemetry
from forebay.transport import HttpClient

MAP_POLL_S = 25.0
"""How long one wait for the next cluster map lasts."""

TOUCH_DEADLINE_S = 2.0

CHANGES_WAIT_S = 25.0
"""How long one wait for changes lasts."""

TREE_ATTEMPT_S = 15.0
"""Time for one master to fill a page that spans directories."""

SYNC_DEADLINE_S = 900.0
"""Time for one call to ask an under store anew."""


class Client:
    """``async with Client(options, telemetry) as client``. For one event loop."""

    def __init__(self, options: ClientOptions, telemetry: Telemetry) -> None:
        options.validate()
        self.options = options
        self._log = logs.get("forebay.client")
        self._tasks = Tasks(lambda name, error: self._log.error("task failed", task=name, error=repr(error)))
        self._http = HttpClient(
            telemetry,
            tls=tls_files(cert=options.tls_cert, key=options.tls_key, ca=options.tls_ca, cluster_id=options.cluster_id),
            connect_timeout_s=options.connect_timeout_s,
            data_connections=options.data_connections,
        )
        self._registry: Registry = open_registry(
            options.registry, cluster_id=options.cluster_id, telemetry=telemetry, client=self._http
        )
        self._members = Members()
        self._masters = Masters(self._http, self._master_addresses)
        self._metadata = MetadataCache(
            entries_max=options.metadata_cache_entries if options.metadata_cache else 0,
            expire_s=options.metadata_cache_s,
            negative_s=options.negative_cache_s,
        )
        self._pages = PageCache(
            entries_max=options.metadata_cache_entries if options.metadata_cache else 0,
            expire_s=options.metadata_cache_s,
        )
        self._asked: dict[str, asyncio.Event] = {}
        self._touches = Touches()
        self._sockets = LocalSockets(options.short_circuit_dirs if options.short_circuit == "uds" else ())
        self._local = LocalDirs(
            options.short_circuit_dirs if options.short_circuit == "file" else (),
            blocks_max=options.local_blocks_max,
            on_read=lambda n: self._source.bytes_read.add(n, "local"),
        )
        self._build(telemetry)

    def _build(self, telemetry: Telemetry) -> None:
        metrics, options = telemetry.metrics, self.options
        self._tickets = TicketCache(self._fetch_ticket, clock=time.time, tasks=self._tasks)
        self._source = BlockSource(
            self._http,
            options=options,
            members=self._members,
            tickets=self._tickets,
            tasks=self._tasks,
            sockets=self._sockets,
            local_members=lambda: self._local.member_ids | self._sockets.member_ids,
            metrics=metrics,
        )
        self._segments = SegmentTable(
            budget_bytes=readahead_budget(options),
            segment_bytes=options.segment_bytes,
            tasks=self._tasks,
            clock=time.monotonic,
        )
        self._parts = ReaderParts(
            options=options,
            source=self._source,
            segments=self._segments,
            local=self._local,
            open_readers=metrics.gauge("forebay_client_open_readers", "readers that are open"),
        )
        self._looked = metrics.counter("forebay_client_lookups_total", "lookups, by what answered", ("result",))
        metrics.observed("forebay_client_names_held", "answers of masters in memory", lambda: len(self._metadata))
        metrics.observed("forebay_client_readahead_bytes", "readahead held", lambda: self._segments.held_bytes)
        metrics.observed("forebay_client_readahead_readers", "readers that read ahead", lambda: self._segments.readers)
        metrics.observed("forebay_client_local_blocks", "block files open", lambda: len(self._local.open_blocks))
        metrics.observed(
            "forebay_client_touches_dropped", "touch reports that did not fit", lambda: self._touches.dropped
        )

    async def __aenter__(self) -> Client:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Reach the registry and read the first map.

        Raises:
            PeerUnavailable: nothing answered within ``start_deadline_s``.
        """
        deadline = Deadline.after(self.options.start_deadline_s)
        await self._registry.start(deadline)
        self._take_map()
        self._tasks.spawn("map", self._watch_map())
        self._tasks.spawn("touches", self._report_touches())

    async def close(self) -> None:
        """Report what is left to report, stop every task, close every connection and descriptor."""
        self._local.close()
        try:
            self._gather_touches(still_open=False)
            await self._send_touches()
        finally:
            await self._tasks.close()
            await self._registry.close()
            await self._http.close()

    @property
    def cluster_map(self) -> ClusterMap | None:
        """The last good map."""
        return self._members.map

    # -- names

    async def lookup(self, path: str) -> LookupReply:
        """Attributes and layout of an absolute namespace path.

        Raises:
            NotFound: no such path. PermissionDenied, UfsUnavailable, …: what the master said.
            PeerUnavailable: no master answered within ``metadata_deadline_s``.
        """
        path = normal(path)
        now = time.monotonic()
        held = self._metadata.get(path, now)
        if held is None and self.options.metadata_cache and (asked := self._asked.get(path)) is not None:
            await asked.wait()
            held = self._metadata.get(path, time.monotonic())  # nothing, where answers may not be kept: then ask
        if held is None:
            self._looked.add(1, "miss")
            return await self._ask(path)
        self._looked.add(1, "hit" if held.reply is not None else "negative")
        if held.reply is None:
            raise _missing(path, held.missing)
        return held.reply

    def held(self, path: str) -> LookupReply | NotFound | None:
        """What a lookup of ``path`` (as `normal` gives it) would answer without asking a master; ``None``: it would
        ask. For who cannot wait; a path that is not there is given, not raised."""
        held = self._metadata.get(path, time.monotonic())
        if held is None:
            return None
        self._looked.add(1, "hit" if held.reply is not None else "negative")
        return held.reply if held.reply is not None else _missing(path, held.missing)

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
                "/v1/lookup", LookupRequest(path=path), LookupReply, deadline=self._metadata_deadline()
            )
        except NotFound as e:
            self._metadata.put_missing(path, e, time.monotonic(), synced_at_s=asked_at_s)
            raise
        return self._metadata.put(path, reply, time.monotonic())

    async def list_page(self, path: str, page_token: str | None = None, limit: int = 10_000) -> ListReply:
        """One page of a directory with attributes and layouts; the entries' lookups are answered from it later."""
        path = normal(path)
        now_s = time.monotonic()
        held = self._pages.get(path, page_token, limit, now_s)
        is_walk = page_token is None and self._pages.is_walk(path, limit, now_s)
        if held is not None:
            return held
        if is_walk and (walked := await self._walk(path, limit)) is not None:
            return walked
        request = ListRequest(path=path, page_token=page_token, limit=limit)
        reply = await self._masters.call("/v1/list", request, ListReply, deadline=self._metadata_deadline())
        now_s = time.monotonic()
        self._metadata.put_page(path, reply, now_s)
        self._pages.put(path, page_token, limit, reply, now_s)
        return reply

    async def _walk(self, path: str, limit: int) -> ListReply | None:
        """The listing of ``path`` together with those of the directories after it; ``None`` if it is not whole."""
        parent, _, name = path.rpartition("/")
        try:
            pages = await self.tree_page(TreeRequest(path=parent or "/", start=name, limit=limit))
        except (InvalidRequest, NotFound):  # other mounts are in the way: the directory alone says what is so
            return None
        first = pages.directories[0] if pages.directories else None
        whole = first is not None and first.path == path and first.is_first and first.is_last
        return as_reply(first) if first is not None and whole else None

    async def tree_page(self, request: TreeRequest) -> TreeReply:
        """Names of many directories; whole ones are held, and so are the lookups of all names."""
        reply = await self._masters.call(
            TREE_PATH, request, TreeReply, deadline=self._metadata_deadline(), attempt_s=TREE_ATTEMPT_S
        )
        now_s = time.monotonic()
        for page in reply.directories:
            listed = as_reply(page)
            self._metadata.put_page(page.path, listed, now_s)
            if page.is_first and page.is_last:
                self._pages.put(page.path, None, request.limit, listed, now_s)
        return reply

    async def load_names(self, path: str) -> int:
        """Takes in all names below ``path``, as far as the caches hold them; how many there are. On an ``immutable``
        mount no call for metadata is needed afterwards."""
        token, count = None, 0
        while True:
            reply = await self.tree_page(TreeRequest(path=normal(path), page_token=token))
            count += sum(len(page.entries) for page in reply.directories)
            token = reply.next_page_token
            if token is None:
                return count

    async def lookup_many(self, paths: Sequence[str]) -> Sequence[BatchItem]:
        """As ``lookup``, for at most ``BATCH_MAX`` paths in one call: a reply or an error for each, in their order.

        Raises:
            TooLarge: more than that.
        """
        request = BatchRequest(paths=tuple(normal(path) for path in paths))
        reply = await self._masters.call(BATCH_PATH, request, BatchReply, deadline=self._metadata_deadline())
        if len(reply.items) != len(paths):
            raise PeerMisbehaved("the answer to a batch has another length than the batch")
        now_s = time.monotonic()
        for path, item in zip(request.paths, reply.items, strict=True):
            if item.reply is not None:
                self._metadata.put(path, item.reply, now_s)
        return reply.items

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
        """What a master found to have changed since the cursor ``after`` (``None``: from now on), as soon as there is
        something, or nothing after ``wait_s``. What this client held of those names is asked anew at the next lookup.

        Raises:
            PeerUnavailable: no master answered.
        """
        query = f"wait_s={wait_s:g}" if after is None else f"after={after}&wait_s={wait_s:g}"
        longest_s = wait_s + ATTEMPT_S
        reply = await self._masters.call(
            f"{CHANGES_PATH}?{query}",
            None,
            ChangesReply,
            deadline=Deadline.after(longest_s + self.options.metadata_deadline_s),
            method="GET",
            attempt_s=longest_s,
        )
        if reply.reset:
            self._forget_below("/")
        for change in reply.changes:
            (self._forget_below if change.kind == "dir" else self.forget)(change.path)
        return reply

    async def sync(self, path: str, *, recursive: bool = False, deadline_s: float = SYNC_DEADLINE_S) -> SyncReply:
        """Makes the master ask the under store about ``path`` now; what this client held below it is asked anew.

        Raises:
            NotFound: no such path. What the under store said.
        """
        path = normal(path)
        request = SyncRequest(path=path, recursive=recursive)
        reply = await self._masters.call(
            SYNC_PATH, request, SyncReply, deadline=Deadline.after(deadline_s), attempt_s=deadline_s
        )
        self._forget_below(path)
        return reply

    def _forget_below(self, path: str) -> None:
        self._metadata.expire_below(path)
        self._pages.forget_below(path)

    # -- files

    async def open(self, path: str) -> Reader:
        """A reader of the version that a lookup finds now (or found within the cache's time).

        Raises:
            NotFound: no such path. InvalidRequest: a directory.
        """
        path = normal(path)
        found = await self.lookup(path)
        layout, mount_id = found.entry.layout, found.mount_id
        if layout is None or mount_id is None:
            raise InvalidRequest(f"is a directory: {path}", path=path)
        return self.open_layout(mount_id, layout, path)

    def open_layout(self, mount_id: str, layout: Layout, path: str) -> Reader:
        """A reader of the version that ``layout`` names, without a call. ``path`` serves to get a ticket."""
        return Reader(FileVersion(mount_id, layout, path), self._parts)

    def open_block(self, layout: Layout) -> LocalBlock | None:
        """The whole of a file of one block as an open file of this host, if it is here; the caller closes it."""
        if not self._local.usable or not 0 < layout.size <= layout.block_size:
            return None
        block_id = identity.block_id(layout.version_id, layout.block_size, 0)
        return self._local.open(block_id, layout.size, home=self._source.home_of(block_id))

    def is_home_here(self, layout: Layout) -> bool:
        """Whether the home of the file's first block is a worker of this host whose directory can be read."""
        block_id = identity.block_id(layout.version_id, layout.block_size, 0)
        return self._local.usable and self._source.home_of(block_id) in self._local.member_ids

    def homes(self, layout: Layout, limit: int) -> Sequence[str]:
        """Member ids of the homes of the file's blocks, of the first ``limit``; none while there is no worker."""
        count = min(identity.block_count(layout.size, layout.block_size), limit)
        ids = (identity.block_id(layout.version_id, layout.block_size, index) for index in range(count))
        return [home for block_id in ids if (home := self._source.home_of(block_id)) is not None]

    def blocks_here(self, layout: Layout, limit: int) -> int:
        """How many of the file's blocks (of the first ``limit``) lie whole in directories of this host."""
        size, block_size = layout.size, layout.block_size
        return sum(
            self._local.has(
                identity.block_id(layout.version_id, block_size, index),
                identity.block_length(size, block_size, index),
            )
            for index in range(min(identity.block_count(size, block_size), limit))
        )

    @property
    def names_held(self) -> int:
        """Answers of masters that are in memory."""
        return len(self._metadata)

    def forget(self, path: str) -> None:
        """The next lookup of ``path`` asks a master."""
        path = normal(path)
        self._metadata.expire(path)
        self._pages.forget(path)

    # -- what will be read

    async def hint(self, files: Sequence[str], *, epoch: int = 0, seed: int = 0, rank: int = 0) -> int:
        """Tell the workers that this reader will read these files in this order; they fetch them just in time, and keep
        what is about to be read. Another order of the same seed and rank replaces this one. How many blocks were named.

        Raises:
            NotFound: files that are not there; nobody was told anything.
            InvalidRequest: more than ``FILES_MAX`` files, a directory, a negative epoch or rank.
            ForebayError: no worker could be told.
        """
        if len(files) > FILES_MAX or epoch < 0 or rank < 0:
            raise InvalidRequest(f"want at most {FILES_MAX} files, and no negative epoch or rank")
        paths = [normal(path) for path in files]
        for folder in directories_to_list(paths):
            with contextlib.suppress(NotFound):
                async for _ in self.list(folder):
                    pass
        versions = await self._versions(paths)
        stream = f"{self.options.client_id[:128]}:{seed}:{rank}"
        told = parts(versions, stream=stream, epoch=epoch, home_of=self._source.home_of)
        return await self._tell(list(told))

    async def _versions(self, paths: Sequence[str]) -> Sequence[FileVersion]:
        found, missing = list[FileVersion](), list[str]()
        for path in paths:
            try:
                reply = await self.lookup(path)
            except NotFound:
                missing.append(path)
                continue
            if reply.entry.layout is None or reply.mount_id is None:
                raise InvalidRequest(f"is a directory: {path}", path=path)
            found.append(FileVersion(reply.mount_id, reply.entry.layout, path))
        if missing:
            named = ", ".join(missing[:MISSING_NAMED]) + (" …" if len(missing) > MISSING_NAMED else "")
            raise NotFound(f"{len(missing)} of {len(paths)} files of the hint are not there: {named}", path=missing[0])
        return found

    async def _tell(self, told: Sequence[Part]) -> int:
        addresses = {m.member_id: m.tcp for m in (self._members.map.members if self._members.map else ())}
        failed: dict[str, ForebayError] = {}
        count = 0
        for part in told:
            peer = addresses.get(part.member_id)
            if peer is None or part.member_id in failed:
                continue
            deadline = self._metadata_deadline()
            try:
                ticket = (await self._tickets.get(part.mount_id, part.ticket_path)).ticket
                headers = {TICKET_HEADER: ticket}
                await self._http.call(peer, HINT_PATH, part.request, HintReply, deadline=deadline, headers=headers)
                count += len(part.request.blocks)
            except ForebayError as e:
                failed[part.member_id] = e
                self._log.warning("a worker was not told what will be read", member=part.member_id, error=str(e))
        if failed and not count:
            raise next(iter(failed.values()))
        return count

    # -- background

    def _metadata_deadline(self) -> Deadline:
        return Deadline.after(self.options.metadata_deadline_s)

    def _master_addresses(self) -> Sequence[str]:
        """Masters of the map; the embedded registry's own address as well, for it is one."""
        url = urlsplit(self.options.registry)
        own = url.netloc.split(",") if url.scheme in ("http", "https") else []
        return list(dict.fromkeys([*master_addresses(self._members.map), *own]))

    async def _fetch_ticket(self, path: str) -> TicketReply:
        request = TicketRequest(path=path, client_id=self.options.client_id)
        return await self._masters.call("/v1/tickets", request, TicketReply, deadline=self._metadata_deadline())

    def _take_map(self) -> None:
        cluster_map = self._registry.current()
        if cluster_map is None or cluster_map is self._members.map:
            return
        self._members.update(cluster_map)
        self._source.retain({m.member_id for m in cluster_map.members})
        self._local.refresh(cluster_map.members)
        self._sockets.refresh(cluster_map.members)

    async def _watch_map(self) -> None:
        while True:
            held = self._members.map
            try:
                await self._registry.changed(held.revision if held else -1, MAP_POLL_S)
            except ForebayError as e:
                self._log.warning("the registry does not answer; the last map stands", error=str(e))
                await asyncio.sleep(1.0)
            self._take_map()

    async def _report_touches(self) -> None:
        last_open_report = time.monotonic()
        while True:
            await asyncio.sleep(self.options.touch_interval_s)
            still_open = time.monotonic() - last_open_report >= STILL_OPEN_S
            if still_open:
                last_open_report = time.monotonic()
            self._gather_touches(still_open=still_open)
            await self._send_touches()
            self._metadata.sweep(time.monotonic())

    def _gather_touches(self, *, still_open: bool) -> None:
        ended, self._local.ended = self._local.ended, []
        held = self._local.detached_blocks if still_open else ()
        for block in [*ended, *held, *(b for b in self._local.open_blocks if still_open or b.opens)]:
            self._touches.add(block.member_id, block.block_id, opens=block.opens, read_bytes=block.read_bytes)
            block.opens = block.read_bytes = 0

    async def _send_touches(self) -> None:
        """One report per worker; one that does not arrive is lost: it only informs eviction."""
        addresses = {m.member_id: m.tcp for m in (self._members.map.members if self._members.map else ())}
        for member_id, request in self._touches.take().items():
            if (peer := addresses.get(member_id)) is None:
                continue
            try:
                deadline = Deadline.after(TOUCH_DEADLINE_S)
                await self._http.call(peer, TOUCH_PATH, request, TouchReply, deadline=deadline)
            except ForebayError as e:
                self._log.debug("a touch report was lost", member=member_id, error=str(e))


def readahead_budget(options: ClientOptions) -> int:
    """Bytes that all readers of the client may hold ahead."""
    given = options.readahead_budget_bytes
    return given if given is not None else budget_bytes(memory_limit_bytes())


def _missing(path: str, said: NotFound | None) -> NotFound:
    """The master's word again; a new exception, for one that was raised carries its traceback."""
    return NotFound(said.message, **said.details) if said is not None else NotFound(f"no such path: {path}", path=path)


def normal(path: str) -> str:
    """An absolute path without empty parts or a trailing slash.

    Raises:
        InvalidRequest: relative, with ``..`` or NUL.
    """
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidRequest(f"want an absolute path without '..': {path!r}")
    return "/" + str(PurePosixPath(path)).lstrip("/")
