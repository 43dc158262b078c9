"""An unmodified ``aiohttp.web.Application`` served over HTTP/2: each stream becomes a ``web.Request`` built here.

This module, and no other, touches what aiohttp 3.14 does not document; ``tests/contract/transport`` names each point
and fails first when one moves:

1. ``web.Server.request_handler`` and ``.request_factory``; the factory's five positional arguments;
2. ``RawRequestMessage`` (ten fields) and ``HttpVersion(2, 0)``, for which no Connection field is set;
3. what ``BaseRequest`` reads from its protocol: ``ssl_context``, ``peername``, ``sockname``, ``transport``,
   ``max_field_size``, ``max_headers``;
4. ``BaseRequest._finish()`` and its ``_task``, cleared to break a cycle;
5. ``StreamReader(protocol, limit, loop=…)``: ``feed_data``, ``feed_eof``, ``set_exception``, and what it asks of its
   protocol: ``connected``, ``pause_reading()``, ``resume_reading(resume_parser=…)``; ``EMPTY_PAYLOAD``;
6. ``AbstractStreamWriter``: ``write_headers`` gets the status line, ``length`` is set by the response, ``output_size``
   is read back, ``send_headers`` may be called or not, ``enable_compression`` must be answered;
7. ``AIOHTTP_NOSENDFILE``, without which a ``FileResponse`` writes raw file bytes into the connection.

Bodies: a ``memoryview`` given to ``response.write`` is sent without a copy and *belongs to the transport* until the
response has ended and the socket has taken it, or until `flushed` returns. Memory that changes must wait for that;
memory that never changes (a sealed block) need not.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web, web_fileresponse
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from forebay.runtime import logs
from forebay.transport.connection import Connection
from forebay.transport.fields import Field, FieldEncoder, HeadDecoder, Memo, RawField
from forebay.transport.frames import ErrorCode, StreamError
from forebay.transport.heads import request_head
from forebay.transport.limits import Limits
from forebay.transport.observe import Scope, ServerObserver, Unobserved
from forebay.transport.outgoing import SMALL_BODY_BYTES
from forebay.transport.roles import ServerEngine
from forebay.transport.streams import Phase, Stream
from forebay.transport.turns import Turns

if TYPE_CHECKING:
    import ssl

HTTP_2 = HttpVersion(2, 0)
_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

os.environ.setdefault("AIOHTTP_NOSENDFILE", "1")
web_fileresponse.NOSENDFILE = True  # type: ignore[misc]  # aiohttp may have read the variable before we came


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request's head as aiohttp wants it; immutable, so equal heads share one."""

    message: RawRequestMessage
    content_length: int | None
    expects_continue: bool


def parse_request(raw: list[RawField]) -> ParsedRequest:
    """Checks a head and shapes it for aiohttp.

    Raises:
        StreamError: malformed.
    """
    head = request_head(raw)
    headers = CIMultiDictProxy(CIMultiDict(head.fields))
    path, _, query = head.path.partition("?")
    url = URL.build(path=path, query_string=query, encoded=True)
    raw_headers = tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in head.fields)
    message = RawRequestMessage(head.method, head.path, HTTP_2, headers, raw_headers, False, None, False, False, url)
    return ParsedRequest(message, head.content_length, headers.get("expect", "").lower() == "100-continue")


class Exchange(AbstractStreamWriter):
    """One request and its reply: to aiohttp it is the response's writer, the body reader's protocol and the request's
    protocol; to the connection it is the stream's owner.

    Invariants: (1) ``length`` is what the declared content length still lacks; (2) request bytes that the reader has
    not asked for are not credited to the peer.
    """

    max_field_size = 8190
    max_headers = 128

    def __init__(self, connection: ServerConnection, stream: Stream, parsed: ParsedRequest) -> None:
        self.connection = connection
        self.stream = stream
        self.message = parsed.message
        self.payload: StreamReader = EMPTY_PAYLOAD
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self.length: int | None = None
        self.buffer_size = 0
        self.output_size = 0
        self._pending: list[Field] | None = None
        self._is_bodyless = parsed.message.method == "HEAD"
        self._compressor: zlib._Compress | None = None
        self._reading_paused = False
        self._uncredited = 0

    def cancel(self) -> None:
        """Cancels the handler. One that has not begun sees at its beginning that the stream is closed: a task that is
        cancelled before its first step would never reach its ``finally``."""
        if self.has_begun and self.task is not None:
            self.task.cancel()

    # -- as the request's protocol

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection's; ``None`` once it is lost."""
        return self.connection.transport

    @property
    def connected(self) -> bool:
        """Whether more of the request may come."""
        return not self.stream.is_closed

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """For the request's scheme."""
        return self.connection.ssl_context

    @property
    def peername(self) -> Any:
        """The client's address."""
        return self.connection.peername

    @property
    def sockname(self) -> Any:
        """Our address."""
        return self.connection.sockname

    # -- as the body reader's protocol

    def arrived(self, piece: bytes) -> None:
        """Request body from the engine."""
        self.payload.feed_data(piece)
        self._uncredited += len(piece)
        if not self._reading_paused:
            self._credit()

    def pause_reading(self) -> None:
        """The reader holds enough: no more credit for the peer."""
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The reader has room again."""
        self._reading_paused = False
        if self._uncredited:
            self._credit()

    def _credit(self) -> None:
        count, self._uncredited = self._uncredited, 0
        self.connection.engine.consume(self.stream, count)
        if self.connection.engine.outbox:
            self.connection.flush_soon()

    # -- as the response's writer

    def enable_chunking(self) -> None:
        """HTTP/2 needs none."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Compresses what is written from now on."""
        wbits = _WBITS[encoding]
        self._compressor = zlib.compressobj(wbits=wbits, strategy=strategy or zlib.Z_DEFAULT_STRATEGY)

    async def drain(self) -> None:
        """Waits while the socket is behind."""
        await self.connection.writable()

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Keeps the head back, so that it leaves with the first body bytes."""
        if self.stream.is_closed:
            raise ConnectionResetError("the stream was closed")
        status = status_line.split(" ", 2)[1]
        self._is_bodyless = self._is_bodyless or status in ("204", "304")
        self._pending = [(":status", status), *headers.items()]

    def send_headers(self) -> None:
        """The head of a response that is written in pieces: it leaves with the first piece, or at the end of this turn
        of the loop if none comes by then."""
        self.connection.loop.call_soon(self._send_waiting_head)

    def _send_waiting_head(self) -> None:
        if self._pending is not None and not self.stream.is_closed:
            self._send_head(is_end=False)
            self.connection.flush_soon()

    def _send_head(self, *, is_end: bool) -> None:
        fields, self._pending = self._pending or [], None
        self.connection.engine.send_head(self.stream, fields, is_end=is_end)
        self.output_size += len(fields)  # not zero any more: another response can no longer be sent

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Sends a piece of body; see the module about memory that is borrowed."""
        if isinstance(chunk, memoryview):
            if chunk.nbytes != len(chunk):
                chunk = chunk.cast("B")
        elif self._compressor is None and len(chunk) > SMALL_BODY_BYTES and isinstance(chunk, bytearray):
            chunk = bytes(chunk)
        if self._compressor is not None:
            chunk = self._compressor.compress(chunk)
        if chunk := self._clip(chunk):
            await self._send(chunk, is_end=False)

    async def write_eof(self, chunk: bytes | bytearray | memoryview = b"") -> None:
        """Sends the last piece and ends the stream."""
        if self.stream.sent is Phase.END:
            return
        if self._compressor is not None:
            chunk = self._compressor.compress(chunk) + self._compressor.flush()
        await self._send(self._clip(chunk), is_end=True)

    def _clip(self, chunk: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        if self._is_bodyless:
            return b""
        if self.length is not None:
            if len(chunk) > self.length:
                chunk = chunk[: self.length]
            self.length -= len(chunk)
        return chunk

    async def _send(self, chunk: bytes | bytearray | memoryview, *, is_end: bool) -> None:
        connection = self.connection
        while connection.is_paused and not self.stream.is_closed:
            await connection.writable()  # even a short reply waits: a peer that does not read must not fill our memory
        if self.stream.is_closed:
            raise ConnectionResetError("the stream was closed")
        if is_end and self.length and not self._is_bodyless:
            self.connection.engine.reset(self.stream, ErrorCode.INTERNAL_ERROR)
            self.connection.flush_soon()
            raise ConnectionResetError(f"the body ended {self.length} bytes before its content-length")
        if self._pending is not None:
            ends_here = is_end and not len(chunk)
            self._send_head(is_end=ends_here)
            if ends_here:
                self.connection.flush_soon()
                return
        self.output_size += len(chunk)
        await self.connection.send_body(self.stream, chunk, is_end=is_end)


class ServerConnection(Connection[ServerEngine[ParsedRequest]]):
    """An HTTP/2 connection of a server. It owns the tasks of its streams; a reset or lost stream cancels its task."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.limits, idle_timeout_s=shared.limits.server_idle_timeout_s, turns=shared.turns)
        limits = shared.limits
        self._shared = shared
        self.engine = ServerEngine(
            self,
            HeadDecoder(parse_request, shared.memo, limits.header_list_bytes_max),
            shared.encoder,
            limits,
            stream_window=limits.request_window_bytes,
            connection_window=limits.request_connection_window_bytes,
        )
        self.engine.start()
        self.tasks: dict[asyncio.Task[None], Exchange] = {}
        self.ssl_context: ssl.SSLContext | None = None
        self.peername: Any = None
        self.sockname: Any = None
        self._is_draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ssl_context = transport.get_extra_info("sslcontext")
        self.peername = transport.get_extra_info("peername")
        self.sockname = transport.get_extra_info("sockname")
        self._shared.connections.add(self)

    @property
    def is_busy(self) -> bool:
        return bool(self.tasks)

    def on_lost(self, reason: Exception) -> None:
        self._shared.connections.discard(self)
        for stream in list(self.engine.streams.values()):
            stream.is_closed = True
            self._abandon(stream)
        self.engine.streams.clear()

    # -- from the engine

    def on_head(self, stream: Stream, head: ParsedRequest, is_end: bool) -> None:
        if len(self.tasks) >= 2 * self.limits.streams_max:  # cancelled handlers that do not end count as well
            raise StreamError(ErrorCode.REFUSED_STREAM, "too many handlers are still ending")
        exchange = Exchange(self, stream, head)
        if not is_end:
            reader = StreamReader(cast(Any, exchange), self.limits.body_read_ahead_bytes, loop=self.loop)
            exchange.payload = reader
            if head.expects_continue:
                self.engine.send_head(stream, [(":status", "100")], is_end=False, is_interim=True)
        stream.owner = exchange
        exchange.task = task = self.loop.create_task(self._serve(exchange))
        self.tasks[task] = exchange

    def body_target(self, stream: Stream, count: int) -> memoryview | None:
        return None

    def on_body(self, stream: Stream, piece: memoryview | None, count: int) -> None:
        if piece is not None:
            stream.owner.arrived(bytes(piece))

    def on_end(self, stream: Stream) -> None:
        stream.owner.payload.feed_eof()

    def on_reset(self, stream: Stream, code: int, is_refused: bool) -> None:
        self._abandon(stream)

    def on_fault(self, stream: Stream, error: StreamError) -> None:
        self._abandon(stream)

    def on_window(self, stream: Stream | None) -> None:
        self.wake(stream)

    def on_goaway(self, code: int, debug: bytes) -> None:
        """The client opens no streams any more; it closes when it has its replies."""

    def on_pong(self, payload: bytes) -> None:
        if self._is_draining:
            self._finish_drain()

    def on_settings(self) -> None:
        """Nothing of ours depends on a client's settings."""

    def _abandon(self, stream: Stream) -> None:
        exchange: Exchange | None = stream.owner
        if exchange is None or exchange.task is None:
            return
        exchange.payload.set_exception(ConnectionResetError("the stream was closed"))
        exchange.cancel()
        self.wake(stream)

    # -- serving

    async def _serve(self, exchange: Exchange) -> None:
        task = exchange.task
        assert task is not None
        try:
            if not exchange.stream.is_closed:
                exchange.has_begun = True
                await self._serve_request(exchange, task)
        finally:
            exchange.stream.owner = None
            del self.tasks[task]
            if self._is_draining and not self.tasks and self.engine.goaway_sent != WARNED:
                self.close()

    async def _serve_request(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        shared, stream = self._shared, exchange.stream
        request = shared.server.request_factory(
            exchange.message, exchange.payload, cast(Any, exchange), exchange, cast(Any, task)
        )
        shared.server.requests_count += 1
        try:
            with shared.scope(request) as scope:
                try:
                    scope.status = await self._respond(request)
                except ConnectionError:  # the client is gone, or will be: nobody is left to tell
                    scope.status = 0 if stream.is_closed else 500
            if stream.sent is Phase.END and not stream.is_closed:
                await self._take_rest(exchange)
        finally:
            request._task = None  # type: ignore[assignment]  # breaks the cycle task -> request -> task
            if not stream.is_closed:
                is_complete = stream.sent is Phase.END
                self.engine.reset(stream, ErrorCode.NO_ERROR if is_complete else ErrorCode.INTERNAL_ERROR)
                self.flush_soon()

    async def _take_rest(self, exchange: Exchange) -> None:
        """Throws away what still comes of a request whose reply is complete. A stream may be reset then (RFC 9113,
        8.1), but curl 7 forgets a reply that came before it had sent everything; within bounds it may finish."""
        left, payload = self.limits.linger_bytes_max, exchange.payload
        try:
            async with asyncio.timeout(self.limits.linger_s):
                while left > 0 and not payload.is_eof() and not exchange.stream.is_closed:
                    left -= len(await payload.readany())
        except (TimeoutError, ConnectionError):
            return

    async def _respond(self, request: web.BaseRequest) -> int:
        """Runs the handler and sends what it returns; the status sent."""
        try:
            response = await self._shared.handler(request)
        except web.HTTPException as answer:
            response = answer
        except ConnectionError:
            raise
        except Exception as error:
            logs.get(__name__).error("handler_failed", error=repr(error), exc_info=True)
            if request.writer.output_size:
                raise ConnectionResetError("the handler failed in mid-reply") from error
            response = web.Response(status=500, text="500 Internal Server Error")
        request._finish()
        if not isinstance(response, web.StreamResponse):
            logs.get(__name__).error("handler_returned_no_response", returned=type(response).__name__)
            response = web.Response(status=500, text="500 Internal Server Error")
        await response.prepare(request)
        await response.write_eof()
        status: int = response.status
        return status

    # -- draining

    def drain(self) -> None:
        """No new streams; running ones finish; then the connection closes. A warning first, and the last id after a
        round trip, so that requests on their way are served (RFC 9113, section 6.8)."""
        if self._is_draining or self.transport is None:
            return
        self._is_draining = True
        self.engine.goaway(is_warning=True)
        self.engine.ping(b"draining")
        self.flush()

    def _finish_drain(self) -> None:
        self.engine.goaway()
        if self.tasks:
            self.flush()
        else:
            self.close()

    def cancel_all(self) -> None:
        """The time to finish is over: streams are reset, handlers cancelled."""
        for exchange in list(self.tasks.values()):
            self.engine.reset(exchange.stream, ErrorCode.CANCEL)
            exchange.cancel()
        self.flush()

    def tick(self, now_s: float) -> None:
        if self._is_draining and self.engine.goaway_sent == WARNED:
            self._finish_drain()
        super().tick(now_s)


WARNED = (1 << 31) - 1


class Shared:
    """What the connections of one server have in common."""

    def __init__(
        self,
        server: web.Server,
        handler: Callable[[Any], Any],
        limits: Limits,
        observer: ServerObserver | None,
    ) -> None:
        self.server = server
        self.handler = handler
        self.limits = limits
        self.turns = Turns(limits.bulk_streams_max)
        self.encoder = FieldEncoder()
        self.memo: Memo[ParsedRequest] = Memo()
        self.connections: set[ServerConnection] = set()
        self.observer = observer

    def scope(self, request: web.BaseRequest) -> Scope:
        """The observation of one request."""
        return self.observer.request(request, "2") if self.observer else Unobserved()


async def flushed(response: web.StreamResponse) -> None:
    """Returns when the socket has taken all that was written to ``response``: its memory may change again.

    Over HTTP/1.1 the same by asking the socket's write buffer. Raises ``ConnectionResetError`` when the client went.
    """
    writer = response._payload_writer
    if isinstance(writer, Exchange):
        await writer.connection.flushed()
    elif writer is not None:
        await _flushed_h1(writer)


async def _flushed_h1(writer: AbstractStreamWriter) -> None:
    while (transport := writer.transport) is not None and transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)
        try:
            await writer.drain()
        finally:
            transport.set_write_buffer_limits()
