"""The server of every service: one listener (TCP, TLS, Unix socket) that speaks HTTP/2 and HTTP/1.1."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from forebay.errors import ConfigError
from forebay.runtime.tls import TlsFiles
from forebay.transport.adapter import ServerConnection, Shared
from forebay.transport.connection import TICK_S
from forebay.transport.limits import Limits
from forebay.transport.observe import ServerObserver
from forebay.transport.pool import Tls
from forebay.transport.sniff import Sniffer
from forebay.transport.unix import BACKLOG, listening

if TYPE_CHECKING:
    from forebay.telemetry import Telemetry

ALPN = ("h2", "http/1.1")
HTTP_1_KEEPALIVE_S = 75.0
UDS_MODE = 0o755


class HttpServer:
    """Serves ``app`` until `close`. ``telemetry`` may be ``None`` in benches.

    With ``tls`` the TCP listener is encrypted; a context gets our ALPN names, `TlsFiles` are looked at in every
    handshake. The Unix socket never is: who may open it is its directory's business.
    """

    def __init__(
        self,
        app: web.Application,
        telemetry: Telemetry | None,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        drain_timeout_s: float = 10.0,
    ) -> None:
        self.limits = limits or Limits()
        self._ssl = tls.server(ALPN) if isinstance(tls, TlsFiles) else tls
        if isinstance(tls, ssl.SSLContext):
            tls.set_alpn_protocols(list(ALPN))
        self._drain_timeout_s = drain_timeout_s
        self._observer = ServerObserver(telemetry) if telemetry else None
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=HTTP_1_KEEPALIVE_S,
            shutdown_timeout=drain_timeout_s,
        )
        self._shared: Shared | None = None
        self._listeners: list[asyncio.Server] = []
        self._sniffers: set[Sniffer] = set()
        self._sockets: list[Path] = []
        self._address = ""
        self._ticker: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def address(self) -> str:
        """``host:port`` that is really bound."""
        return self._address

    @property
    def connections(self) -> int:
        """Open HTTP/2 connections."""
        return len(self._shared.connections) if self._shared else 0

    async def start(self, host: str, port: int, *, uds: Path | None = None, reuse_port: bool = False) -> None:
        """Listens on ``host:port`` (port 0: any), and on the Unix socket ``uds`` if given.

        Raises:
            ConfigError: the address is taken or not ours; ``setting`` is ``port``, ``host`` or ``uds``.
        """
        loop = asyncio.get_running_loop()
        await self._runner.setup()
        try:
            self._shared = self._share(self._runner.server)
            listener = await self._listen_tcp(loop, host, port, reuse_port)
            self._listeners.append(listener)
            self._address = _address_of(listener, host)
            if uds is not None:
                await self.listen_also(uds)
        except BaseException:
            await self.close()
            raise
        self._ticker = loop.call_later(TICK_S, self._tick)

    def _share(self, server: web.Server | None) -> Shared:
        assert server is not None
        handler = server.request_handler
        if (observer := self._observer) is not None:

            async def observed(request: web.BaseRequest) -> web.StreamResponse:
                with observer.request(request, "1.1") as scope:
                    try:
                        response = await handler(request)
                    except web.HTTPException as answer:
                        scope.status = answer.status
                        raise
                    scope.status = response.status
                    return response

            server.request_handler = observed
        return Shared(server, handler, self.limits, self._observer)

    async def _listen_tcp(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int, reuse_port: bool
    ) -> asyncio.Server:
        try:
            return await loop.create_server(
                self._sniffer, host, port, ssl=self._ssl, reuse_port=reuse_port or None, backlog=1024
            )
        except socket.gaierror as e:
            raise ConfigError("host", f"{host!r} is no address: {e.strerror}") from e
        except OSError as e:
            setting = "host" if e.errno == errno.EADDRNOTAVAIL else "port"
            reason = (
                "is taken" if e.errno == errno.EADDRINUSE else f"cannot be listened on: {os.strerror(e.errno or 0)}"
            )
            raise ConfigError(setting, f"{host}:{port} {reason}") from e

    async def listen_also(self, path: Path, *, mode: int = UDS_MODE) -> None:
        """Listens on one more Unix socket of a server that was started.

        Raises:
            ConfigError: it cannot be; ``setting`` is ``uds``.
        """
        self._listeners.append(await self._listen_uds(asyncio.get_running_loop(), path, mode))
        self._sockets.append(path)

    async def _listen_uds(self, loop: asyncio.AbstractEventLoop, path: Path, mode: int) -> asyncio.Server:
        try:
            return await loop.create_unix_server(self._sniffer, sock=listening(path, mode), backlog=BACKLOG)
        except OSError as e:
            raise ConfigError("uds", f"{path} cannot be listened on: {os.strerror(e.errno or 0)}") from e

    def _sniffer(self) -> asyncio.BaseProtocol:
        sniffer = Sniffer(
            self._begin_h2,
            self._begin_h1,
            timeout_s=self.limits.handshake_timeout_s,
            on_gone=self._sniffers.discard,
        )
        self._sniffers.add(sniffer)
        return sniffer

    def _begin_h2(self, transport: asyncio.Transport, head: bytes) -> None:
        assert self._shared is not None
        if len(self._shared.connections) >= self.limits.connections_max:
            transport.abort()
            return
        connection = ServerConnection(self._shared)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.feed(head)

    def _begin_h1(self) -> asyncio.BaseProtocol:
        assert self._shared is not None
        return self._shared.server()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in list(self._shared.connections) if self._shared else ():
            connection.tick(now_s)
        self._ticker = loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Drains: no new connections, GOAWAY, running requests finish within ``drain_timeout_s`` or are cancelled."""
        if self._is_closed:
            return
        self._is_closed = True
        for listener in self._listeners:
            listener.close()
        for sniffer in list(self._sniffers):
            if sniffer.transport is not None:
                sniffer.transport.abort()
        waits: list[Any] = [self._drain_h2()]
        if (server := self._runner.server) is not None:
            server.pre_shutdown()
            waits.append(server.shutdown(self._drain_timeout_s))
        await asyncio.gather(*waits)
        if self._ticker is not None:
            self._ticker.cancel()
        await self._runner.cleanup()
        self._listeners.clear()
        for path in self._sockets:
            path.unlink(missing_ok=True)
        self._sockets.clear()

    async def _drain_h2(self) -> None:
        connections = list(self._shared.connections) if self._shared else []
        for connection in connections:
            connection.drain()
        deadline_s = asyncio.get_running_loop().time() + self._drain_timeout_s
        while any(not c.closing for c in connections) and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.sleep(0.005)
        tasks = [task for c in connections for task in c.tasks]
        for connection in connections:
            connection.cancel_all()
        if tasks:
            await asyncio.wait(tasks, timeout=self._drain_timeout_s)
        for connection in connections:
            if connection.transport is not None:
                connection.close()
        await _gone(connections, deadline_s + 1.0)


async def _gone(connections: list[ServerConnection], deadline_s: float) -> None:
    """Waits until the sockets are closed; those whose peers do not read are cut off."""
    loop = asyncio.get_running_loop()
    while any(c.transport is not None for c in connections) and loop.time() < deadline_s:
        await asyncio.sleep(0.005)
    for connection in connections:
        if connection.transport is not None:
            connection.transport.abort()
    await asyncio.sleep(0)


def _address_of(listener: asyncio.Server, host: str) -> str:
    name = listener.sockets[0].getsockname()
    shown = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{shown}:{name[1]}"
