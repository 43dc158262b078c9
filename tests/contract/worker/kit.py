"""Workers in this process over the real transport, with a small master that serves registry and mount table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from forebay.contracts import BlockTarget, Mount, MountsReply, StatusReply, UfsOptions
from forebay.contracts.blocks import TICKET_HEADER, block_path
from forebay.contracts.identity import block_id
from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.discovery import EmbeddedHub, add_registry_routes
from forebay.runtime import Deadline, Supervisor
from forebay.telemetry import quiet
from forebay.transport import HttpClient, HttpServer, Reply
from forebay.transport.app import ServiceInfo, make_app, record_response
from forebay.ufs import UfsUri
from forebay.ufs.posix import file_fingerprint
from forebay_worker.app import Worker, running
from forebay_worker.opening import plan_tiers
from forebay_worker.settings import WorkerSettings

MIB = 1 << 20
RING = KeyRing((("k1", b"0123456789abcdef"),))
KEY_LINE = f"k1 {b'0123456789abcdef'.hex()}\n"
CLUSTER = "test"


class SmallMaster:
    """Registry and mount table of one cluster."""

    def __init__(self) -> None:
        self.hub = EmbeddedHub(CLUSTER)
        self.table = MountsReply(cluster_id=CLUSTER, revision=1, mounts=())
        self._changed = asyncio.Condition()
        info = ServiceInfo("small-master", "master", "0", time.time())
        app = make_app(info, quiet(), status=_no_status, waiting_for=lambda: ())
        add_registry_routes(app, self.hub, keys=RING)
        app.router.add_get("/v1/mounts", self._mounts)
        self.server = HttpServer(app, quiet(), drain_timeout_s=0.2)

    async def mount(self, *mounts: Mount) -> None:
        """Replaces the mount table."""
        async with self._changed:
            self.table = MountsReply(cluster_id=CLUSTER, revision=self.table.revision + 1, mounts=mounts)
            self._changed.notify_all()

    async def _mounts(self, request: web.Request) -> web.Response:
        after = int(request.query.get("after", "-1"))
        wait_s = float(request.query.get("wait_s", "0"))
        if after == self.table.revision and wait_s:
            async with self._changed:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        return record_response(self.table)


def _no_status() -> StatusReply:
    return StatusReply(
        service="small-master", member_id="master", version="0", wire_version=1, started_at_s=0.0, ready=True
    )


def file_mount(folder: Path, *, mount_id: str = "m1", generation: int = 1, block_size: int = 16 * MIB) -> Mount:
    """A mount of a local folder."""
    uri = UfsUri.parse(f"file://{folder}")
    return Mount(
        mount_id=mount_id,
        generation=generation,
        path="/",
        ufs_uri=str(uri),
        ufs_id=uri.ufs_id(UfsOptions()),
        block_size=block_size,
    )


def ticket(**changes: Any) -> str:
    """A good ticket for mount ``m1``, or one with changed claims."""
    claims: dict[str, Any] = {
        "cluster": CLUSTER,
        "mount_id": "m1",
        "generation": 1,
        "prefix": "",
        "client": "tester",
        "rights": "r",
        "expires_at_s": time.time() + 3600,
    }
    return sign(RING, TicketClaims(**(claims | changes)))


@dataclass(frozen=True)
class File:
    """A file of a mount as a client knows it from its layout."""

    mount: Mount
    key: str
    size: int
    fingerprint: str

    @staticmethod
    def write(mount: Mount, key: str, data: bytes) -> File:
        """Writes it into the mounted folder."""
        path = Path(mount.ufs_uri.removeprefix("file://")) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return File(mount, key, len(data), file_fingerprint(path.stat()))

    def block_id(self, index: int = 0) -> str:
        """The id of one of its blocks."""
        uri = UfsUri.parse(self.mount.ufs_uri)
        version = uri.version_id(self.mount.options, self.key, self.fingerprint)
        return block_id(version, self.mount.block_size, index)

    def path(self, index: int = 0, **changes: Any) -> str:
        """The data route of one of its blocks; ``changes`` lie about the target."""
        target: dict[str, Any] = {
            "mount_id": self.mount.mount_id,
            "key": self.key,
            "size": self.size,
            "fingerprint": self.fingerprint,
            "index": index,
        }
        return block_path(self.block_id(index), BlockTarget(**(target | changes)))


@dataclass
class Cluster:
    """A master and its workers."""

    folder: Path
    master: SmallMaster
    mount: Mount
    client: HttpClient
    key_file: Path
    stack: AsyncExitStack
    workers: list[Worker] = field(default_factory=list)

    async def add(self, member_id: str, **settings: Any) -> Worker:
        """Starts one more worker with a tier directory of its own and waits until the map has it."""
        given: dict[str, Any] = {
            "registry": f"http://{self.master.server.address}",
            "cluster_id": CLUSTER,
            "cluster_key_file": self.key_file,
            "member_id": member_id,
            "ufs_roots": (self.mount.ufs_uri,),
            "tier_dirs": (f"SSD:{self.folder / member_id}:256MiB",),
            "drain_timeout_s": 0.5,
            "heap_reserve": 0,
        }
        worker = await self.stack.enter_async_context(serving(WorkerSettings(**(given | settings))))
        self.workers.append(worker)
        await until(lambda: not worker.waiting_for())
        await until(lambda: all(w.registry.current() == worker.registry.current() for w in self.workers))
        return worker

    async def get(self, worker: Worker, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """A raw request with a good ticket, unless the headers say otherwise."""
        given = {TICKET_HEADER: ticket(), **(headers or {})}
        return await self.client.fetch(worker.server.address, "GET", path, headers=given, deadline=Deadline.after(10))


@asynccontextmanager
async def serving(settings: WorkerSettings) -> AsyncIterator[Worker]:
    """A worker that serves, as ``app.serve`` runs it, with its invariants checked at the end."""
    stop = asyncio.Event()
    async with running(settings, plan_tiers(settings)) as worker:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(worker.run(stop))
            try:
                await until(lambda: bool(worker.server.address) or task.done())
                yield worker
            finally:
                stop.set()
        worker.index.validate()
        worker.queue.validate()


@asynccontextmanager
async def cluster(folder: Path, *, block_size: int = 16 * MIB) -> AsyncIterator[Cluster]:
    """A master with one mount of ``folder / "data"`` and no worker yet."""
    (folder / "data").mkdir()
    key_file = folder / "keys"
    key_file.write_text(KEY_LINE)
    master = SmallMaster()
    await master.hub.open()
    await master.server.start("127.0.0.1", 0)
    mount = file_mount(folder / "data", block_size=block_size)
    await master.mount(mount)
    client = HttpClient(quiet())
    try:
        async with Supervisor() as spawner, AsyncExitStack() as stack:
            spawner.spawn("hub", master.hub.run())
            yield Cluster(folder, master, mount, client, key_file, stack)
    finally:
        await client.close()
        await master.server.close()


async def until(holds: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Polls with a deadline."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)
