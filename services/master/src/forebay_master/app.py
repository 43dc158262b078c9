"""Builds one master from its settings, runs it, takes it down: the only place where concrete parts are made."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import forebay_master
from forebay.contracts import ClusterMap, Member, MountRequest, UfsOptions
from forebay.contracts.tickets import KeyRing
from forebay.discovery import (
    EmbeddedHub,
    Registry,
    RegistryOptions,
    add_map_route,
    add_registry_routes,
    local_registry,
    open_registry,
    parse_registry_url,
)
from forebay.errors import (
    CallerError,
    ConfigError,
    DeadlineExceeded,
    Detail,
    ForebayError,
    PeerUnavailable,
    UfsError,
    UfsUnavailable,
)
from forebay.runtime import (
    Deadline,
    Supervisor,
    check_exposure,
    is_loopback,
    logs,
    read_admin_token,
    read_key_ring,
    read_tls,
    stop_event,
)
from forebay.runtime.tls import TlsFiles
from forebay.telemetry import Telemetry, setup
from forebay.transport import HttpClient, HttpServer
from forebay.transport.app import ServiceInfo, make_app
from forebay.ufs import AllowedRoots, Ufs, UfsUri, open_ufs
from forebay_master import listings, records
from forebay_master.access_times import AccessTimes
from forebay_master.catalog import Catalog
from forebay_master.changes import Feed
from forebay_master.dashboard import DashboardRoutes
from forebay_master.database import Database
from forebay_master.handlers import MasterRoutes
from forebay_master.leading import Leading, follow, settle, write_maps
from forebay_master.load_routes import LoadRoutes
from forebay_master.load_store import JobStore, SqliteJobStore
from forebay_master.load_terms import keep_terms
from forebay_master.loading import WorkerCalls
from forebay_master.loads import Loads
from forebay_master.mount_store import MountStore, SqliteMountStore
from forebay_master.mounts import Mounts
from forebay_master.namespace import MountTable
from forebay_master.observe import Meters
from forebay_master.overview import Overview
from forebay_master.settings import (
    KEY_FILE_NAME,
    MOUNT_SETTING,
    MasterSettings,
    mount_requests,
    state_directory,
)
from forebay_master.sources import Sources
from forebay_master.stats import Stats
from forebay_master.status import MasterStatus
from forebay_master.syncs import Syncs
from forebay_master.ticketing import TicketOffice
from forebay_master.trees import Trees
from forebay_master.znode_jobs import ZnodeJobStore
from forebay_master.znode_mounts import ZnodeMountStore

SERVICE = "forebay-master"
PROBE_PAUSE_S = 1.0
ANNOUNCE_PAUSE_S = 1.0
MOUNTS_WAIT_S = 5.0
COUNT_PERIOD_S = 2.0
"""How often the counts of the status page are read from the store, when something has changed."""

LOG = logs.get(__name__)


@dataclass(frozen=True)
class Prepared:
    """What is read and checked before anything listens."""

    settings: MasterSettings
    requests: tuple[MountRequest, ...]
    roots: AllowedRoots
    ring: KeyRing
    admin_token: str | None
    tls: TlsFiles | None
    database: Database


def prepare(settings: MasterSettings) -> Prepared:
    """Reads files and opens the store. Blocks; close ``database`` in the end.

    Raises:
        ConfigError: a setting that cannot work.
    """
    check_exposure(settings)
    parse_registry_url(settings.registry)
    requests, roots = tuple(mount_requests(settings)), AllowedRoots.parse(settings.ufs_roots)
    token = read_admin_token(settings)
    tls = read_tls(settings)
    directory = state_directory(settings)
    database = Database.open(directory)
    try:
        ring = read_key_ring(with_key_file(settings, directory))
    except BaseException:
        database.close_now()
        raise
    return Prepared(settings, requests, roots, ring, token, tls, database)


def with_key_file(settings: MasterSettings, directory: Path) -> MasterSettings:
    """The settings with a cluster key: on loopback, without one, a key file is made in the state directory.

    Not with ZooKeeper: there may be other masters, and their tickets have to be signed by the same key.

    Raises:
        ConfigError: it cannot be written.
    """
    is_alone = is_loopback(settings.host) and parse_registry_url(settings.registry).kind == "embedded"
    if settings.cluster_key_file is not None or settings.insecure or not is_alone:
        return settings
    path = directory / KEY_FILE_NAME
    try:
        _make_key_file(path)
    except OSError as e:
        raise ConfigError("state_dir", f"{path} cannot be written: {e.strerror}") from e
    return settings.model_copy(update={"cluster_key_file": path})


def _make_key_file(path: Path) -> None:
    """Makes the file whole or not at all; one that is there is kept."""
    new = path.with_suffix(".new")
    if path.exists():
        return
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(f"{secrets.token_hex(4)} {secrets.token_hex(32)}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


class Master:
    """One master's parts, wired."""

    def __init__(self, prepared: Prepared, spawner: Supervisor) -> None:
        settings = prepared.settings
        self.prepared = prepared
        self.settings = settings
        self.spawner = spawner
        self.started_at_s = time.time()
        self.member_id = settings.member_name(settings.port)
        self.telemetry: Telemetry = setup(
            SERVICE,
            member_id=self.member_id,
            otlp_endpoint=settings.otlp_endpoint,
            sample_ratio=settings.trace_ratio,
        )
        self.database = prepared.database
        self._is_open = False
        self._is_leaving = False
        self.leading: Leading | None = None
        self.registry_url = parse_registry_url(settings.registry)
        self._build_namespace()
        self._build_registry()
        self._build_app()

    def _build_namespace(self) -> None:
        self.meters = meters = Meters(self.telemetry.metrics)
        self.sources = Sources(self._open_ufs, self.prepared.roots)
        self.feed = Feed()
        self.stats = Stats(self.sources, self.spawner, meters, clock=time.time, feed=self.feed)
        self.syncs = Syncs(
            self.database,
            self.sources,
            self.spawner,
            meters,
            clock=time.time,
            feed=self.feed,
            singles=self.stats.take,
        )
        self.mounts = Mounts(
            self._build_mount_store(),
            self.sources,
            self.spawner,
            self.settings.cluster_id,
            on_gone=self.syncs.sweep_soon,
            on_change=self.feed.tell_mounts,
        )

        def table() -> MountTable:
            return self.mounts.table

        clock = time.time
        self.accesses = accesses = AccessTimes(table, self.database, clock=clock)
        self.catalog = catalog = Catalog(
            table, self.database, self.syncs, self.stats, meters, clock=clock, feed=self.feed, accesses=accesses
        )
        self.trees = Trees(table, self.database, self.syncs, catalog, meters, clock=clock, accesses=accesses)
        self.tickets = TicketOffice(
            table,
            self.sources,
            self.prepared.ring,
            meters,
            cluster_id=self.settings.cluster_id,
            ttl_s=self.settings.ticket_ttl_s,
            clock=time.time,
        )

    def _build_mount_store(self) -> MountStore:
        if self.registry_url.kind == "embedded":
            return SqliteMountStore(self.database)
        self.leading = leading = Leading()
        self.shared_mounts = ZnodeMountStore(self.database, leading.ledger, leading.check)
        return self.shared_mounts

    def _build_job_store(self) -> JobStore:
        if self.leading is None:
            return SqliteJobStore(self.database)
        self.shared_jobs = ZnodeJobStore(self.leading.ledger, self.leading.check)
        return self.shared_jobs

    def _build_registry(self) -> None:
        settings = self.settings
        self.client = HttpClient(self.telemetry, tls=self.prepared.tls)
        self.hub: EmbeddedHub | None = None
        if self.leading is not None:
            self.registry: Registry = open_registry(
                settings.registry,
                cluster_id=settings.cluster_id,
                telemetry=self.telemetry,
                client=self.client,
                keys=self.prepared.ring,
                options=RegistryOptions(ttl_s=settings.session_s),
            )
            return
        self.hub = EmbeddedHub(
            settings.cluster_id,
            load=partial(self.database.read, records.load_map),
            save=self._save_map,
            down_s=settings.down_s,
        )
        self.registry = local_registry(self.hub, telemetry=self.telemetry)

    def _build_app(self) -> None:
        prepared = self.prepared
        self.status = MasterStatus(
            member_id=self.member_id,
            started_at_s=self.started_at_s,
            settings=self.settings.shown(),
            waiting_for=self.waiting_for,
            cluster_map=self.registry.current,
            database=self.database,
            sources=self.sources,
            mounts=self.mounts,
            syncs=self.syncs,
            stats=self.stats,
            leading=self._leader_shown,
        )
        self.status.observe(self.telemetry.metrics)
        self.loads = Loads(
            self._build_job_store(),
            self.catalog,
            self.mounts,
            WorkerCalls(self.client, prepared.ring, self.settings.cluster_id, self.member_id),
            self.spawner,
            cluster_map=self.registry.current,
        )
        app = make_app(
            ServiceInfo(SERVICE, self.member_id, forebay_master.__version__, self.started_at_s),
            self.telemetry,
            status=self.status.reply,
            waiting_for=self.waiting_for,
            admin_token=prepared.admin_token,
            tls=prepared.tls,
        )
        self.overview = Overview(
            self.registry.current,
            self.client,
            self.status,
            member_id=self.member_id,
            cluster_id=self.settings.cluster_id,
        )
        DashboardRoutes(self.overview).add_to(app)
        MasterRoutes(
            self.catalog, self.mounts, self.trees, self.tickets, self.feed, self.accesses, lambda: self._is_open
        ).add_to(app)
        LoadRoutes(self.loads, lambda: self._is_open).add_to(app)
        if self.hub is not None:
            add_registry_routes(app, self.hub, keys=prepared.ring)
        else:
            add_map_route(app, self.registry)
        self.server = HttpServer(app, self.telemetry, tls=prepared.tls, drain_timeout_s=self.settings.drain_timeout_s)

    async def _open_ufs(self, uri: UfsUri, options: UfsOptions) -> Ufs:
        return await open_ufs(uri, options, telemetry=self.telemetry)

    async def _save_map(self, cluster_map: ClusterMap) -> None:
        await self.database.write(partial(records.save_map, cluster_map=cluster_map), durable=True)

    # -- what others see

    def _leader_shown(self) -> dict[str, Detail]:
        if self.leading is None or self.leading.election is None:
            return {"leading": self.leading is None}
        leader = self.leading.election.leader()
        shown: dict[str, Detail] = {"leading": self.leading.is_leading()}
        if leader is not None:
            shown |= {"leader": leader.member_id, "leader_tcp": leader.tcp, "leader_epoch": leader.epoch}
        return shown

    def member(self) -> Member:
        """This master as the map shows it. It owns no blocks."""
        return Member(
            member_id=self.member_id,
            role="master",
            tcp=self.settings.advertised(self.server.address, socket.gethostname()),
            uds=str(self.settings.uds) if self.settings.uds else None,
            capacity_weight=0.0,
            version=forebay_master.__version__,
        )

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps this master from being ready."""
        missing = []
        if not self._is_open:
            missing.append("mounts")
        if self.registry.current() is None:
            missing.append("registry")
        if not self.registry.is_announced():
            missing.append("announcement")
        if self.leading is None and not self.loads.is_taken_up:
            missing.append("loads")
        return tuple(missing)

    # -- its life

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until ``stop``."""
        settings = self.settings
        await self.database.write(listings.bury_unfinished)
        await self.mounts.load()
        await self.syncs.load()
        await self.accesses.load()
        if self.hub is not None:
            await self.hub.open()
        await self.server.start(settings.host, settings.port, uds=settings.uds)
        if self.hub is not None:
            self.spawner.spawn("registry", self.hub.run())
        if self.leading is not None:
            self.leading.begin(self.registry, self.member())
            self.spawner.spawn("map writer", self._write_maps(self.leading))
            self.spawner.spawn("mounts followed", follow(self.mounts))
        self.spawner.spawn("start", self._start())
        self.spawner.spawn("counts", self._keep_counts())
        self.spawner.spawn("overview", self.overview.run())
        self.syncs.sweep_soon()
        await stop.wait()

    async def _start(self) -> None:
        # The registry first: the mounts may lie in it, and only its start has a time after which it is given up.
        await self.registry.start(Deadline.after(self.settings.registry_timeout_s))
        await self._set_up_mounts(self.prepared.requests)
        while not self._is_leaving:
            try:
                await self.registry.announce(self.member())
                break
            except PeerUnavailable as e:  # it goes on trying by itself
                LOG.warning("not_announced", reason=e.message)
                await asyncio.sleep(ANNOUNCE_PAUSE_S)
        if self.leading is not None:
            self.spawner.spawn("terms of loads", keep_terms(self.leading, self.loads, self.shared_jobs))
        else:
            await self.loads.take_up()
        self.spawner.spawn("sources", self.sources.open_ahead(self.mounts.table.mounts))
        LOG.info("ready", address=self.server.address, member_id=self.member_id, mounts=len(self.mounts.table.mounts))

    async def _set_up_mounts(self, requests: Sequence[MountRequest]) -> None:
        deadline = Deadline.after(self.settings.source_timeout_s)
        for request in requests:
            await self._probe(request, deadline)
        if self.leading is not None:
            self.spawner.spawn("settle", settle(self.leading, self.mounts, self.shared_mounts, requests))
            await self._wait_for_mounts()
        else:
            try:
                await self.mounts.settle(requests)
            except CallerError as e:
                raise ConfigError(MOUNT_SETTING, e.message) from e
        self._is_open = True

    async def _wait_for_mounts(self) -> None:
        """Until a leader has settled the mounts and this master knows them."""
        await self.mounts.is_followed.wait()
        while not self.shared_mounts.is_settled:
            await self.mounts.changed(self.mounts.revision, MOUNTS_WAIT_S)

    async def _probe(self, request: MountRequest, deadline: Deadline) -> None:
        """Lists the source; one that is silent may come up, one that was mounted before may stay silent."""
        while True:
            try:
                return await self.mounts.probe(request)
            except (UfsUnavailable, DeadlineExceeded) as e:
                LOG.warning("source_silent", path=request.path, source=request.ufs_uri, reason=e.message)
                if self.mounts.knows(request):
                    return None
                if deadline.expired:
                    raise ConfigError(MOUNT_SETTING, f"{request.path}: the source does not answer: {e.message}") from e
            except (CallerError, UfsError) as e:
                raise ConfigError(MOUNT_SETTING, f"{request.path}: {e.message}") from e
            await asyncio.sleep(min(PROBE_PAUSE_S, deadline.remaining_s()))

    async def _write_maps(self, leading: Leading) -> None:
        assert leading.election is not None
        await write_maps(
            leading.election,
            self.registry_url,
            cluster_id=self.settings.cluster_id,
            telemetry=self.telemetry,
            keys=self.prepared.ring,
            down_s=self.settings.down_s,
        )

    async def _keep_counts(self) -> None:
        seen = -1
        while True:
            now = self.syncs.changes
            if now != seen:
                try:
                    self.status.counts = await self.database.read(listings.counts)
                    seen = now
                except ForebayError as e:
                    LOG.warning("not_counted", code=e.code, reason=e.message)
            await asyncio.sleep(COUNT_PERIOD_S)

    async def close(self) -> None:
        """Leaves the map first, lets long polls go, then running requests finish."""
        self._is_leaving = True
        if self.leading is not None:
            await self.leading.close()
        await self.registry.close()
        self.mounts.close()
        self.loads.close()
        self.feed.close()
        if self.hub is not None:
            self.hub.close()
        await self.server.close()

    async def release(self) -> None:
        """After the last task: connections, under stores, exporters."""
        await self.client.close()
        await self.sources.close()
        await asyncio.to_thread(self.telemetry.shutdown)


async def serve(settings: MasterSettings) -> int:
    """Runs a master until SIGTERM or SIGINT; its exit code."""
    logs.setup(SERVICE, settings.log_level, settings.log_json)
    stop = stop_event()
    async with running(settings) as master:
        await master.run(stop)
    return 0


@asynccontextmanager
async def running(settings: MasterSettings) -> AsyncIterator[Master]:
    """A master with its tasks and its store, to be ``run`` inside."""
    prepared = await asyncio.to_thread(prepare, settings)
    async with AsyncExitStack() as last:
        last.push_async_callback(prepared.database.close)
        async with Supervisor() as spawner:
            master = Master(prepared, spawner)
            last.push_async_callback(master.release)
            try:
                yield master
            finally:
                await master.close()
