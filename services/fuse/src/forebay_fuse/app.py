"""Builds one gateway from its settings, runs it, takes it down: the only place where concrete parts are made."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

import forebay_fuse
from forebay.client import Client, ClientOptions
from forebay.contracts import WIRE_VERSION, LookupReply, StatusReply, encode
from forebay.contracts.traces import TraceReply
from forebay.errors import ConfigError, ForebayError, NotFound, PeerError
from forebay.runtime import Deadline, check_exposure, logs, read_tls, stop_event
from forebay.runtime.cgroup import cpu_quota
from forebay.telemetry import Telemetry, setup, waits
from forebay.transport import HttpServer
from forebay.transport.app import CHECK, ServiceInfo, make_app
from forebay_fuse import measuring, memory, mounting, takeover
from forebay_fuse.backing import DeviceBackings
from forebay_fuse.device import SPIN_CPUS, SPIN_S, Device
from forebay_fuse.gateway import Gateway
from forebay_fuse.helpers import Helpers
from forebay_fuse.inodes import InodeTable
from forebay_fuse.journal import Buffer, SessionRecord
from forebay_fuse.keeping import Keeping
from forebay_fuse.liveness import Liveness
from forebay_fuse.memfd import MemfdJournal
from forebay_fuse.pipes import reply_pipe
from forebay_fuse.protocol import layout
from forebay_fuse.settings import FuseSettings
from forebay_fuse.splice import PAGE_BYTES, Pipe
from forebay_fuse.view import View
from forebay_fuse.virtual import Text

REQUEST_MAX = 64 << 10
"""Longest request of the kernel on a read-only mount, with room."""

UNMOUNT_RETRY_S = 0.2
INIT_TIMEOUT_S = 10.0
READ_PAGES = 256
PIPE_BYTES = 2 * READ_PAGES * PAGE_BYTES
LOG = logs.get("forebay_fuse.app")


def client_options(settings: FuseSettings, member_id: str) -> ClientOptions:
    """The SDK's options."""
    return ClientOptions(
        registry=settings.registry,
        client_id=member_id,
        cluster_id=settings.cluster_id,
        metadata_cache=settings.metadata_cache,
        metadata_cache_entries=settings.metadata_cache_entries,
        metadata_cache_s=settings.metadata_cache_s,
        update_access_time=settings.update_access_time,
        readahead_bytes=settings.readahead,
        readahead_budget_bytes=settings.readahead_budget,
        short_circuit=settings.short_circuit,
        short_circuit_dirs=settings.short_circuit_dirs,
        location_policy=settings.location_policy,
        reserved_bytes=settings.reserved_bytes,
        hedge=settings.hedge,
        worker_list_refresh_s=settings.worker_list_refresh_interval,
        read_deadline_s=settings.read_deadline,
        start_deadline_s=settings.registry_timeout,
        tls_ca=settings.tls_ca,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
    )


def view_of(settings: FuseSettings, pipe: Pipe) -> View:
    """How the mount looks. A read is 1 MiB, or a page less where no pipe is allowed to hold that and its header. Past
    the page cache programs choose the length, and two replies for each of their megabytes would cost more."""
    return View(
        uid=settings.uid,
        gid=settings.gid,
        umask=int(settings.umask, 8),
        entry_timeout_s=settings.entry_timeout,
        attr_timeout_s=settings.attr_timeout,
        negative_timeout_s=settings.negative_timeout,
        kernel_cache=settings.kernel_cache,
        direct_io=settings.direct_io,
        passthrough=settings.passthrough,
        stack_depth=mounting.stack_depth(settings.short_circuit_dirs if settings.short_circuit == "file" else ()),
        small_file_bytes=settings.small_file,
        splice=settings.splice,
        update_access_time=settings.update_access_time,
        xattrs=settings.xattrs,
        virtual=settings.virtual,
        hints=settings.hints,
        max_background=settings.max_background,
        max_pages=READ_PAGES if settings.direct_io else min(READ_PAGES, pipe.pages_max),
    )


class Service:
    """One gateway's parts, wired."""

    make_journal = staticmethod(MemfdJournal.make)
    open_journal = staticmethod(MemfdJournal.open_kept)

    def __init__(self, settings: FuseSettings) -> None:
        self.settings = settings
        self.started_at_s = time.time()
        self.member_id = settings.member_id or f"{socket.gethostname()[:200]}-fuse-{secrets.token_hex(3)}"
        self.telemetry: Telemetry = setup(
            "forebay-fuse",
            member_id=self.member_id,
            otlp_endpoint=settings.otlp_endpoint,
            sample_ratio=settings.trace_ratio,
        )
        self.waits = waits.Ring()
        self.client = Client(client_options(settings, self.member_id), self.telemetry)
        info = ServiceInfo("forebay-fuse", self.member_id, forebay_fuse.__version__, self.started_at_s)
        tls = read_tls(settings)
        app = make_app(info, self.telemetry, status=self.status, waiting_for=self.waiting_for, tls=tls)
        app[CHECK] = self.check
        self.liveness = Liveness()
        self.server = HttpServer(app, self.telemetry, tls=tls)
        self.session: mounting.Session | None = None
        self.gateway: Gateway | None = None
        self.device: Device | None = None
        self.keeping: Keeping | None = None
        self.journal: MemfdJournal | None = None
        self.helpers: Helpers | None = None
        self.is_ready = False
        self._is_kept = self._is_over = False
        self._background: list[asyncio.Task[None]] = []

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps this gateway from being ready."""
        return () if self.is_ready and self.device is not None and not self.device.ended.is_set() else ("mount",)

    async def check(self) -> tuple[str, ...]:
        """What ``/readyz`` asks besides: whether the mount answers, where we see it."""
        session = self.session
        if session is None or session.number is None:
            return ()
        wrong = await self.liveness.ask(session.mountpoint)
        return (f"mount: {wrong}",) if wrong else ()

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

    def _held(self) -> int:
        """Inodes and names in memory."""
        return self.client.names_held + (len(self.gateway.inodes) if self.gateway is not None else 0)

    def texts(self) -> dict[str, Text]:
        """What ``.forebay`` says of this process."""
        return {
            "waits": lambda: self.waits.text(self.settings.root),
            "config": lambda: orjson.dumps(self.settings.shown(), option=orjson.OPT_INDENT_2) + b"\n",
            "traces": lambda: encode(TraceReply(spans=self.telemetry.tracer.ring.all())),
            "version": f"forebay-fuse {forebay_fuse.__version__} wire {WIRE_VERSION}\n".encode,
        }

    async def start(self) -> None:
        """Joins the cluster, then mounts: a mount that is there can be read.

        Raises:
            ConfigError: a setting that cannot work; nothing is mounted then.
        """
        settings = self.settings
        waits.record_to(self.waits.add)
        pipe = Pipe(lambda: reply_pipe(PIPE_BYTES))
        if settings.keeper is not None:  # the client first: while we wait for our predecessor's end, it serves
            await self.client.start()
            self.keeping = await Keeping.connect(settings.keeper, Deadline.after(settings.registry_timeout))
        if self.keeping is not None and self.keeping.held:
            await self._take_over(self.keeping, pipe)
        else:
            await self._begin(pipe)
        await self._help(pipe)
        assert self.gateway is not None
        self._spawn(self.gateway.changes.watch(), "changes")
        self._spawn(memory.watch(self._held, mounting.give_memory_back), "memory")
        if self.keeping is not None:
            self._spawn(self.keeping.watch(), "keeper-watch")
        self.is_ready = True
        assert self.session is not None
        LOG.info(
            "ready", address=self.server.address, member_id=self.member_id, mountpoint=str(self.session.mountpoint)
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Something that runs until ``close``. If it fails the mount lives on without it, and the log says so."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(say_if_failed)
        self._background.append(task)

    async def _help(self, pipe: Pipe) -> None:
        """Starts data helpers, if they are wanted; by ``auto`` they must be faster than we are alone."""
        assert self.device is not None
        assert self.gateway is not None
        count = measuring.wanted(self.settings.threads, cpu_quota())
        if not count:
            return
        self.helpers = helpers = Helpers(self.device.fd, count, pipe_bytes=PIPE_BYTES, metrics=self.telemetry.metrics)
        helpers.start()
        if self.settings.threads == "auto" and not await measuring.is_better(helpers, pipe):
            await helpers.close()
            return
        self.gateway.files.hands = helpers

    async def _begin(self, pipe: Pipe) -> None:
        """A new session."""
        settings = self.settings
        mountpoint = settings.mountpoint
        if settings.fd is None:
            mountpoint = await asyncio.to_thread(mounting.prepare, mountpoint)
        await self.server.start(settings.host, settings.port, uds=settings.uds)
        if self.keeping is None:
            await self.client.start()
        else:
            self.journal = self.make_journal()
        root = await self._root()
        if root.entry.kind != "dir":
            raise ConfigError("root", f"{settings.root} is no directory")
        good_until_s = None if root.valid_s is None else time.monotonic() + root.valid_s
        inodes = InodeTable(root.entry, settings.root, root.mount_id, good_until_s=good_until_s, journal=self.journal)
        view = view_of(settings, pipe)
        self.gateway = Gateway(self.client, view, inodes, self.telemetry, journal=self.journal, texts=self.texts())
        if settings.fd is None:
            self.session = await self._mount(mountpoint)
        else:
            self.session = mounting.given(settings.fd, mountpoint)
        await self._keep(self.session)
        self._device(self.session, self.gateway, pipe).start()
        await self._init(self.gateway)
        await self._read_ahead(self.session)

    async def _mount(self, mountpoint: Path) -> mounting.Session:
        settings = self.settings
        others = os.geteuid() == 0 if settings.allow_other is None else settings.allow_other
        mounting_it = asyncio.to_thread(
            mounting.mount, mountpoint, allow_other=others, read_only=not (settings.hints and settings.virtual != "off")
        )
        mounted = asyncio.ensure_future(mounting_it)
        try:
            return await asyncio.shield(mounted)
        except asyncio.CancelledError:
            self.session = await mounted  # the thread goes on: what it mounts must be taken down
            raise

    async def _keep(self, session: mounting.Session) -> None:
        """Has the keeper hold the session, before anything is told of it."""
        if self.keeping is None or self.journal is None:
            return
        asked = takeover.asked_for(self.settings.mountpoint)
        self.journal.mounted(
            SessionRecord(self.settings.root, asked, str(session.mountpoint), session.privileged, session.number)
        )
        await self.keeping.hold([session.device, *self.journal.fds])
        self._is_kept = True

    def _device(self, session: mounting.Session, gateway: Gateway, pipe: Pipe) -> Device:
        intake = self.journal or Buffer(REQUEST_MAX)
        spin_s = SPIN_S if cpu_quota() >= SPIN_CPUS else 0.0
        device = self.device = Device(session.device, gateway.handle, pipe, intake, spin_s=spin_s)
        gateway.waits.on_full, gateway.waits.on_room = device.pause, device.resume
        gateway.attach(device, DeviceBackings(session.device))
        return device

    async def _init(self, gateway: Gateway) -> None:
        assert self.device is not None
        async with Deadline.after(INIT_TIMEOUT_S).timeout():
            await first_of(asyncio.wait([gateway.negotiated]), self.device.ended.wait())
        if not gateway.negotiated.done():
            raise ConfigError(mounting.SETTING, "the kernel ended the session; is the device mounted?")
        if not gateway.negotiated.result():
            raise ConfigError(mounting.SETTING, "this kernel's FUSE is too old: Linux 5.4 is the least")

    async def _read_ahead(self, session: mounting.Session) -> None:
        wanted = self.settings.read_ahead_kib
        if wanted and not await asyncio.to_thread(mounting.raise_read_ahead, session, wanted):
            LOG.warning("read_ahead_not_raised", wanted_kib=wanted)

    async def _take_over(self, keeping: Keeping, pipe: Pipe) -> None:
        """Goes on with a session whose gateway has ended; nothing here touches the mount, for nobody serves it."""
        settings, fd = self.settings, keeping.held[0]
        self._is_kept = True
        left = takeover.read_kept(keeping.held, self.open_journal)
        self.journal, kept = left.journal, left.kept
        self.session = takeover.session_of(kept, fd)
        takeover.check_mountpoint(kept, settings.mountpoint)
        await self.server.start(settings.host, settings.port, uds=settings.uds)
        root, path = kept.inodes[layout.ROOT_ID], takeover.root_of(kept)
        inodes = InodeTable(root.entry, path, root.mount_id, good_until_s=0.0, journal=self.journal)
        view = takeover.as_agreed(view_of(settings, pipe), kept.init)
        self.gateway = Gateway(self.client, view, inodes, self.telemetry, journal=self.journal, texts=self.texts())
        device = self._device(self.session, self.gateway, pipe)
        self.gateway.restore(kept)
        takeover.give_back(left.untold_backing, DeviceBackings(fd))
        counts = takeover.settle(left, device, resend=settings.resend)
        LOG.warning("took_over", inodes=len(inodes), opens=len(kept.opens), **counts)
        device.start()
        await self._init(self.gateway)

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
        await first_of(stop.wait(), self.device.ended.wait())
        if self.settings.on_stop == "leave" and not self.device.ended.is_set():
            return
        self._is_over = True
        if not self.device.ended.is_set():
            stop.clear()
            await self._unmount(stop)

    async def _unmount(self, again: asyncio.Event) -> None:
        """Unmounts. While files are open it goes on serving them, until ``busy_timeout`` or a second signal."""
        assert self.session is not None
        deadline = Deadline.after(self.settings.busy_timeout)
        said = False
        while not await asyncio.to_thread(mounting.unmount, self.session):
            if again.is_set() or deadline.expired:
                return  # `close` takes it away
            if not said:
                LOG.warning(
                    "mount_is_busy", mountpoint=str(self.session.mountpoint), waits_s=self.settings.busy_timeout
                )
                said = True
            await first_of(again.wait(), asyncio.sleep(UNMOUNT_RETRY_S))

    async def close(self) -> None:
        """Takes down what ``start`` made, in reverse; a mount that is still there is taken away with what is open,
        unless it is a keeper's and not over."""
        self.is_ready = False
        for task in self._background:
            task.cancel()
            await asyncio.wait([task])
        if self._is_kept and not self._is_over:
            await self._leave()
        else:
            await self._end()
        if self.journal is not None:
            self.journal.close()
        if self.keeping is not None:
            self.keeping.close()
        await self.client.close()
        await self.server.close()
        waits.record_to(None)

    async def _leave(self) -> None:
        if self.gateway is not None:
            await self.gateway.leave()
        if self.helpers is not None:
            await self.helpers.close()
        if self.device is not None:
            self.device.close()
        LOG.warning("mount_left_to_keeper", mountpoint=str(self.settings.mountpoint))

    async def _end(self) -> None:
        if self.session is not None and await asyncio.to_thread(mounting.is_there, self.session):
            LOG.warning("mount_abandoned", mountpoint=str(self.session.mountpoint))
            if not await asyncio.to_thread(mounting.abandon, self.session):
                LOG.error("mount_left_behind", mountpoint=str(self.session.mountpoint))
        if self.helpers is not None:
            await self.helpers.close()
        if self.gateway is not None:
            await self.gateway.close()
        if self.device is not None:
            self.device.close()
        elif self.session is not None:
            os.close(self.session.device)
        if self.keeping is not None and self._is_kept:
            await self.keeping.over()


def say_if_failed(task: asyncio.Task[None]) -> None:
    """For tasks that nobody awaits while the service runs."""
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.error("background_task_failed", task=task.get_name(), error=repr(error), exc_info=error)


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Runs all until one ends; the rest is cancelled. An error of one is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def serve(settings: FuseSettings, kind: type[Service] = Service) -> int:
    """Runs a gateway until SIGTERM, SIGINT or an unmount; its exit code."""
    logs.setup("forebay-fuse", settings.log_level, settings.log_json)
    check_exposure(settings)
    stop = stop_event()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # a guard has blocked them
    service = kind(settings)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(service.close)
            await first_of(service.start(), stop.wait())
            if service.is_ready:
                gc.freeze()
                await service.serve(stop)
    finally:
        await asyncio.to_thread(service.telemetry.shutdown)
    return 0
