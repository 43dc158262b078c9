"""The processes of the transport bench: a server or a client, ours or the peer's, one process each, on uvloop.

A server prints its port and serves until its standard input ends. A client reads one JSON command a line and answers
with one JSON line: ``{"op": "blocks", "bytes": n, "streams": k}`` reads n bytes in ranges of 4 MiB on k streams (one
unless told), ``{"op": "rpc", "count": n}`` makes n JSON RPCs with 16 under way, ``{"op": "beside", "count": n,
"streams": k}`` n RPCs one after the other beside k endless bulk reads. Both sides run the same handlers and the same
record types.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Target:
    """What bulk reads ask for."""

    path: str = "/blob"
    headers: Mapping[str, str] = field(default_factory=dict)


class OurClient:
    """`HttpClient`."""

    def __init__(self, port: int, observed: str, target: Target, limits: Limits) -> None:
        self._client = HttpClient(telemetry(observed), limits=limits)
        self._peer = f"127.0.0.1:{port}"
        self._target = target

    async def read(self, start: int, buffer: memoryview) -> None:
        wanted = {**self._target.headers, "range": f"bytes={start}-{start + len(buffer) - 1}"}
        reply = await self._client.read_into(
            self._peer, self._target.path, buffer, deadline=Deadline.after(30), headers=wanted
        )
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


async def blocks(client: Client, total: int, blob: bytes, streams: int = 1) -> float:
    """Bytes per second of ``total`` bytes in ranges of 4 MiB, ``streams`` at a time."""
    buffers = [memoryview(bytearray(RANGE_BYTES)) for _ in range(streams)]
    await client.read(0, buffers[0])
    assert zlib.crc32(buffers[0]) == zlib.crc32(blob[:RANGE_BYTES])
    starts = iter(range(0, total, RANGE_BYTES))

    async def some(buffer: memoryview) -> None:
        for start in starts:
            await client.read(start % len(blob), buffer)

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for buffer in buffers:
            group.create_task(some(buffer))
    return total / (time.perf_counter() - started_s)


async def beside(client: Client, count: int, blob: bytes, streams: int) -> dict[str, float]:
    """Milliseconds of ``count`` RPCs, one after the other, while ``streams`` readers read on and on; and their rate."""
    took_ms: list[float] = []
    moved = 0

    async def bulk() -> None:
        nonlocal moved
        buffer, start = memoryview(bytearray(RANGE_BYTES)), 0
        while True:
            await client.read(start % len(blob), buffer)
            start += RANGE_BYTES
            moved += RANGE_BYTES

    readers = [asyncio.create_task(bulk()) for _ in range(streams)]
    try:
        began_s = time.perf_counter()
        for _ in range(count):
            started_s = time.perf_counter()
            await client.rpc()
            took_ms.append(1e3 * (time.perf_counter() - started_s))
            await asyncio.sleep(0.002)
        rate = moved / (time.perf_counter() - began_s)
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    took_ms.sort()
    return {"p50_ms": took_ms[len(took_ms) // 2], "p99_ms": took_ms[len(took_ms) * 99 // 100], "bulk_rate": rate}


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


async def client_main(
    kind: str, port: int, blob: bytes, observed: str, *, target: Target | None = None, limits: Limits | None = None
) -> None:
    """Obeys standard input."""
    if kind == "ours":
        client: Client = OurClient(port, observed, target or Target(), limits or Limits())
    else:
        client = H1Client(port)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        cpu_s = time.process_time()
        if command["op"] == "blocks":
            answer = {"rate": await blocks(client, command["bytes"], blob, command.get("streams", 1))}
        elif command["op"] == "beside":
            answer = await beside(client, command["count"], blob, command["streams"])
        else:
            answer = {"rate": await rpcs(client, command["count"])}
        print(json.dumps({**answer, "cpu_s": time.process_time() - cpu_s}), flush=True)
    await client.close()


def main() -> None:
    """``server|client KIND --blob FILE [--port N] [--telemetry none|default]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("kind", choices=("ours", "h1", "h1-tuned"))
    parser.add_argument("--blob", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--telemetry", choices=("none", "default"), default="none")
    parser.add_argument("--target", type=json.loads, default={}, help="fields of Target as JSON")
    parser.add_argument("--limits", type=json.loads, default={}, help="the client's limits as JSON")
    args = parser.parse_args()
    blob = args.blob.read_bytes()
    if args.role == "server":
        uvloop.run(server_main(args.kind, memoryview(blob), args.telemetry))
    else:
        target, limits = Target(**args.target), Limits(**args.limits)
        uvloop.run(client_main(args.kind, args.port, blob, args.telemetry, target=target, limits=limits))


if __name__ == "__main__":
    main()
