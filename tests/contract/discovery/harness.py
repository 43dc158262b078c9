"""Three registries behind one face: in memory, embedded in a real HTTP server, and a real ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from forebay.contracts import ClusterMap, Member, StatusReply
from forebay.discovery import EmbeddedHub, Registry, RegistryOptions, add_registry_routes, open_registry
from forebay.discovery.zookeeper_election import ZooKeeperElection
from forebay.discovery.zookeeper_maps import ZooKeeperMapWriter
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing.registry import MemoryCluster
from forebay.testing.tools import free_ports
from forebay.testing.zookeeper import ZooKeeperServer
from forebay.transport import HttpClient, HttpServer
from forebay.transport.app import ServiceInfo, make_app

CLUSTER = "lake"
OPTIONS = RegistryOptions(
    ttl_s=1.2,
    call_timeout_s=2.0,
    poll_s=5.0,
    retry_min_s=0.05,
    retry_max_s=0.3,
    serving_period_s=0.4,
    conflict_wait_s=0.5,
    announce_timeout_s=5.0,
)
SOON_S = 10.0


def worker(name: str, port: int = 7000, **more: object) -> Member:
    return msgspec.structs.replace(Member(member_id=name, role="worker", tcp=f"127.0.0.1:{port}"), **more)


class Harness(Protocol):
    """One cluster with its registry; each ``registry()`` is another process of it."""

    address: str

    async def registry(self) -> Registry:
        """A started registry; the harness closes it in the end."""

    def unstarted(self) -> Registry:
        """One that the test starts itself; the harness closes it all the same."""

    async def begin_outage(self) -> None:
        """The registry goes away."""

    async def end_outage(self) -> None:
        """It is back, with what it stored."""

    async def make_room(self) -> None:
        """Nobody of the harness leads any more."""

    async def let_time_pass(self, member_id: str) -> None:
        """Nothing, where time passes by itself; in memory the member is out now."""

    async def close(self) -> None:
        """Ends everything."""


class Registries:
    """The registries a harness handed out."""

    def __init__(self) -> None:
        self._open: list[Registry] = []

    def add(self, registry: Registry) -> Registry:
        self._open.append(registry)
        return registry

    async def close(self) -> None:
        for registry in self._open:
            await registry.close()
            registry.validate()  # type: ignore[attr-defined]  # all three have it, the Protocol does not ask for it


class MemoryHarness:
    """``forebay.testing.registry``."""

    address = "memory"

    def __init__(self) -> None:
        self._cluster = MemoryCluster(CLUSTER)
        self._registries = Registries()

    async def registry(self) -> Registry:
        registry = self.unstarted()
        await registry.start(Deadline.after(1))
        return registry

    def unstarted(self) -> Registry:
        return self._registries.add(self._cluster.registry())

    async def begin_outage(self) -> None:
        self._cluster.is_reachable = False

    async def end_outage(self) -> None:
        self._cluster.is_reachable = True
        self._cluster.spread()

    async def make_room(self) -> None:
        return None

    async def let_time_pass(self, member_id: str) -> None:
        self._cluster.remove(member_id)

    async def close(self) -> None:
        await self._registries.close()


class HubServer:
    """A hub as a master serves it: a real HTTP server at one port, and a place for the map that outlives it."""

    def __init__(self, *, down_s: float) -> None:
        self.port = free_ports(1)[0]
        self.stored: ClusterMap | None = None
        self._down_s = down_s
        self._running: contextlib.AsyncExitStack | None = None

    async def _load(self) -> ClusterMap | None:
        return self.stored

    async def _save(self, cluster_map: ClusterMap) -> None:
        await asyncio.sleep(0)
        self.stored = cluster_map

    async def start(self) -> None:
        hub = EmbeddedHub(CLUSTER, load=self._load, save=self._save, down_s=self._down_s)
        await hub.open()
        app = make_app(ServiceInfo("master", "m", "0", time.time()), quiet(), status=_no_status, waiting_for=lambda: ())
        add_registry_routes(app, hub)
        server = HttpServer(app, quiet(), drain_timeout_s=0.5)
        ticking = asyncio.create_task(hub.run())
        await server.start("127.0.0.1", self.port)
        self._running = contextlib.AsyncExitStack()
        self._running.callback(hub.validate)
        self._running.push_async_callback(_cancelled, ticking)
        self._running.push_async_callback(server.close)
        self._running.callback(hub.close)

    async def stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.aclose()


def _no_status() -> StatusReply:
    return StatusReply(
        service="master", member_id="m", version="0", wire_version=1, started_at_s=0.0, ready=True, waiting_for=()
    )


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class EmbeddedHarness:
    """A hub behind a real HTTP server, its clients over real connections."""

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.address = f"127.0.0.1:{server.port}"
        self._registries = Registries()
        self._clients: list[HttpClient] = []

    async def registry(self) -> Registry:
        registry = self.unstarted()
        await registry.start(Deadline.after(SOON_S))
        return registry

    def unstarted(self) -> Registry:
        client = HttpClient(quiet())
        self._clients.append(client)
        url = f"http://{self.address}"
        return self._registries.add(
            open_registry(url, cluster_id=CLUSTER, telemetry=quiet(), client=client, options=OPTIONS)
        )

    async def begin_outage(self) -> None:
        await self.server.stop()

    async def end_outage(self) -> None:
        await self.server.start()

    async def make_room(self) -> None:
        return None

    async def let_time_pass(self, member_id: str) -> None:
        return None

    async def close(self) -> None:
        await self._registries.close()
        for client in self._clients:
            await client.close()
        await self.server.stop()


class ZooKeeperHarness:
    """A real ZooKeeper and one map writer, as a master runs it."""

    def __init__(self, server: ZooKeeperServer, *, down_s: float) -> None:
        self._server = server
        self.address = server.address
        self.chroot = f"/test-{uuid.uuid4().hex}"
        self.url = f"zookeeper://{server.address}{self.chroot}"
        self._election = ZooKeeperElection(
            [server.address], self.chroot, cluster_id=CLUSTER, candidate=worker("writer"), telemetry=quiet(),
            options=OPTIONS,
        )  # fmt: skip
        self._election.start()
        self._writer = asyncio.create_task(
            ZooKeeperMapWriter(
                [server.address],
                self.chroot,
                cluster_id=CLUSTER,
                telemetry=quiet(),
                election=self._election,
                down_s=down_s,
                options=OPTIONS,
            ).run()
        )
        self._client = HttpClient(quiet())
        self._registries = Registries()

    async def registry(self) -> Registry:
        registry = self.unstarted()
        await registry.start(Deadline.after(SOON_S))
        return registry

    def unstarted(self) -> Registry:
        return self._registries.add(
            open_registry(self.url, cluster_id=CLUSTER, telemetry=quiet(), client=self._client, options=OPTIONS)
        )

    async def begin_outage(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def end_outage(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def make_room(self) -> None:
        await self._election.close()

    async def let_time_pass(self, member_id: str) -> None:
        return None

    async def close(self) -> None:
        await self._registries.close()
        await _cancelled(self._writer)
        await self._election.close()
        await self._client.close()


@contextlib.asynccontextmanager
async def opened(kind: str, *, down_s: float, zookeeper: ZooKeeperServer | None = None) -> AsyncIterator[Harness]:
    """The harness of that kind, closed in the end."""
    harness: Harness
    if kind == "memory":
        harness = MemoryHarness()
    elif kind == "embedded":
        server = HubServer(down_s=down_s)
        await server.start()
        harness = EmbeddedHarness(server)
    else:
        assert zookeeper is not None
        harness = ZooKeeperHarness(zookeeper, down_s=down_s)
    try:
        yield harness
    finally:
        await harness.close()


async def seen(registry: Registry, is_so: Callable[[ClusterMap], bool], *, within_s: float = SOON_S) -> ClusterMap:
    """The first map of which ``is_so`` is true, now or within the time."""
    deadline = Deadline.after(within_s)
    cluster_map = registry.current()
    while cluster_map is None or not is_so(cluster_map):
        assert not deadline.expired, f"not seen within {within_s} s; last: {cluster_map}"
        after = cluster_map.revision if cluster_map else -1
        cluster_map = await registry.changed(after, deadline.remaining_s()) or registry.current()
    return cluster_map


async def eventually(is_so: Callable[[], bool], *, within_s: float = SOON_S) -> None:
    """Polls until ``is_so`` is true."""
    deadline = Deadline.after(within_s)
    while not is_so():
        assert not deadline.expired, "not within the time"
        await asyncio.sleep(0.02)


def member(cluster_map: ClusterMap, name: str) -> Member | None:
    """The member of that id."""
    return next((m for m in cluster_map.members if m.member_id == name), None)


def has(name: str, **fields: object) -> Callable[[ClusterMap], bool]:
    """Whether a map has the member, with these fields."""

    def is_so(cluster_map: ClusterMap) -> bool:
        found = member(cluster_map, name)
        return found is not None and all(getattr(found, key) == value for key, value in fields.items())

    return is_so


def lacks(name: str) -> Callable[[ClusterMap], bool]:
    """Whether a map lacks the member."""
    return lambda cluster_map: member(cluster_map, name) is None
