"""A cluster in one event loop, made of real HTTP servers and scripted answers: for tests of what talks to a cluster.

The master knows files by path and serves the real embedded registry; the workers hold the files' bytes and can be
told to fail. Placement, tickets and block ids are the real ones.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from types import TracebackType
from typing import Literal

from aiohttp import web

from forebay.contracts import (
    AccessesReply,
    AccessesRequest,
    AnnounceRequest,
    Entry,
    Layout,
    ListReply,
    ListRequest,
    LookupReply,
    LookupRequest,
    Member,
    Mount,
    StatusReply,
    TicketReply,
    TicketRequest,
    TierInfo,
    TouchReply,
    TouchRequest,
    identity,
)
from forebay.contracts.blocks import (
    COPY_HEADER,
    HOP_HEADER,
    OFFERED_HEADER,
    ONLY_IF_CACHED,
    SERVING_WEIGHT_HEADER,
    SOURCE_HEADER,
    TICKET_HEADER,
    TOUCH_PATH,
    ByteRange,
    format_content_range,
    parse_block_query,
    parse_range,
)
from forebay.contracts.names import ACCESSES_PATH
from forebay.contracts.tickets import KeyRing, TicketClaims, sign, verify
from forebay.discovery import EmbeddedHub, add_registry_routes
from forebay.errors import NotCached, NotFound, Overloaded, StaleVersion, UfsUnavailable
from forebay.telemetry import Telemetry, quiet
from forebay.transport import HttpServer
from forebay.transport.app import ServiceInfo, make_app, read_record, record_response

CLUSTER = "forebay"
KEYS = KeyRing((("k1", b"a key of sixteen bytes"),))
MOUNT_ID = "m1"
UFS_ID = "0" * 32

Fault = Literal[
    "none", "stall", "overloaded", "stale", "ufs", "crash", "truncate", "shift", "short", "long", "half", "whole"
]  # fmt: skip
"""How a worker misbehaves: it never answers; refuses; says that the version is gone; that the under store is away;
fails with 500; answers with a byte less than it was asked for; with another part of that length; announces all bytes
and ends after half of them; sends more than it was asked for; sends half and then nothing; ignores the range and sends
the whole block as 200."""


def fake_mount(*, block_size: int, replicas: int = 1) -> Mount:
    """The one mount of the fake cluster."""
    return Mount(
        mount_id=MOUNT_ID,
        generation=1,
        path="/",
        ufs_uri="file:///fake",
        ufs_id=UFS_ID,
        block_size=block_size,
        replicas=replicas,
    )


def entry_of(name: str, data: bytes, *, block_size: int, key: str | None = None) -> Entry:
    """A file's entry; its fingerprint is the hash of its bytes."""
    fingerprint = blake2b(data, digest_size=8).hexdigest()
    key = key or name
    version = identity.version_id(UFS_ID, key, fingerprint)
    layout = Layout(key=key, size=len(data), fingerprint=fingerprint, version_id=version, block_size=block_size)
    inode = identity.inode_number("/", key)
    return Entry(name=name, kind="file", inode=inode, mode=0o444, mtime_ns=1, size=len(data), layout=layout)


@dataclass
class FakeMaster:
    """Files of one directory by name; counts what it is asked. ``fault`` makes lookups fail."""

    files: dict[str, bytes]
    block_size: int
    replicas: int = 1
    ticket_ttl_s: float = 3600.0
    valid_s: float | None = None
    fault: Fault = "none"
    calls: dict[str, int] = field(default_factory=dict)
    accessed: dict[str, float] = field(default_factory=dict)
    synced_at_s: float = 1000.0

    def __post_init__(self) -> None:
        self.hub = EmbeddedHub(CLUSTER)

    def app(self, telemetry: Telemetry) -> web.Application:
        """Its application, registry included."""
        app = _app("master", telemetry)
        add_registry_routes(app, self.hub)
        app.router.add_post("/v1/lookup", self._lookup)
        app.router.add_post("/v1/list", self._list)
        app.router.add_post("/v1/tickets", self._ticket)
        app.router.add_post(ACCESSES_PATH, self._accessed)
        return app

    async def _accessed(self, request: web.Request) -> web.Response:
        self._count("accessed")
        asked = await read_record(request, AccessesRequest)
        self.accessed |= {told.path: told.accessed_s for told in asked.accesses}
        return record_response(AccessesReply(kept=len(asked.accesses)))

    def _count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1

    async def _lookup(self, request: web.Request) -> web.Response:
        self._count("lookup")
        asked = await read_record(request, LookupRequest)
        name = asked.path.strip("/")
        if self.fault == "overloaded":
            raise Overloaded("busy")
        if name and name not in self.files:
            raise NotFound(f"no such path: {asked.path}")
        entry = (
            entry_of(name, self.files[name], block_size=self.block_size)
            if name
            else Entry(name="", kind="dir", inode=2, mode=0o555, mtime_ns=1)
        )
        return record_response(
            LookupReply(
                entry=entry,
                mount_id=MOUNT_ID,
                synced_at_s=self.synced_at_s,
                valid_s=self.valid_s,
                accessed_s=self.accessed.get(asked.path),
            )
        )

    async def _list(self, request: web.Request) -> web.Response:
        self._count("list")
        asked = await read_record(request, ListRequest)
        names = sorted(n for n in self.files if asked.page_token is None or n > asked.page_token)
        page = names[: asked.limit]
        return record_response(
            ListReply(
                entries=tuple(entry_of(n, self.files[n], block_size=self.block_size) for n in page),
                mount_id=MOUNT_ID,
                next_page_token=page[-1] if len(names) > len(page) else None,
                synced_at_s=self.synced_at_s,
                valid_s=self.valid_s,
            )
        )

    async def _ticket(self, request: web.Request) -> web.Response:
        self._count("ticket")
        asked = await read_record(request, TicketRequest)
        expires = time.time() + self.ticket_ttl_s
        claims = TicketClaims(
            cluster=CLUSTER,
            mount_id=MOUNT_ID,
            generation=1,
            prefix="",
            client=asked.client_id,
            rights="read",
            expires_at_s=expires,
        )
        mount = fake_mount(block_size=self.block_size, replicas=self.replicas)
        return record_response(TicketReply(ticket=sign(KEYS, claims), mount=mount, expires_at_s=expires))


@dataclass
class FakeWorker:
    """Serves ranges of the master's files; ``fault`` says how it misbehaves. ``requests`` are (index, range, hop),
    ``copies`` how many of them asked for a copy in spare room.

    ``cold``: it holds nothing, so ``only-if-cached`` requests (``probes`` counts them) are answered ``not_cached``;
    ``offers`` is the member it says it offered its blocks to, ``source`` where it says that bytes came from.
    """

    name: str
    master: FakeMaster
    tiers: tuple[TierInfo, ...] = ()
    fault: Fault = "none"
    latency_s: float = 0.0
    serving_weight: str = "0.5"
    cold: bool = False
    offers: str | None = None
    source: str = "mem"
    probes: int = 0
    copies: list[str | None] = field(default_factory=list)
    requests: list[tuple[int, str, bool]] = field(default_factory=list)
    touches: list[TouchRequest] = field(default_factory=list)
    in_flight_max: int = 0

    def __post_init__(self) -> None:
        self._in_flight = 0

    def app(self, telemetry: Telemetry) -> web.Application:
        """Its application."""
        app = _app("worker", telemetry)
        app.router.add_get("/v1/blocks/{block_id}", self._block)
        app.router.add_post(TOUCH_PATH, self._touch)
        return app

    async def _block(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        try:
            return await self._answer(request)
        finally:
            self._in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        target = parse_block_query(request.query_string)
        verify(KEYS, request.headers[TICKET_HEADER], cluster=CLUSTER, now_s=time.time())
        range_text = request.headers["range"]
        self.copies.append(request.headers.get(COPY_HEADER))
        self.requests.append((target.index, range_text, request.headers.get(HOP_HEADER) == "1"))
        await self._misbehave()
        if request.headers.get("cache-control") == ONLY_IF_CACHED:
            self.probes += 1
            if self.cold:
                raise NotCached("not here")
        data = self.master.files.get(target.key)
        if data is None:
            raise NotFound("no such key")
        layout = entry_of(target.key, data, block_size=self.master.block_size).layout
        assert layout is not None
        if layout.fingerprint != target.fingerprint:
            raise StaleVersion("the file changed")
        assert request.match_info["block_id"] == identity.block_id(layout.version_id, layout.block_size, target.index)
        length = identity.block_length(layout.size, layout.block_size, target.index)
        part = parse_range(range_text, length)
        start = target.index * layout.block_size + part.start
        block = data[target.index * layout.block_size :][:length]
        if self.fault == "shift":
            part, start = ByteRange(part.start + 1, part.stop + 1), start + 1
        body, said = data[start : start + part.length], format_content_range(part, length)
        return await self._send(request, body, block, said)

    async def _misbehave(self) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if self.fault == "stall":
            await asyncio.sleep(3600)
        if self.fault == "overloaded":
            raise Overloaded("busy")
        if self.fault == "stale":
            raise StaleVersion("the file changed")
        if self.fault == "ufs":
            raise UfsUnavailable("the under store is away")
        if self.fault == "crash":
            raise web.HTTPInternalServerError

    async def _send(self, request: web.Request, body: bytes, block: bytes, part: str) -> web.StreamResponse:
        headers = {SOURCE_HEADER: self.source, SERVING_WEIGHT_HEADER: self.serving_weight, "content-range": part}
        if self.fault == "truncate":
            body = body[:-1]
        if self.offers is not None:
            headers[OFFERED_HEADER] = self.offers
        if self.fault == "long":
            body += bytes(1000)
        if self.fault == "whole":
            return web.Response(body=block, status=200, headers=headers)
        if self.fault in ("short", "half"):
            return await self._send_half(request, body, headers)
        return web.Response(body=body, status=206, headers=headers)

    async def _send_half(self, request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=206, headers={**headers, "content-length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if self.fault == "half":
            await asyncio.sleep(3600)
        await response.write_eof()
        return response

    async def _touch(self, request: web.Request) -> web.Response:
        self.touches.append(await read_record(request, TouchRequest))
        return record_response(TouchReply(known=len(self.touches[-1].touches), unknown=0))


class FakeCluster:
    """``async with FakeCluster(files, workers=2) as cluster``: servers on loopback, members announced."""

    def __init__(self, files: dict[str, bytes], *, workers: int = 1, block_size: int = 1 << 20) -> None:
        self.master = FakeMaster(files, block_size)
        self.workers = [FakeWorker(f"w{i}", self.master) for i in range(workers)]
        self._servers: dict[str, HttpServer] = {}
        self._telemetry = quiet()

    @property
    def registry(self) -> str:
        """The registry setting."""
        return f"http://{self._servers['master'].address}"

    async def __aenter__(self) -> FakeCluster:
        await self.master.hub.open()
        await self._serve("master", self.master.app(self._telemetry))
        for worker in self.workers:
            await self._serve(worker.name, worker.app(self._telemetry))
            await self.announce(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in tuple(self._servers):
            await self.stop(name)

    async def _serve(self, name: str, app: web.Application) -> None:
        server = HttpServer(app, self._telemetry, drain_timeout_s=0.1)
        await server.start("127.0.0.1", 0)
        self._servers[name] = server

    async def stop(self, name: str) -> None:
        """Close the server of one member; its address then refuses."""
        await self._servers.pop(name).close()

    def address(self, name: str) -> str:
        """``host:port`` of a member's server."""
        return self._servers[name].address

    async def announce(
        self,
        worker: FakeWorker,
        *,
        state: Literal["live", "draining"] = "live",
        address: str | None = None,
        available_bytes: int = 0,
    ) -> None:
        """Put (or update) the worker in the map; ``address`` if it is reached by way of somebody else (a proxy)."""
        member = Member(
            member_id=worker.name,
            role="worker",
            tcp=address or self._servers[worker.name].address,
            tiers=worker.tiers,
            available_bytes=available_bytes,
            state=state,
        )
        request = AnnounceRequest(member=member, session="0" * 32, ttl_s=300.0)
        await self.master.hub.announce(request, self.master.hub.clock())


def _app(service: str, telemetry: Telemetry) -> web.Application:
    started = time.time()
    info = ServiceInfo(service, f"fake-{service}", "0", started)

    def status() -> StatusReply:
        return StatusReply(
            service=service, member_id=info.member_id, version="0", wire_version=1, started_at_s=started, ready=True
        )

    return make_app(info, telemetry, status=status, waiting_for=lambda: ())
