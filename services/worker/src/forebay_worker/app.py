"""Builds one worker from its settings, runs it, takes it down: the only place where concrete parts are made."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial

import forebay_worker
from forebay.contracts import WIRE_VERSION, Member, StatusReply
from forebay.contracts.members import socket_name
from forebay.contracts.tickets import KeyRing
from forebay.discovery import Registry, master_addresses, open_registry, parse_registry_url
from forebay.errors import ConfigError, Detail
from forebay.runtime import (
    Deadline,
    Supervisor,
    check_exposure,
    logs,
    read_admin_token,
    read_key_ring,
    read_tls,
    stop_event,
)
from forebay.runtime.tls import TlsFiles
from forebay.telemetry import Telemetry, setup
from forebay.transport import HttpClient, HttpServer
from forebay.transport.app import OPEN_SOCKETS, ServiceInfo, make_app
from forebay.ufs import AllowedRoots, open_ufs
from forebay_worker import gauges
from forebay_worker.access import Asked, Gate
from forebay_worker.admin import AdminRoutes
from forebay_worker.block import State
from forebay_worker.budget import Budget, Rates
from forebay_worker.checking import Checks, load_checks
from forebay_worker.directory import TierDirectory, TierSpec
from forebay_worker.entrance import Entrance
from forebay_worker.files import IoThreads
from forebay_worker.fill import Filler
from forebay_worker.filling import FillRoutes
from forebay_worker.goodput import Bounds, Plan
from forebay_worker.handlers import BlockRoutes, HandlerOptions
from forebay_worker.hints import Hints
from forebay_worker.holdings import HoldingRoutes
from forebay_worker.index import StoreIndex
from forebay_worker.joining import Joining
from forebay_worker.keeping import Keeping
from forebay_worker.lanes import Lanes
from forebay_worker.mount_watch import MountWatch
from forebay_worker.mounts import MountBook
from forebay_worker.moves import Mover
from forebay_worker.observe import WorkerMetrics
from forebay_worker.opening import files_within_limit, give_back, open_tiers, plan_tiers
from forebay_worker.origins import Origins
from forebay_worker.place import PlaceRoutes
from forebay_worker.policies import POLICIES
from forebay_worker.policies.governed import Governed
from forebay_worker.policies.ledger import Ledger
from forebay_worker.prefetch import Prefetch
from forebay_worker.queue import FillQueue
from forebay_worker.reads import Reads
from forebay_worker.rebalance import Rebalance
from forebay_worker.refills import Refills
from forebay_worker.routing import Homes
from forebay_worker.scrub import Scrubber
from forebay_worker.serving import serving_weight
from forebay_worker.settings import WorkerSettings, tuning_of
from forebay_worker.standing import Standing
from forebay_worker.store import Store
from forebay_worker.tiers import boot_id
from forebay_worker.tuning import Tuning
from forebay_worker.under_stores import UfsPool
from forebay_worker.vitals import CpuMeter, VitalSigns

SCAN_HEAD_START_S = 1.0
"""How long a start waits for the tier directories to be scanned before it serves all the same."""

SOCKET_MODE = 0o660
HINT_SHARE = 0.25
"""Most of the tiers that is kept for what hints say will be read soon."""


@dataclass(frozen=True)
class Secrets:
    """What is read from files before anything is opened."""

    ring: KeyRing
    tls: TlsFiles | None
    admin_token: str | None


class Worker:
    """One worker's parts, wired."""

    def __init__(
        self, settings: WorkerSettings, secrets: Secrets, tiers: Sequence[TierDirectory], spawner: Supervisor
    ) -> None:
        self.settings = settings
        self.tiers = tuple(tiers)
        self.spawner = spawner
        self.started_at_s = time.time()
        self._has_socket = False
        self.member_id = settings.member_name(settings.port)
        self.socket = (settings.uds_dir or self.tiers[0].spec.path) / socket_name(self.tiers[0].nonce)
        self.telemetry: Telemetry = setup(
            "forebay-worker",
            member_id=self.member_id,
            otlp_endpoint=settings.otlp_endpoint,
            sample_ratio=settings.trace_ratio,
        )
        self.ring = secrets.ring
        self.metrics = WorkerMetrics(self.telemetry.metrics)
        self.client = HttpClient(self.telemetry, tls=secrets.tls)
        self.registry: Registry = open_registry(
            settings.registry,
            cluster_id=settings.cluster_id,
            telemetry=self.telemetry,
            client=self.client,
            keys=self.ring,
        )
        self.book = MountBook(settings.cluster_id, AllowedRoots.parse(settings.ufs_roots))
        self.pool = UfsPool(self.book, partial(open_ufs, telemetry=self.telemetry))
        state_dir = settings.state_dir or self.tiers[0].spec.path
        self.watch = MountWatch(self.book, self.client, self.masters, state_dir, self.pool)
        self._build_store()
        self.checks = Checks(load_checks(settings.health_checks))
        self.signs = VitalSigns(
            meter=CpuMeter(),
            health=self.checks.score,
            fills_per_stream=lambda: (self.queue.in_flight + self.queue.waiting) / settings.fill_streams,
            leaving=self.standing.leaving_share,
            in_service=self.standing.in_service_share,
        )
        self._build_app(secrets)

    def _build_store(self) -> None:
        settings = self.settings
        ledger = Ledger()
        policy = POLICIES[settings.policy]
        room = sum(tier.spec.capacity_bytes for tier in self.tiers)
        self.hints = Hints(min(settings.hint_bytes, int(room * HINT_SHARE)), self._is_here)
        policies = [Governed(policy(tier.spec.capacity_bytes), ledger, self.hints) for tier in self.tiers]
        capacities = [tier.spec.capacity_bytes for tier in self.tiers]
        self.index = StoreIndex(zip(capacities, policies, strict=True))
        self.standing = Standing(self.member_id, self.tiers, self.index, settings.capacity_weight)
        self.store = Store(
            self.tiers,
            self.index,
            IoThreads(settings.io_threads),
            self.metrics,
            files_max=files_within_limit(settings.files_max),
        )
        self.queue = FillQueue(streams_max=max(settings.fill_streams, settings.fill_streams_max))
        bounds = Bounds(
            Plan(settings.fill_streams, settings.fill_request_extents),
            streams_max=settings.fill_streams_max,
            run_extents_max=settings.fill_request_extents_max,
        )
        self.lanes = Lanes(self.queue, self.metrics, bounds, tunes=settings.fill_tuning)
        self.budget = Budget(
            Rates(settings.ufs_requests_per_s, settings.ufs_bytes_per_s),
            Rates(settings.mount_requests_per_s, settings.mount_bytes_per_s),
        )
        self.filler = Filler(self.store, self.queue, self.spawner, self.metrics, lanes=self.lanes)
        self.mover = Mover(self.store, self.spawner, self.metrics)
        self.scrubber = Scrubber(self.store, self.metrics, rate=settings.scrub_rate, pause_s=settings.scrub_pause_s)
        self.reads = Reads(
            self.store,
            self.filler,
            self.metrics,
            passive=settings.passive_cache,
            mover=self.mover,
            order=self.hints,
        )
        self.policies, self.ledger = policies, ledger

    def _build_app(self, secrets: Secrets) -> None:
        settings = self.settings
        self.homes = Homes(self.member_id, time.monotonic)
        self.joining = Joining(self.registry, self.book, self.watch, self.homes, self.standing)
        entrance = Entrance(
            Gate(self.ring, settings.cluster_id, self.book, leeway_s=settings.ticket_leeway_s),
            self.book,
            self.watch,
            ticket_grace_s=settings.ticket_grace_s,
        )
        origins = Origins(self.pool, self.homes, self.client, self.budget)
        self.prefetch = Prefetch(
            self.hints,
            entrance,
            origins,
            self.store,
            self.filler,
            self.spawner,
            self.telemetry.metrics,
        )
        self.routes = BlockRoutes(
            entrance,
            origins,
            self.reads,
            self.index,
            self.metrics,
            HandlerOptions(settings.read_type, settings.reads_max),
            weight=self.weight,
        )
        self.rebalance = Rebalance(self.member_id, self.store, self.homes, self.client, self.ring, settings.cluster_id)
        self.refills = Refills(
            self.rebalance.targets.get, self.rebalance.ticket, self.book, origins, self.filler, self.metrics
        )
        self.store.on_rotten = self.refills.want
        self.routes.on_asked = self._asked
        self.routes.on_touched = self.prefetch.asked
        fills = FillRoutes(entrance, origins, self.filler, self._asked)
        self.keeping = Keeping(
            self.store, self.policies, self.ledger, self.book, self.pool, tuning_of(settings), self._take
        )
        self.watch.on_change = self.keeping.mounts_changed
        self.filler.on_missed = self.keeping.missed
        info = ServiceInfo("forebay-worker", self.member_id, forebay_worker.__version__, self.started_at_s)
        app = make_app(
            info,
            self.telemetry,
            status=self.status,
            waiting_for=self.waiting_for,
            admin_token=secrets.admin_token,
            tls=secrets.tls,
        )
        app[OPEN_SOCKETS].add(self.socket.name)
        self.routes.add_to(app)
        self.prefetch.add_to(app)
        fills.add_to(app)
        AdminRoutes(self.keeping).add_to(app)
        HoldingRoutes(self.store, self.ring, settings.cluster_id).add_to(app)
        PlaceRoutes(self.rebalance, self.standing.drain, self.standing.weigh).add_to(app)
        self.server = HttpServer(app, self.telemetry, tls=secrets.tls, drain_timeout_s=settings.drain_timeout_s)
        self._observe()

    def _asked(self, asked: Asked) -> None:
        self.rebalance.targets.note(asked)
        self.prefetch.asked(asked.block_id)

    def _is_here(self, block_id: str) -> bool:
        return self.index.get(block_id) is not None

    def _take(self, tuning: Tuning) -> None:
        self.reads.passive = tuning.passive_cache
        self.routes.read_type = tuning.read_type
        self.scrubber.set_rate(tuning.scrub_rate)

    def _observe(self) -> None:
        metrics = self.telemetry.metrics
        metrics.observed("forebay_worker_in_flight", "Block reads being answered", lambda: self.routes.in_flight)
        metrics.observed("forebay_worker_fills_in_flight", "Requests to fill sources", lambda: self.queue.in_flight)
        gauges.observe_lanes(metrics, self.lanes)
        metrics.observed("forebay_worker_fillings", "Blocks being filled or half filled", lambda: len(self.filler))
        for state in State:
            name = f"forebay_worker_blocks_{state.value}"
            metrics.observed(name, f"Blocks that are {state.value}", partial(self._count, state))
        metrics.observed_by(
            "forebay_worker_health_score_ratio", "What health checks said last", ("check",), self.checks.scores
        )
        metrics.observed("forebay_worker_serving_weight_ratio", "The serving weight", self._weight_now)
        gauges.observe(metrics, self.store, self.scrubber)

    def _weight_now(self) -> float:
        return self.weight(self.routes.in_flight)

    def _count(self, state: State) -> float:
        return self.index.counts()[state]

    # -- what others see

    def weight(self, in_flight: int) -> float:
        """The serving weight with so many reads being answered."""
        return serving_weight(self.signs.base, in_flight)

    def masters(self) -> list[str]:
        """Addresses to ask for the mount table."""
        found = master_addresses(self.registry.current())
        url = parse_registry_url(self.settings.registry)
        return found or (list(url.hosts) if url.kind == "embedded" else [])

    def member(self) -> Member:
        """This worker as the map shows it."""
        return self.standing.member(
            tcp=self.settings.advertised(self.server.address, socket.gethostname()),
            uds=str(self.socket) if self._has_socket else None,
            serving_weight=self._weight_now(),
        )

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps this worker from being ready."""
        return self.joining.waiting_for()

    def status(self) -> StatusReply:
        """``GET /v1/status``."""
        waiting = self.waiting_for()
        known = self.registry.current()
        blocks: dict[str, Detail] = {state.value: count for state, count in self.index.counts().items()}
        return StatusReply(
            service="forebay-worker",
            member_id=self.member_id,
            version=forebay_worker.__version__,
            wire_version=WIRE_VERSION,
            started_at_s=self.started_at_s,
            ready=not waiting,
            waiting_for=waiting,
            settings=self.settings.shown(),
            detail={
                **gauges.tiers_seen(self.store),
                **self.keeping.status(),
                **self.checks.status(),
                "serving_weight": self.weight(self.routes.in_flight),
                **gauges.seen(self.metrics, self.store),
                **{f"recent {n}": dict(asdict(line)) for n, line in enumerate(logs.recent())},
                "blocks": blocks,
                "reads_in_flight": self.routes.in_flight,
                "fills_in_flight": self.queue.in_flight,
                "mounts": len(self.book),
                "mounts_revision": self.book.revision,
                "sees_master": self.watch.sees_master,
                "map_epoch": known.epoch if known else None,
            },
        )

    # -- its life

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until ``stop``."""
        settings = self.settings
        await self.store.prepare(boot_id())
        scanned = asyncio.Event()
        self.spawner.spawn("take_in", self._take_in(scanned))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(scanned.wait(), SCAN_HEAD_START_S)
        await self.watch.load()
        self.spawner.spawn("open_under_stores", self.pool.run())
        await self.server.start(settings.host, settings.port, uds=settings.uds)
        await self._open_socket()
        self.spawner.spawn("rebalance", self.rebalance.run())
        self.spawner.spawn("health_checks", self.checks.run())
        self.spawner.spawn("vital_signs", self.signs.run())
        deadline = Deadline.after(settings.registry_timeout_s)
        self.spawner.spawn("join", self.joining.run(self.spawner, deadline, self.member, self._say_ready))
        self.spawner.spawn("evict", self.store.keep_room())
        self.spawner.spawn("health", self.store.health.run())
        self.spawner.spawn("held_files", self.store.held.run())
        self.spawner.spawn("sync", self.store.keep_synced())
        self.spawner.spawn("sweep", self.keeping.run())
        self.spawner.spawn("prefetch", self.prefetch.run())
        self.spawner.spawn("scrub", self.scrubber.run())
        self.spawner.spawn("refills", self.refills.run())
        await stop.wait()

    async def _open_socket(self) -> None:
        """Where clients of this host may come in, by their tickets (``short_circuit=uds``)."""
        try:
            if (before := self.tiers[0].nonce_before) is not None:
                self.socket.with_name(socket_name(before)).unlink(missing_ok=True)
            await self.server.listen_also(self.socket, mode=SOCKET_MODE)
            self._has_socket = True
        except (ConfigError, OSError) as e:
            if self.settings.uds_dir is not None:
                raise ConfigError("uds_dir", str(e)) from e
            logs.get("forebay_worker.app").warning("no_socket_for_this_host", path=str(self.socket), error=str(e))

    async def _take_in(self, scanned: asyncio.Event) -> None:
        await self.store.scan()
        scanned.set()
        await self.store.mend_all()

    def _say_ready(self) -> None:
        log = logs.get("forebay_worker.app")
        log.info("ready", address=self.server.address, member_id=self.member_id, mounts=len(self.book))

    async def close(self) -> None:
        """Leaves the map first, so that nobody new asks; then running reads finish."""
        await self.joining.leave()
        await self.server.close()
        self.filler.close()

    async def release(self) -> None:
        """After the last task: connections, under stores, files, exporters."""
        await self.client.close()
        await self.pool.close()
        await asyncio.to_thread(self.store.close)
        await asyncio.to_thread(self.telemetry.shutdown)


async def serve(settings: WorkerSettings) -> int:
    """Runs a worker until SIGTERM or SIGINT; its exit code."""
    logs.setup("forebay-worker", settings.log_level, settings.log_json)
    check_exposure(settings)
    specs = plan_tiers(settings)
    stop = stop_event()
    async with running(settings, specs) as worker:
        await worker.run(stop)
    return 0


@asynccontextmanager
async def running(settings: WorkerSettings, specs: Sequence[TierSpec]) -> AsyncIterator[Worker]:
    """A worker with its tasks and directories, to be ``run`` inside. What a failed start made is removed."""
    secrets = Secrets(read_key_ring(settings), read_tls(settings), read_admin_token(settings))
    tiers = open_tiers(specs)
    async with AsyncExitStack() as last:
        last.callback(give_back, tiers)
        async with Supervisor() as spawner:
            worker = Worker(settings, secrets, tiers, spawner)
            last.push_async_callback(worker.release)
            try:
                yield worker
            finally:
                await worker.close()
