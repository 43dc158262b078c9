"""The async client: names from the masters, bytes from the workers, both cached within named limits.

It meets the cluster in three ways: a registry (who is there; the last good map is kept when it is away), masters
(lookups, listings, tickets; any of them), and workers (block ranges). A file that has a layout needs no master.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from types import TracebackType
from urllib.parse import urlsplit

from forebay.client.accesses import AccessTimes
from forebay.client.blocks import BlockSource
from forebay.client.hinting import Hinting
from forebay.client.local import LocalBlock, LocalDirs
from forebay.client.masters import Masters
from forebay.client.members import Members
from forebay.client.names import CHANGES_WAIT_S, SYNC_DEADLINE_S, Names, normal
from forebay.client.options import ClientOptions
from forebay.client.readahead import budget_bytes
from forebay.client.reader import Reader, ReaderParts
from forebay.client.reports import TouchReports
from forebay.client.segments import SegmentTable
from forebay.client.sockets import LocalSockets
from forebay.client.tasks import Tasks
from forebay.client.tickets import TicketCache
from forebay.client.wanted import FileVersion
from forebay.contracts import (
    BatchItem,
    ChangesReply,
    ClusterMap,
    Entry,
    Layout,
    ListReply,
    LookupReply,
    SyncReply,
    TicketReply,
    TicketRequest,
    TreeReply,
    TreeRequest,
    identity,
)
from forebay.contracts.members import master_addresses
from forebay.discovery import Registry, RegistryOptions, open_registry
from forebay.errors import ForebayError, InvalidRequest, NotFound
from forebay.runtime import Deadline, logs
from forebay.runtime.cgroup import memory_limit_bytes
from forebay.runtime.tls import tls_files
from forebay.telemetry import Telemetry
from forebay.transport import HttpClient

MAP_POLL_S = 25.0
"""How long one wait for the next cluster map lasts."""

HINTED_TOUCH_S = 0.1
"""How often a client that told the order of its reads says what it read in place: workers fetch and evict by it."""


def registry_options(options: ClientOptions) -> RegistryOptions:
    """The times of the client's registry connection."""
    refresh_s, usual = options.worker_list_refresh_s, RegistryOptions()
    return replace(usual, refresh_s=refresh_s, poll_s=min(usual.poll_s, refresh_s))


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
            options.registry,
            cluster_id=options.cluster_id,
            telemetry=telemetry,
            client=self._http,
            options=registry_options(options),
        )
        self._members = Members()
        self._masters = Masters(self._http, self._master_addresses)
        self._accesses = (
            AccessTimes(self._http, self._master_addresses, telemetry.metrics) if options.update_access_time else None
        )
        self._names = Names(self._masters, options, telemetry.metrics, self._accesses)
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
        self._hinting = Hinting(
            self._http, self._names, self._tickets, self._members, options=options, home_of=self._source.home_of
        )
        self._has_hinted = False
        self._reports = TouchReports(self._http, self._members, self._local, metrics)
        self._parts = ReaderParts(
            options=options,
            source=self._source,
            segments=self._segments,
            local=self._local,
            open_readers=metrics.gauge("forebay_client_open_readers", "readers that are open"),
        )
        metrics.observed("forebay_client_readahead_bytes", "readahead held", lambda: self._segments.held_bytes)
        metrics.observed("forebay_client_readahead_readers", "readers that read ahead", lambda: self._segments.readers)
        metrics.observed("forebay_client_local_blocks", "block files open", lambda: len(self._local.open_blocks))

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
        self._tasks.spawn("touches", self._report())

    async def close(self) -> None:
        """Report what is left to report, stop every task, close every connection and descriptor."""
        self._local.close()
        try:
            self._reports.gather(still_open=False)
            await self._reports.send()
            if self._accesses is not None:
                await self._accesses.send()
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
        return await self._names.lookup(path)

    def held(self, path: str) -> LookupReply | NotFound | None:
        """What a lookup of ``path`` (as `normal` gives it) would answer without asking a master; ``None``: it would
        ask. For who cannot wait; a path that is not there is given, not raised."""
        return self._names.held(path)

    async def list_page(self, path: str, page_token: str | None = None, limit: int = 10_000) -> ListReply:
        """One page of a directory with attributes and layouts; the entries' lookups are answered from it later."""
        return await self._names.list_page(path, page_token, limit)

    async def tree_page(self, request: TreeRequest) -> TreeReply:
        """Names of many directories; whole ones are held, and so are the lookups of all names."""
        return await self._names.tree_page(request)

    def tree(self, path: str) -> AsyncGenerator[TreeReply, None]:
        """All names below ``path`` of one mount, in pages that span directories (as ``tree_page``); close it
        (``contextlib.aclosing``) where it is left early."""
        return self._names.tree(path)

    async def load_names(self, path: str) -> int:
        """Takes in all names below ``path``, as far as the caches hold them; how many there are. On an ``immutable``
        mount no call for metadata is needed afterwards, for ``metadata_cache_s``."""
        return await self._names.load_names(path)

    async def lookup_many(self, paths: Sequence[str]) -> Sequence[BatchItem]:
        """As ``lookup``, for at most ``BATCH_MAX`` paths in one call: a reply or an error for each, in their order.

        Raises:
            TooLarge: more than that.
        """
        return await self._names.lookup_many(paths)

    def list(self, path: str) -> AsyncIterator[Entry]:
        """All entries of a directory, in byte order of names."""
        return self._names.list(path)

    async def changes(self, after: str | None, wait_s: float = CHANGES_WAIT_S) -> ChangesReply:
        """What a master found to have changed since the cursor ``after`` (``None``: from now on), as soon as there is
        something, or nothing after ``wait_s``. What this client held of those names is asked anew at the next lookup.

        Raises:
            PeerUnavailable: no master answered.
        """
        return await self._names.changes(after, wait_s)

    async def sync(self, path: str, *, recursive: bool = False, deadline_s: float = SYNC_DEADLINE_S) -> SyncReply:
        """Makes the master ask the under store about ``path`` now; what this client held below it is asked anew.

        Raises:
            NotFound: no such path. What the under store said.
        """
        return await self._names.sync(path, recursive=recursive, deadline_s=deadline_s)

    def forget(self, path: str) -> None:
        """The next lookup of ``path`` asks a master."""
        self._names.forget(path)

    @property
    def names_held(self) -> int:
        """Answers of masters that are in memory."""
        return len(self._names)

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
        self.note_open(path)
        return self.open_layout(mount_id, layout, path)

    def note_open(self, path: str) -> None:
        """A program opened the file at ``path`` (as `normal` gives it) past `open`: its access time, where those are
        told (``update_access_time``)."""
        if self._accesses is not None:
            self._accesses.opened(path, time.time())

    def accessed_s(self, path: str) -> float | None:
        """When a file was last opened (Unix time), here or as masters said; ``None`` where that is not known, or not
        told."""
        return self._accesses.of(path) if self._accesses is not None else None

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

    # -- what will be read

    async def hint(
        self, files: Sequence[str], *, epoch: int = 0, seed: int = 0, rank: int = 0, is_next: bool = False
    ) -> int:
        """Tell the workers that this reader will read these files in this order; they fetch them just in time, and keep
        what is about to be read. Another order of the same seed and rank replaces this one; one that ``is_next`` is
        added to it: what it begins with is fetched when nothing more is to be fetched for the one that is being read.
        How many blocks were named.

        Raises:
            NotFound: files that are not there; nobody was told anything.
            InvalidRequest: more than ``FILES_MAX`` files, a directory, a negative epoch or rank.
            ForebayError: no worker could be told.
        """
        self._has_hinted = True
        return await self._hinting.hint(files, epoch=epoch, seed=seed, rank=rank, is_next=is_next)

    # -- background

    def _master_addresses(self) -> Sequence[str]:
        """Masters of the map; the embedded registry's own address as well, for it is one."""
        url = urlsplit(self.options.registry)
        own = url.netloc.split(",") if url.scheme in ("http", "https") else []
        return list(dict.fromkeys([*master_addresses(self._members.map), *own]))

    async def _fetch_ticket(self, path: str) -> TicketReply:
        request = TicketRequest(path=path, client_id=self.options.client_id)
        deadline = Deadline.after(self.options.metadata_deadline_s)
        return await self._masters.call("/v1/tickets", request, TicketReply, deadline=deadline)

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

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(report_pause_s(self.options.touch_interval_s, has_hinted=self._has_hinted))
            await self._reports.turn()
            if self._accesses is not None:
                await self._accesses.turn()
            self._names.sweep()
            self._segments.sweep()


def report_pause_s(touch_interval_s: float, *, has_hinted: bool) -> float:
    """Between two touch reports: workers follow by them a reader that told its order and reads in place."""
    return min(touch_interval_s, HINTED_TOUCH_S) if has_hinted else touch_interval_s


def readahead_budget(options: ClientOptions) -> int:
    """Bytes that all readers of the client may hold ahead."""
    given = options.readahead_budget_bytes
    return given if given is not None else budget_bytes(memory_limit_bytes())
