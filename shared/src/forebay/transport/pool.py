"""Connections to one peer: one for RPC, one or more for block data, made when needed and remade when they went.

Two connections, because the event loop is the queue: an RPC beside one bulk stream on the same connection waits for
whole frames of 1 MiB. Few bulk streams at once, because more of them only make the RPCs wait (measured: p50 0.5 ms
alone, 1 ms beside one bulk stream, 6 to 8 ms beside four); throughput comes from processes. A read whose answer has not
begun moves nothing, so it does not count for long.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from forebay.errors import CallerError, ForebayError, InvalidRequest, PeerMisbehaved, PeerUnavailable
from forebay.runtime.tls import TlsFiles
from forebay.transport.channel import ClientConnection
from forebay.transport.fields import FieldEncoder, Memo
from forebay.transport.gate import Gate
from forebay.transport.heads import ReplyHead
from forebay.transport.limits import Limits
from forebay.transport.turns import Arrivals
from forebay.transport.unix import reached

ALPN = ("h2",)
Tls = ssl.SSLContext | TlsFiles
"""One context for good, or files that may change."""


class Dialer:
    """Opens connections for all peers of one client and knows those that are open."""

    def __init__(self, limits: Limits, tls: Tls | None, connect_timeout_s: float) -> None:
        self.limits = limits
        self.connections: set[ClientConnection] = set()
        self.is_closed = False
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._encoder = FieldEncoder()
        self._memo: Memo[ReplyHead] = Memo()
        self._arrivals = Arrivals(limits.bulk_arrival_bytes_max, limits.bulk_streams_max)
        if isinstance(tls, ssl.SSLContext):
            tls.set_alpn_protocols(list(ALPN))

    def scheme(self, peer: str) -> str:
        """For the ``:scheme`` field. A Unix socket is never encrypted: who may open it is its directory's business."""
        return "https" if self._tls is not None and not peer.startswith("unix:") else "http"

    async def dial(
        self, peer: str, windows: tuple[int, int], on_change: Callable[[ClientConnection], None]
    ) -> ClientConnection:
        """A new connection to ``host:port`` or ``unix:/path``.

        Raises:
            PeerUnavailable: nobody listens there, or not in time.
            PeerMisbehaved: TLS without HTTP/2, or a certificate that does not hold.
        """

        def changed(connection: ClientConnection) -> None:
            if connection.transport is None:
                self.connections.discard(connection)
            on_change(connection)

        def make() -> ClientConnection:
            return ClientConnection(
                peer,
                self.limits,
                encoder=self._encoder,
                memo=self._memo,
                windows=windows,
                arrivals=self._arrivals,
                on_change=changed,
            )

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._open(peer, make)
        except ssl.SSLError as e:
            raise PeerMisbehaved(f"{peer}: TLS failed: {e.reason or e}", peer=peer) from e
        except TimeoutError as e:
            raise PeerUnavailable(f"{peer} did not answer in {self._connect_timeout_s} s", peer=peer) from e
        except OSError as e:
            raise PeerUnavailable(f"{peer} cannot be reached: {e.strerror or e}", peer=peer) from e
        self._check_tls(connection)
        if self.is_closed:
            connection.abort(PeerUnavailable("the client is closed"))
        if connection.transport is not None:
            self.connections.add(connection)
        return connection

    async def _open(self, peer: str, make: Callable[[], ClientConnection]) -> ClientConnection:
        loop = asyncio.get_running_loop()
        if peer.startswith("unix:"):
            with reached(peer[5:]) as path:
                _, made = await loop.create_unix_connection(make, path)
            return made
        host, port = split_peer(peer)
        context = self._tls.client(ALPN) if isinstance(self._tls, TlsFiles) else self._tls
        name = host if context is not None else None
        _, made = await loop.create_connection(make, host, port, ssl=context, server_hostname=name)
        return made

    def _check_tls(self, connection: ClientConnection) -> None:
        peer, transport = connection.peer, connection.transport
        if transport is None or self.scheme(peer) == "http":
            return
        try:
            tls = transport.get_extra_info("ssl_object")
            if tls is None or tls.selected_alpn_protocol() != "h2":
                raise PeerMisbehaved(f"{peer} does not speak HTTP/2 over TLS", peer=peer)
            if isinstance(self._tls, TlsFiles):
                self._tls.check_server(peer, transport.get_extra_info("peercert"))
        except PeerMisbehaved as error:
            connection.abort(error)
            raise


def split_peer(peer: str) -> tuple[str, int]:
    """``host:port``, ``[v6]:port`` to host and port.

    Raises:
        InvalidRequest: anything else.
    """
    host, _, port = peer.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidRequest(f"{peer!r} is no host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Lane:
    """A place for one connection, and the queue before it. Concurrent callers share one attempt to connect."""

    def __init__(
        self, dialer: Dialer, peer: str, windows: tuple[int, int], streams_max: int, *, waiting_max: int = 0
    ) -> None:
        self.connection: ClientConnection | None = None
        waiters_max = dialer.limits.waiters_max
        self.gate = Gate(f"a stream to {peer}", self._capacity, waiters_max=waiters_max, lent_max=waiting_max)
        self._dialer = dialer
        self._peer = peer
        self._windows = windows
        self._streams_max = streams_max
        self._lock = asyncio.Lock()
        self._attempt = 0
        self._error: ForebayError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it may be forgotten."""
        return self.gate.load == 0 and (self.connection is None or self.connection.closing)

    def _capacity(self) -> int:
        connection = self.connection
        if connection is None or not connection.is_usable:
            return self._streams_max
        return min(self._streams_max, connection.streams_max - self.gate.lent)

    def _changed(self, connection: ClientConnection) -> None:
        self.gate.admit()

    async def connected(self) -> ClientConnection:
        """The lane's connection, made now if there is none.

        Raises:
            PeerUnavailable, PeerMisbehaved: the attempt that this caller began, or joined, failed.
        """
        if self.connection is not None and self.connection.is_usable:
            return self.connection
        joined = self._attempt
        async with self._lock:
            if self.connection is not None and self.connection.is_usable:
                return self.connection
            if self._attempt != joined and self._error is not None:
                raise type(self._error)(self._error.message, **self._error.details)
            self._attempt += 1
            self._error = None
            try:
                self.connection = await self._dialer.dial(self._peer, self._windows, self._changed)
            except CallerError:
                raise
            except ForebayError as error:
                self._error = error
                raise
            return self.connection


class Peer:
    """The lanes to one peer."""

    def __init__(self, dialer: Dialer, peer: str, data_connections: int) -> None:
        limits = dialer.limits
        rpc = (limits.rpc_window_bytes, limits.rpc_connection_window_bytes)
        data = (limits.data_window_bytes, limits.data_connection_window_bytes)
        self.rpc = Lane(dialer, peer, rpc, limits.streams_max)
        waiting_max = limits.data_waiting_max
        self._data = [
            Lane(dialer, peer, data, limits.data_streams_max, waiting_max=waiting_max) for _ in range(data_connections)
        ]

    def data(self) -> Lane:
        """The data lane with the least to do."""
        return self._data[0] if len(self._data) == 1 else min(self._data, key=lambda lane: lane.gate.load)

    @property
    def lanes(self) -> list[Lane]:
        """All of them."""
        return [self.rpc, *self._data]

    @property
    def is_idle(self) -> bool:
        """Whether it may be forgotten."""
        return all(lane.is_idle for lane in self.lanes)
