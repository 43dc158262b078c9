"""An S3 endpoint that answers what the test says, byte for byte: for replies no well-behaved server gives."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from forebay.contracts import UfsOptions
from forebay.telemetry import Telemetry, quiet
from forebay.ufs import Credentials, Ufs, UfsLimits, UfsUri, open_ufs

QUICK = UfsLimits(streams_max=4, connect_timeout_s=1.0, silence_timeout_s=0.5, request_timeout_s=3.0, attempts_max=1)
GIVEN = Credentials("AKIDTEST", "CANARY-secret-given", "CANARY-session-token")


@dataclass(frozen=True)
class Asked:
    """One request: method, path with query, headers in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """``hang``: nothing more comes, the connection stays; ``cut``: it is closed. ``length`` claims another length;
    -1: none."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    hang: bool = False
    cut: bool = False

    def head(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        lines = [f"HTTP/1.1 {self.status} x", *([f"Content-Length: {length}"] if length >= 0 else [])]
        return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in self.headers.items()), "", ""]).encode()


Script = Callable[[Asked], Reply]


class ScriptedS3:
    """The listening server and what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        asked = Asked(method, target, {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])})
        self.asked.append(asked)
        reply = self.script(asked)
        writer.write(reply.head() + (b"" if method == "HEAD" else reply.body))
        await writer.drain()
        if reply.hang:
            await reader.read()
        return not (reply.hang or reply.cut)

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.close()

    async def ended(self) -> None:
        """Until every connection's task is over."""
        await asyncio.gather(*(task for task in self._tasks if task is not None), return_exceptions=True)


@asynccontextmanager
async def scripted(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[ScriptedS3, str]]:
    """The server and its endpoint."""
    s3 = ScriptedS3(script)
    server = await asyncio.start_server(s3.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield s3, f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{port}"
    finally:
        server.close()
        s3.drop_connections()
        await server.wait_closed()
        await s3.ended()


@asynccontextmanager
async def opened(
    endpoint: str,
    *,
    uri: str = "s3://bucket/p",
    options: UfsOptions | None = None,
    limits: UfsLimits = QUICK,
    telemetry: Telemetry | None = None,
) -> AsyncIterator[Ufs]:
    """An adapter that talks to it."""
    ufs = await open_ufs(
        UfsUri.parse(uri),
        options or UfsOptions(endpoint=endpoint, path_style=True),
        telemetry=telemetry or quiet(),
        credentials=GIVEN,
        limits=limits,
    )
    try:
        yield ufs
    finally:
        await ufs.close()
