"""The processes of the transport bench: a server or a client, ours or the peer's, one process each, on uvloop.

A server prints its port and serves until its standard input ends. A client reads one JSON command a line and answers
with one JSON line: ``{"op": "blocks", "bytes": n}`` reads n bytes in ranges of 4 MiB on one stream, ``{"op": "rpc",
"count": n}`` makes n JSON RPCs with 16 under way. Both sides run the same handlers and the same record types.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import aiohttp
import uvloop
from aiohttp import web

from forebay.contracts import Entry, LookupReply, LookupRequest, decode, encode
from forebay.runtime import Deadline
from forebay.telemetry import Telemetry, setup
from forebay.transport import HttpClient, HttpServer, Limits

RANGE_BYTES = 4 << 20
CONCURRENCY = 16
PATH = "/v1/lookup"
H1_READ_BUFFER_BYTES = 64 << 10
"""aiohttp's ``read_bufsize``. Its default of 256 KiB is slower, 2 MiB far slower; so is ``read()``, which joins."""

REQUEST = LookupRequest(path="/imagenet/train/n01440764")
REPLY = LookupReply(
    entry=Entry(name="n01440764", kind="dir", inode=1234, mode=0o555, mtime_ns=1_700_000_000_000_000_000),
    mount_id="m1",
    synced_at_s=1_700_000_000.0,
    valid_s=60.0,
)


def application(blob: memoryview) -> web.Application:
    """Ranges of ``blob`` at ``/blob`` and one RPC, without any middleware."""

    async def ranges(request: web.Request) -> web.StreamResponse:
        wanted = request.http_range
        piece = blob[wanted.start : wanted.stop]
        response = web.StreamResponse(status=206, headers={"content-length": str(len(piece))})
        await response.prepare(request)
        await response.write(piece)
        return response

    async def lookup(request: web.Request) -> web.Response:
        decode(LookupRequest, await request.read())
        return web.Response(body=encode(REPLY), content_type="application/json")

    app = web.Application()
    app.router.add_get("/blob", ranges)
    app.router.add_post(PATH, lookup)
    return app


def telemetry(kind: str) -> Telemetry | None:
    """``none``, or what a service has by default."""
    return None if kind == "none" else setup("bench", member_id="bench")


async def serve_ours(blob: memoryview, observed: str) -> tuple[int, Callable[[], Awaitable[None]]]:
    """Our server."""
    server = HttpServer(application(blob), telemetry(observed))
    await server.start("127.0.0.1", 0)
    return int(server.address.rpartition(":")[2]), server.close


async def serve_h1(blob: memoryview, send_buffer_bytes: int = 0) -> tuple[int, Callable[[], Awaitable[None]]]:
    """aiohttp's own server, access log off; with our size of the kernel's send buffer, or with the kernel's."""
    runner = web.AppRunner(application(blob), access_log=None)
    await runner.setup()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    if send_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    await web.SockSite(runner, listener).start()
    return int(runner.addresses[0][1]), runner.cleanup


async def server_main(kind: str, blob: memoryview, observed: str) -> None:
    """Serves until standard input ends."""
    if kind == "ours":
        port, close = await serve_ours(blob, observed)
    else:
        port, close = await serve_h1(blob, Limits().local_send_buffer_bytes if kind == "h1-tuned" else 0)
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await close()


class Client(Protocol):
    """What both clients can do."""

    async def read(self, start: int, buffer: memoryview) -> None:
        """Fills ``buffer`` from ``start`` of the blob."""

    async def rpc(self) -> LookupReply:
        """One RPC."""

    async def close(self) -> None:
        """The end."""


class OurClient:
    """`HttpClient`."""

    def __init__(self, port: int, observed: str) -> None:
        self._client = HttpClient(telemetry(observed))
        self._peer = f"127.0.0.1:{port}"

    async def read(self, start: int, buffer: memoryview) -> None:
        wanted = {"range": f"bytes={start}-{start + len(buffer) - 1}"}
        reply = await self._client.read_into(self._peer, "/blob", buffer, deadline=Deadline.after(30), headers=wanted)
        assert (reply.status, reply.length) == (206, len(buffer))

    async def rpc(self) -> LookupReply:
        return await self._client.call(self._peer, PATH, REQUEST, LookupReply, deadline=Deadline.after(30))

    async def close(self) -> None:
        await self._client.close()


class H1Client:
    """aiohttp's client: one keep-alive connection per concurrent request."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            read_bufsize=H1_READ_BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def read(self, start: int, buffer: memoryview) -> None:
        headers = {"range": f"bytes={start}-{start + len(buffer) - 1}"}
        async with self._session.get(f"{self._url}/blob", headers=headers) as reply:
            assert reply.status == 206
            position = 0
            async for piece in reply.content.iter_any():
                buffer[position : position + len(piece)] = piece
                position += len(piece)
        assert position == len(buffer)

    async def rpc(self) -> LookupReply:
        async with self._session.post(self._url + PATH, data=encode(REQUEST)) as reply:
            assert reply.status == 200
            return decode(LookupReply, await reply.read())

    async def close(self) -> None:
        await self._session.close()


async def blocks(client: Client, total: int, blob: bytes) -> float:
    """Bytes per second of ``total`` bytes in ranges of 4 MiB, one after the other."""
    buffer = memoryview(bytearray(RANGE_BYTES))
    await client.read(0, buffer)
    assert zlib.crc32(buffer) == zlib.crc32(blob[:RANGE_BYTES])
    started_s = time.perf_counter()
    for start in range(0, total, RANGE_BYTES):
        await client.read(start % len(blob), buffer)
    return total / (time.perf_counter() - started_s)


async def rpcs(client: Client, count: int) -> float:
    """RPCs per second with `CONCURRENCY` under way."""

    async def some() -> None:
        for _ in range(count // CONCURRENCY):
            assert (await client.rpc()) == REPLY

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(some())
    return count / (time.perf_counter() - started_s)


async def client_main(kind: str, port: int, blob: bytes, observed: str) -> None:
    """Obeys standard input."""
    client: Client = OurClient(port, observed) if kind == "ours" else H1Client(port)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        cpu_s = time.process_time()
        if command["op"] == "blocks":
            rate = await blocks(client, command["bytes"], blob)
        else:
            rate = await rpcs(client, command["count"])
        print(json.dumps({"rate": rate, "cpu_s": time.process_time() - cpu_s}), flush=True)
    await client.close()


def main() -> None:
    """``server|client KIND --blob FILE [--port N] [--telemetry none|default]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("kind", choices=("ours", "h1", "h1-tuned"))
    parser.add_argument("--blob", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--telemetry", choices=("none", "default"), default="none")
    args = parser.parse_args()
    blob = args.blob.read_bytes()
    if args.role == "server":
        uvloop.run(server_main(args.kind, memoryview(blob), args.telemetry))
    else:
        uvloop.run(client_main(args.kind, args.port, blob, args.telemetry))


if __name__ == "__main__":
    main()
