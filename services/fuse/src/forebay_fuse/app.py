"""Builds one gateway from its settings, runs it, takes it down: the only place where concrete parts are made."""

from __future__ import annotations

import asyncio
import gc
import secrets
import socket
import time
from contextlib import AsyncExitStack

import forebay_fuse
from forebay.client import Client, ClientOptions
from forebay.contracts import WIRE_VERSION, LookupReply, StatusReply
from forebay.errors import ConfigError, ForebayError, NotFound, PeerError
from forebay.runtime import Deadline, Supervisor, check_exposure, logs, stop_event
from forebay.telemetry import Telemetry, setup
from forebay.transport import HttpServer
from forebay.transport.app import ServiceInfo, make_app
from forebay_fuse import mounting
from forebay_fuse.device import Device
from forebay_fuse.gateway import Gateway, View
from forebay_fuse.inodes import InodeTable
from forebay_fuse.settings import FuseSettings

REQUEST_MAX = 64 << 10
"""Longest request of the kernel on a read-only mount, with room."""

UNMOUNT_RETRY_S = 0.2
LOG = logs.get("forebay_fuse.app")


def client_options(settings: FuseSettings, member_id: str) -> ClientOptions:
    """The SDK's options."""
    return ClientOptions(
        registry=settings.registry,
        client_id=member_id,
        cluster_id=settings.cluster_id,
        metadata_cache_entries=settings.metadata_cache_entries,
        metadata_cache_s=settings.metadata_cache_s,
        readahead_bytes=settings.readahead,
        readahead_budget_bytes=settings.readahead_budget,
        short_circuit_dirs=settings.short_circuit_dirs if settings.short_circuit == "file" else (),
        read_deadline_s=settings.read_deadline,
        start_deadline_s=settings.registry_timeout,
        tls_ca=settings.tls_ca,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
    )


def view_of(settings: FuseSettings) -> View:
    """How the mount looks."""
    return View(
        uid=settings.uid,
        gid=settings.gid,
        umask=int(settings.umask, 8),
        entry_timeout_s=settings.entry_timeout,
        attr_timeout_s=settings.attr_timeout,
        negative_timeout_s=settings.negative_timeout,
        kernel_cache=settings.kernel_cache,
        direct_io=settings.direct_io,
        max_background=settings.max_background,
    )


class Service:
    """One gateway's parts, wired."""

    def __init__(self, settings: FuseSettings, spawner: Supervisor) -> None:
        self.settings, self.spawner = settings, spawner
        self.started_at_s = time.time()
        self.member_id = settings.member_id or f"{socket.gethostname()[:200]}-fuse-{secrets.token_hex(3)}"
        self.telemetry: Telemetry = setup(
            "forebay-fuse",
            member_id=self.member_id,
            otlp_endpoint=settings.otlp_endpoint,
            sample_ratio=settings.trace_ratio,
        )
        self.client = Client(client_options(settings, self.member_id), self.telemetry)
        info = ServiceInfo("forebay-fuse", self.member_id, forebay_fuse.__version__, self.started_at_s)
        app = make_app(info, self.telemetry, status=self.status, waiting_for=self.waiting_for)
        self.server = HttpServer(app, self.telemetry)
        self.session: mounting.Session | None = None
        self.gateway: Gateway | None = None
        self.device: Device | None = None

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps this gateway from being ready."""
        return () if self.device is not None and not self.device.ended.is_set() else ("mount",)

    def status(self) -> StatusReply:
        """``GET /v1/status``."""
        waiting = self.waiting_for()
        gateway = self.gateway
        return StatusReply(
            service="forebay-fuse",
            member_id=self.member_id,
            version=forebay_fuse.__version__,
            wire_version=WIRE_VERSION,
            started_at_s=self.started_at_s,
            ready=not waiting,
            waiting_for=waiting,
            settings=self.settings.shown(),
            detail={
                "mountpoint": str(self.settings.mountpoint),
                "inodes": len(gateway.inodes) if gateway else 0,
                "handles": len(gateway.handles) if gateway else 0,
                "pending": gateway.pending if gateway else 0,
            },
        )

    async def start(self) -> None:
        """Joins the cluster, then mounts: a mount that is there can be read.

        Raises:
            ConfigError: a setting that cannot work; nothing is mounted then.
        """
        settings = self.settings
        mountpoint = await asyncio.to_thread(mounting.prepare, settings.mountpoint)
        await self.server.start(settings.host, settings.port, uds=settings.uds)
        await self.client.start()
        root = await self._root()
        if root.entry.kind != "dir":
            raise ConfigError("root", f"{settings.root} is no directory")
        path = settings.root.rstrip("/") or "/"
        inodes = InodeTable(root.entry, path, root.mount_id)
        self.gateway = Gateway(self.client, view_of(settings), inodes, self.spawner, self.telemetry)
        self.session = await asyncio.to_thread(mounting.mount, mountpoint, allow_other=settings.allow_other)
        self.device = Device(self.session.device, self.gateway.handle, request_max=REQUEST_MAX)
        self.gateway.attach(self.device)
        self.device.start()
        if settings.read_ahead_kib:
            raised = await asyncio.to_thread(mounting.raise_read_ahead, mountpoint, settings.read_ahead_kib)
            if not raised:
                LOG.warning("read_ahead_not_raised", wanted_kib=settings.read_ahead_kib)
        LOG.info("ready", address=self.server.address, member_id=self.member_id, mountpoint=str(mountpoint))

    async def _root(self) -> LookupReply:
        deadline = Deadline.after(self.settings.registry_timeout)
        while True:
            try:
                return await self.client.lookup(self.settings.root)
            except NotFound as e:
                raise ConfigError("root", f"{self.settings.root} is not in the namespace") from e
            except ForebayError as e:
                if not (e.retryable or isinstance(e, PeerError)) or deadline.expired:
                    raise
                await asyncio.sleep(0.2)

    async def serve(self, stop: asyncio.Event) -> None:
        """Until ``stop`` and the unmount that follows, or until somebody else has unmounted."""
        assert self.device is not None
        ended = asyncio.ensure_future(self.device.ended.wait())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        for waiter in (ended, stopped):
            waiter.cancel()
        if not self.device.ended.is_set():
            await self._unmount()

    async def _unmount(self) -> None:
        assert self.session is not None
        deadline = Deadline.after(self.settings.busy_timeout)
        while not await asyncio.to_thread(mounting.unmount, self.session):
            if deadline.expired:
                LOG.warning("detached_while_busy", mountpoint=str(self.session.mountpoint))
                await asyncio.to_thread(mounting.detach, self.session.mountpoint)
                return
            await asyncio.sleep(UNMOUNT_RETRY_S)

    async def close(self) -> None:
        """Takes down what ``start`` made, in reverse."""
        if self.device is not None:
            self.device.close()
        if self.gateway is not None:
            await self.gateway.close()
        await self.client.close()
        await self.server.close()


async def serve(settings: FuseSettings) -> int:
    """Runs a gateway until SIGTERM, SIGINT or an unmount; its exit code."""
    logs.setup("forebay-fuse", settings.log_level, settings.log_json)
    check_exposure(settings)
    stop = stop_event()
    service: Service | None = None
    try:
        async with Supervisor() as spawner, AsyncExitStack() as stack:
            service = Service(settings, spawner)
            stack.push_async_callback(service.close)
            await service.start()
            gc.freeze()
            await service.serve(stop)
    finally:
        if service is not None:
            await asyncio.to_thread(service.telemetry.shutdown)
    return 0
