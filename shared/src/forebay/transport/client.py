"""The client of every service and of the SDK: JSON RPCs and block reads over pooled HTTP/2 connections."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from forebay.contracts import WIRE_VERSION, ErrorReply, Record, decode_newer, encode
from forebay.contracts.codec import WIRE_HEADER
from forebay.contracts.versions import accepted_text, is_taken
from forebay.errors import (
    WIRE_ERRORS,
    ForebayError,
    InvalidRequest,
    PeerMisbehaved,
    PeerUnavailable,
    UnsupportedWireVersion,
)
from forebay.transport.channel import Call, ConnectionBroken, NotBegun
from forebay.transport.connection import TICK_S
from forebay.transport.fields import Field
from forebay.transport.gate import Gate
from forebay.transport.heads import ReplyHead
from forebay.transport.limits import Limits
from forebay.transport.observe import ClientObserver, Unobserved
from forebay.transport.pool import Dialer, Lane, Peer, Tls
from forebay.transport.versions import decode_body

if TYPE_CHECKING:
    from forebay.runtime import Deadline
    from forebay.telemetry import Telemetry

R = TypeVar("R", bound=Record)

DEADLINE_HEADER = "forebay-deadline-ms"
_WIRE = (WIRE_HEADER, str(WIRE_VERSION))
_JSON = ("content-type", "application/json")
_IDEMPOTENT = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Reply:
    """Any answer: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class DataReply:
    """A successful bulk read: ``length`` bytes of the caller's buffer are filled."""

    status: int
    headers: Mapping[str, str]
    length: int


class HttpClient:
    """Talks to peers named ``host:port`` or ``unix:/path``. One event loop; `close` before the loop ends.

    ``telemetry`` may be ``None`` in benches. With ``tls`` every TCP connection is encrypted; a context gets our ALPN
    name, `TlsFiles` are looked at for each connection.
    """

    def __init__(
        self,
        telemetry: Telemetry | None,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        connect_timeout_s: float = 2.0,
        data_connections: int = 1,
    ) -> None:
        self.limits = limits or Limits()
        self._dialer = Dialer(self.limits, tls, connect_timeout_s)
        self._observer = ClientObserver(telemetry) if telemetry else None
        self._data_connections = data_connections
        self._peers: dict[str, Peer] = {}
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def encrypts(self) -> bool:
        """Whether TCP peers are spoken to by TLS."""
        return self._dialer.scheme("") == "https"

    async def call(
        self,
        peer: str,
        path: str,
        request: Record | None,
        kind: type[R],
        *,
        deadline: Deadline,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> R:
        """A JSON RPC: sends ``request``, returns the reply as a checked ``kind``.

        Raises:
            ForebayError: what the peer answered (the class named by its code), or `PeerUnavailable`, `PeerMisbehaved`,
                `DeadlineExceeded`, `Overloaded`, `UnsupportedWireVersion`.
        """
        body = encode(request) if request is not None else b""
        fields = self._fields(peer, method, path, headers, deadline)
        if body:
            fields.append(_JSON)
        call = await self._exchange(peer, fields, deadline, body=body)
        head = _head_of(call)
        if not 200 <= head.status < 300:
            raise error_of(peer, head.status, call.body)
        try:
            return decode_body(kind, call.body, head.headers.get(WIRE_HEADER))
        except InvalidRequest as error:
            raise PeerMisbehaved(f"{peer} answered no {kind.__name__}: {error.message}", peer=peer) from error

    async def fetch(
        self,
        peer: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline: Deadline,
    ) -> Reply:
        """Any request on the RPC connection; every status is an answer.

        Raises:
            PeerUnavailable, PeerMisbehaved, DeadlineExceeded, Overloaded, UnsupportedWireVersion: no answer.
        """
        fields = self._fields(peer, method, path, headers, deadline)
        call = await self._exchange(peer, fields, deadline, body=body)
        head = _head_of(call)
        return Reply(head.status, head.headers, bytes(call.body))

    async def read_into(
        self,
        peer: str,
        path: str,
        buffer: memoryview,
        *,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        on_sent: Callable[[int, Callable[[], int]], None] | None = None,
    ) -> DataReply:
        """A bulk GET on a data connection; the body lands in ``buffer``, which is not touched after this returns.

        ``on_sent`` hears when its turn has come, how many bulk reads the connection has then, this one included, and
        what tells from then on how many bytes of the body have landed.

        Raises:
            ForebayError: as `call`; `PeerMisbehaved` if the body is longer than ``buffer``.
        """
        fields = self._fields(peer, "GET", path, headers, deadline)
        into = buffer if buffer.format == "B" else buffer.cast("B")
        call = await self._exchange(peer, fields, deadline, into=into, on_sent=on_sent)
        head = _head_of(call)
        if not 200 <= head.status < 300:
            raise error_of(peer, head.status, call.body)
        return DataReply(head.status, head.headers, call.landed)

    async def close(self) -> None:
        """Closes every connection; calls under way fail with `PeerUnavailable`."""
        self._dialer.is_closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        connections = list(self._dialer.connections)
        for connection in connections:
            connection.engine.goaway()
            connection.close()
        deadline_s = asyncio.get_running_loop().time() + 1.0
        while any(c.transport for c in connections) and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.sleep(0.001)
        for connection in connections:
            connection.abort(PeerUnavailable("the client is closed"))
        self._peers.clear()
        await asyncio.sleep(0)

    # -- one request

    def _fields(
        self, peer: str, method: str, path: str, headers: Mapping[str, str] | None, deadline: Deadline
    ) -> list[Field]:
        authority = "localhost" if peer.startswith("unix:") else peer
        fields: list[Field] = [
            (":method", method),
            (":scheme", self._dialer.scheme(peer)),
            (":authority", authority),
            (":path", path),
            _WIRE,
            (DEADLINE_HEADER, deadline_ms(deadline.remaining_s())),
        ]
        if headers:
            fields.extend(headers.items())
        return fields

    async def _exchange(
        self,
        peer: str,
        fields: list[Field],
        deadline: Deadline,
        *,
        body: bytes = b"",
        into: memoryview | None = None,
        on_sent: Callable[[int, Callable[[], int]], None] | None = None,
    ) -> Call:
        """One request under observation, in its lane, by its deadline."""
        pool = self._peer(peer)
        lane = pool.rpc if into is None else pool.data()
        with self._observer.request(fields) if self._observer else Unobserved() as scope:
            fields.extend(scope.headers())
            if not lane.gate.try_enter():
                async with deadline.timeout():
                    await lane.gate.enter()
            place = _Place(lane.gate, self.limits.data_patience_s if into is not None else None)
            try:
                if on_sent is not None:
                    on_sent(lane.gate.inside + lane.gate.lent, place.landed)
                call = await self._attempt(peer, lane, fields, deadline, body=body, into=into, place=place)
            finally:
                place.leave()
            head = _head_of(call)
            scope.status = head.status
            if not is_taken(theirs := head.headers.get(WIRE_HEADER)):
                raise _other_wire(peer, theirs or "")
            return call

    async def _attempt(
        self,
        peer: str,
        lane: Lane,
        fields: list[Field],
        deadline: Deadline,
        *,
        body: bytes,
        into: memoryview | None,
        place: _Place,
    ) -> Call:
        """Sends, and sends again on a new connection when that is safe: the peer refused before it began, or an idle
        connection turned out to be dead under a request that changes nothing."""
        method = fields[0][1]
        limit = self.limits.reply_bytes_max if into is None else self.limits.error_reply_bytes_max
        left = self.limits.attempts_max
        while True:
            connection = lane.connection
            if connection is None or not connection.is_usable:
                async with deadline.timeout():
                    connection = await lane.connected()
            loop, was_used = connection.loop, connection.calls > 0
            call = Call(peer, loop.create_future(), into, limit=limit, until_s=loop.time() + deadline.remaining_s())
            left -= 1
            place.call = call
            try:
                await connection.request(fields, body, call, is_bodyless=method == "HEAD")
            except NotBegun:
                if not left:
                    raise
            except ConnectionBroken:
                if not left or not was_used or method not in _IDEMPOTENT:
                    raise
            else:
                return call

    def _peer(self, name: str) -> Peer:
        if self._dialer.is_closed:
            raise PeerUnavailable("the client is closed")
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(self._dialer, name, self._data_connections)
            if self._ticker is None:
                self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return peer

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in list(self._dialer.connections):
            connection.tick(now_s)
        for name in [name for name, peer in self._peers.items() if peer.is_idle]:
            del self._peers[name]
        self._ticker = loop.call_later(TICK_S, self._tick) if self._peers else None


class _Place:
    """A place in a gate. With patience it is lent to the next while the call in it waits for its answer to begin."""

    def __init__(self, gate: Gate, patience_s: float | None) -> None:
        self.call: Call | None = None
        self._gate = gate
        self._is_lent = False
        loop = asyncio.get_running_loop()
        self._timer = None if patience_s is None else loop.call_later(patience_s, self._late)

    def _late(self) -> None:
        if self.call is not None and self.call.head is None:
            self._is_lent = self._gate.lend()

    def landed(self) -> int:
        """Bytes of the body that lie in the caller's memory."""
        return self.call.landed if self.call is not None else 0

    def leave(self) -> None:
        """The call is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._is_lent:
            self._gate.done()
        else:
            self._gate.leave()


def deadline_ms(remaining_s: float) -> str:
    """Milliseconds for the header, rounded up to two digits, so that equal budgets make equal headers."""
    ms = max(1, math.ceil(remaining_s * 1000))
    unit = 1
    while ms // unit >= 100:
        unit *= 10
    return str(-(-ms // unit) * unit)


def error_of(peer: str, status: int, body: bytes | bytearray) -> ForebayError:
    """The error that a reply carries, as an exception with the peer's name among its details."""
    try:
        said, _ = decode_newer(ErrorReply, body)
    except InvalidRequest:
        return PeerMisbehaved(f"{peer} answered {status} without an error body", peer=peer, status=status)
    kind = WIRE_ERRORS.get(said.code)
    if kind is None:
        return PeerMisbehaved(f"{peer} answered the unknown error {said.code!r}: {said.message}", peer=peer)
    error = kind(said.message)
    error.details.update(said.details)
    error.details.setdefault("peer", peer)
    return error


def _head_of(call: Call) -> ReplyHead:
    if call.head is None:
        raise PeerMisbehaved(f"{call.peer} ended the stream without a reply", peer=call.peer)
    return call.head


def _other_wire(peer: str, theirs: str) -> UnsupportedWireVersion:
    return UnsupportedWireVersion(
        f"{peer} speaks wire version {theirs[:16]}, we speak {WIRE_VERSION} and work with {accepted_text()}",
        peer=peer,
        theirs=theirs[:16],
        ours=WIRE_VERSION,
    )
