"""The client's end of one connection: calls out, replies in, block bytes straight into the caller's memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from forebay.errors import DeadlineExceeded, ForebayError, PeerMisbehaved, PeerUnavailable
from forebay.transport.connection import Connection
from forebay.transport.fields import Field, FieldEncoder, HeadDecoder, Memo
from forebay.transport.frames import ErrorCode, ProtocolError, StreamError, code_name
from forebay.transport.heads import ReplyHead, reply_head
from forebay.transport.limits import Limits
from forebay.transport.roles import ClientEngine
from forebay.transport.streams import Phase, Stream
from forebay.transport.turns import BULK_BYTES, Arrivals

STREAMS_BEFORE_SETTINGS = 100
"""Streams opened before the peer has said how many it takes (RFC 9113, section 6.5.2 recommends no less)."""


class NotBegun(PeerUnavailable):
    """The peer says that it did not begin to work on the request: safe to send again, elsewhere or anew."""


class ConnectionBroken(PeerUnavailable):
    """The connection went before the reply was complete; what was asked may have happened."""


class Call:
    """A request that waits for its reply. A successful body lands in ``into`` if given, else in ``body``."""

    __slots__ = ("body", "future", "head", "into", "landed", "limit", "peer", "until_s")

    def __init__(
        self, peer: str, future: asyncio.Future[None], into: memoryview | None, *, limit: int, until_s: float
    ) -> None:
        self.peer = peer
        self.future = future
        self.into = into
        self.limit = limit
        self.until_s = until_s
        self.landed = 0
        self.head: ReplyHead | None = None
        self.body: bytes | bytearray = b""

    def fail(self, error: Exception) -> None:
        """Ends the call with ``error``, unless it has ended."""
        self.into = None
        if not self.future.done():
            self.future.set_exception(error)

    def finish(self) -> None:
        """The reply is complete."""
        self.into = None
        if not self.future.done():
            self.future.set_result(None)

    @property
    def lands(self) -> bool:
        """Whether the body goes into the caller's memory."""
        return self.into is not None and self.head is not None and 200 <= self.head.status < 300

    def take(self, piece: memoryview) -> None:
        """Keeps a piece of the body.

        Raises:
            PeerMisbehaved: longer than ``limit``.
        """
        if len(self.body) + len(piece) > self.limit:
            raise PeerMisbehaved(f"{self.peer} sent a reply of more than {self.limit} bytes", limit=self.limit)
        if not self.body:
            self.body = bytes(piece)
        else:
            if isinstance(self.body, bytes):
                self.body = bytearray(self.body)
            self.body += piece


class ClientConnection(Connection[ClientEngine]):
    """One connection to ``peer``. It is usable until the peer says GOAWAY, the ids run out, or it is lost."""

    def __init__(
        self,
        peer: str,
        limits: Limits,
        *,
        encoder: FieldEncoder,
        memo: Memo[ReplyHead],
        windows: tuple[int, int],
        arrivals: Arrivals,
        on_change: Callable[[ClientConnection], None],
    ) -> None:
        super().__init__(limits, idle_timeout_s=limits.client_idle_timeout_s)
        self.peer = peer
        self.engine = ClientEngine(
            self,
            HeadDecoder(reply_head, memo, limits.header_list_bytes_max),
            encoder,
            limits,
            stream_window=windows[0],
            connection_window=windows[1],
        )
        self.engine.start()
        self.has_settings = False
        self.calls = 0
        self._arrivals = arrivals
        self._on_change = on_change
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = math.inf

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes are there; of bulk only so much in one turn of the loop."""
        super().buffer_updated(nbytes)
        if nbytes < BULK_BYTES or self._arrivals.came(nbytes):
            return
        if (transport := self.transport) is not None and not transport.is_closing():
            transport.pause_reading()
            self._arrivals.stopped(self)

    def resume_reading(self) -> None:
        """It is this connection's turn again."""
        if (transport := self.transport) is not None and not transport.is_closing():
            transport.resume_reading()

    @property
    def is_usable(self) -> bool:
        """Whether a new call may go out."""
        return not self.closing and self.engine.is_open

    @property
    def is_busy(self) -> bool:
        return bool(self.engine.streams)

    @property
    def streams_max(self) -> int:
        """How many calls the peer takes at once."""
        return min(
            self.engine.peer_streams_max, self.limits.streams_max if self.has_settings else STREAMS_BEFORE_SETTINGS
        )

    async def request(self, fields: Sequence[Field], body: bytes, call: Call, *, is_bodyless: bool) -> None:
        """Sends a request and returns when the reply in ``call`` is complete.

        Cancelled or too late, it resets the stream; from then on the caller's memory is not written to.

        Raises:
            DeadlineExceeded: ``call.until_s`` (loop time) has passed.
            NotBegun: refused; nothing happened.
            ConnectionBroken: the connection was lost.
            PeerUnavailable: the peer reset the stream.
            PeerMisbehaved: what came is no proper reply, or does not fit.
        """
        if not self.is_usable:
            raise NotBegun(f"the connection to {self.peer} went before the request", peer=self.peer)
        self.calls += 1
        stream = self.engine.send_request(fields, call, is_end=not body, is_bodyless=is_bodyless)
        if self._timer is None or call.until_s < self._timer_at_s:
            self._arm(call.until_s)
        try:
            if body:
                await self._send(stream, body)
            elif call.into is None:
                self.flush_soon()
            else:
                self.flush()  # a bulk read waits for nobody
            await call.future
        finally:
            if not stream.is_closed:
                self.engine.reset(stream, ErrorCode.CANCEL)
                self.flush_soon()
            stream.owner = None
            call.into = None
            if self.engine.goaway_received and not self.engine.streams:
                self.close()

    def _arm(self, at_s: float) -> None:
        """One timer for all calls, set to the first deadline: a timer per call would cost more than its frames."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self.loop.call_at(at_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_s, first_s = self.loop.time(), math.inf
        for stream in list(self.engine.streams.values()):
            call: Call | None = stream.owner
            if call is None:
                continue
            if call.until_s > now_s:
                first_s = min(first_s, call.until_s)
                continue
            call.fail(DeadlineExceeded(f"{self.peer} did not answer in time", peer=self.peer))
            self.engine.reset(stream, ErrorCode.CANCEL)
            self.wake(stream)
        self.flush_soon()
        if first_s < math.inf:
            self._arm(first_s)

    async def _send(self, stream: Stream, body: bytes) -> None:
        try:
            await self.send_body(stream, body, is_end=True)
        except ConnectionResetError:
            return  # the reply, or the reason, is in the call's future

    # -- from the engine

    def on_head(self, stream: Stream, head: ReplyHead, is_end: bool) -> None:
        call: Call | None = stream.owner
        if call is None or head.status < 200:
            return
        call.head = head
        if is_end:
            self._finish(stream, call)
        elif call.lands and call.into is not None and (head.content_length or 0) > len(call.into):
            self._too_long(stream, call)

    def body_target(self, stream: Stream, count: int) -> memoryview | None:
        call: Call | None = stream.owner
        if call is None or not call.lands or call.into is None:
            return None
        end = call.landed + count
        if end > len(call.into):
            self._too_long(stream, call)
            return None
        return call.into[call.landed : end]

    def on_body(self, stream: Stream, piece: memoryview | None, count: int) -> None:
        call: Call | None = stream.owner
        if call is None:
            return
        if piece is None:
            call.landed += count
            return
        try:
            call.take(piece)
        except PeerMisbehaved as error:
            self._refuse(stream, call, error)
        else:
            self.engine.consume(stream, count)

    def on_end(self, stream: Stream) -> None:
        if stream.owner is not None:
            self._finish(stream, stream.owner)

    def on_reset(self, stream: Stream, code: int, is_refused: bool) -> None:
        call: Call | None = stream.owner
        if call is None:
            return
        kind = NotBegun if is_refused else PeerUnavailable
        call.fail(kind(f"{self.peer} gave the request up ({code_name(code)})", peer=self.peer, error_code=code))
        self.wake(stream)

    def on_fault(self, stream: Stream, error: StreamError) -> None:
        if stream.owner is not None:
            stream.owner.fail(PeerMisbehaved(f"{self.peer}: {error.message}", peer=self.peer))
        self.wake(stream)

    def on_window(self, stream: Stream | None) -> None:
        self.wake(stream)

    def on_goaway(self, code: int, debug: bytes) -> None:
        self._on_change(self)
        if not self.engine.streams:
            self.close()

    def on_pong(self, payload: bytes) -> None:
        """That something was heard is enough."""

    def on_settings(self) -> None:
        self.has_settings = True
        self._on_change(self)

    def on_lost(self, reason: Exception) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self.engine.streams.values()):
            stream.is_closed = True
            if stream.owner is not None:
                stream.owner.fail(self._loss(reason))
        self.engine.streams.clear()
        self._on_change(self)

    def give_up(self, error: ProtocolError) -> None:
        if self.has_settings:
            self.lost_because = PeerMisbehaved(f"{self.peer}: {error.message}", peer=self.peer)
        else:
            self.lost_because = PeerMisbehaved(f"{self.peer} does not speak HTTP/2", peer=self.peer)
        self.close()

    def _loss(self, reason: Exception) -> ForebayError:
        if isinstance(reason, PeerMisbehaved):
            return PeerMisbehaved(reason.message, **reason.details)
        return ConnectionBroken(f"the connection to {self.peer} broke: {reason}", peer=self.peer)

    def _finish(self, stream: Stream, call: Call) -> None:
        call.finish()
        if stream.sent is not Phase.END:  # the reply came before our body was sent: nobody wants the rest
            self.engine.reset(stream, ErrorCode.NO_ERROR)
            self.wake(stream)

    def _too_long(self, stream: Stream, call: Call) -> None:
        room = len(call.into or b"")
        self._refuse(stream, call, PeerMisbehaved(f"{self.peer} sent more than the {room} bytes asked for", limit=room))

    def _refuse(self, stream: Stream, call: Call, error: PeerMisbehaved) -> None:
        call.fail(error)
        self.engine.reset(stream, ErrorCode.CANCEL)
