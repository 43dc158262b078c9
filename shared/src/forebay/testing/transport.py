"""A small application on a real listener, for tests of the transport and of what others do with it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from forebay.telemetry import Gauge, Telemetry, quiet
from forebay.transport import HttpClient, HttpServer, Limits, flushed

BODY = bytes(range(256)) * 4096
"""One MiB that is not the same anywhere."""


@dataclass
class Seen:
    """What the application noticed."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0
    finished: int = 0
    requests: list[web.Request] = field(default_factory=list)


class Routes:
    """``/echo`` and ``/crc`` take bodies, ``/bytes/N`` gives one, ``/hold`` waits for ``seen.release``."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def hello(self, request: web.Request) -> web.Response:
        """A short text."""
        self.seen.requests.append(request)
        return web.Response(text="hello\n")

    async def echo(self, request: web.Request) -> web.Response:
        """What was sent."""
        return web.Response(body=await request.read())

    async def crc(self, request: web.Request) -> web.Response:
        """CRC-32 and length of what was sent."""
        crc, count = 0, 0
        async for piece in request.content.iter_any():
            crc, count = zlib.crc32(piece, crc), count + len(piece)
        return web.Response(text=f"{crc} {count}")

    async def some_bytes(self, request: web.Request) -> web.StreamResponse:
        """So many bytes of `BODY`, over and over."""
        left = int(request.match_info["count"])
        response = web.StreamResponse(headers={"content-length": str(left)})
        await response.prepare(request)
        view = memoryview(BODY)
        while left:
            count = min(left, len(BODY))
            await response.write(view[:count])
            left -= count
        return response

    async def endless(self, request: web.Request) -> web.StreamResponse:
        """Bytes until somebody stops it."""
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(BODY)
                self.seen.started.set()
        finally:
            self.seen.cancelled += 1

    async def reused(self, request: web.Request) -> web.StreamResponse:
        """The same memory for every piece, rewritten after each barrier."""
        piece, count = bytearray(1 << 20), 8
        response = web.StreamResponse(headers={"content-length": str(len(piece) * count)})
        await response.prepare(request)
        for number in range(count):
            piece[:] = bytes((number,)) * len(piece)
            await response.write(memoryview(piece))
            await flushed(response)
        return response

    async def hold(self, request: web.Request) -> web.Response:
        """An answer when the test says so."""
        self.seen.started.set()
        try:
            await self.seen.release.wait()
        except asyncio.CancelledError:
            self.seen.cancelled += 1
            raise
        self.seen.finished += 1
        return web.Response(text="held\n")

    async def broken(self, request: web.Request) -> web.Response:
        """A bug."""
        raise ZeroDivisionError("a bug")

    async def half(self, request: web.Request) -> web.StreamResponse:
        """Less than was declared."""
        response = web.StreamResponse(headers={"content-length": "1000000"})
        await response.prepare(request)
        await response.write(b"x" * 1000)
        return response


def application(seen: Seen) -> web.Application:
    """`Routes` as an application."""
    routes = Routes(seen)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/", routes.hello)
    app.router.add_post("/echo", routes.echo)
    app.router.add_post("/crc", routes.crc)
    app.router.add_get("/bytes/{count}", routes.some_bytes)
    app.router.add_get("/endless", routes.endless)
    app.router.add_get("/reused", routes.reused)
    app.router.add_route("*", "/hold", routes.hold)
    app.router.add_get("/broken", routes.broken)
    app.router.add_get("/half", routes.half)
    return app


@dataclass
class Pair:
    """A server with the application above, a client, and what both observed."""

    server: HttpServer
    client: HttpClient
    telemetry: Telemetry
    seen: Seen

    @property
    def peer(self) -> str:
        """The server's address."""
        return self.server.address

    def active(self) -> float:
        """Requests that either side takes for under way."""
        gauges = [g for g in self.telemetry.metrics if isinstance(g, Gauge)]
        return sum(sum(g.values().values()) for g in gauges if g.description.name.endswith("active_requests"))


@asynccontextmanager
async def pair(
    *, limits: Limits | None = None, client_limits: Limits | None = None, drain_timeout_s: float = 5.0
) -> AsyncIterator[Pair]:
    """A running `Pair`; at the end both are closed and no request may be under way."""
    telemetry, seen = quiet(), Seen()
    server = HttpServer(application(seen), telemetry, limits=limits, drain_timeout_s=drain_timeout_s)
    await server.start("127.0.0.1", 0)
    client = HttpClient(telemetry, limits=client_limits)
    found = Pair(server, client, telemetry, seen)
    try:
        yield found
    finally:
        seen.release.set()
        await client.close()
        await server.close()
    assert found.active() == 0, "requests are left under way"
    assert server.connections == 0, "connections are left open"


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Polls until it is true."""
    end_s = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < end_s, "it did not happen in time"
        await asyncio.sleep(0.002)
