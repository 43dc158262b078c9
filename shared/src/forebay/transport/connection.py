"""One socket with one engine: what server and client connections have in common.

Reads go straight into the memory that the engine names (`asyncio.BufferedProtocol`). Writes collect in the engine's
outbox; small ones leave together once per turn of the loop (each write is a system call, and on loopback the call wakes
the peer), large ones at once. There is no task per connection: the owner calls `tick` about once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import abstractmethod
from typing import Any, Generic, TypeVar, cast

from forebay.errors import PeerUnavailable
from forebay.transport.engine import Engine
from forebay.transport.frames import ErrorCode, ProtocolError
from forebay.transport.limits import Limits
from forebay.transport.streams import Stream
from forebay.transport.turns import BULK_BYTES, Turns

FLUSH_AT_ONCE_BYTES = 32 << 10
FLUSH_AT_ONCE_FRAMES = 8
"""So many frames do not wait for the end of the turn: the peer shall begin on the first replies of a batch while we
work on the rest (16 RPCs under way: 1.6 times the rate of one write per turn, and of one write per frame)."""

JOIN_BYTES_MAX = 16 << 10
PING_PAYLOAD = b"forebay\x00"
TICK_S = 1.0

E = TypeVar("E", bound=Engine[Any])


def is_same_host(peername: object) -> bool:
    """Whether a peer's address (as asyncio names it) is a Unix socket or a loopback address."""
    if isinstance(peername, (str, bytes)):
        return True
    host = peername[0] if isinstance(peername, tuple) and peername else None
    return isinstance(host, str) and (host.startswith(("127.", "::ffff:127.")) or host == "::1")


def _write(transport: asyncio.Transport, outbox: list[bytes | memoryview]) -> None:
    if len(outbox) == 1:
        transport.write(outbox[0])
    elif sum(map(len, outbox)) <= JOIN_BYTES_MAX:
        transport.write(b"".join(outbox))
    else:
        transport.writelines(outbox)


class Connection(asyncio.BufferedProtocol, Generic[E]):
    """Socket, engine, write back-pressure, waiting for windows, keep-alive and idle time-out.

    Invariants: (1) nothing is written after `closing` is set but what the engine had ready; (2) every future in
    ``_waiters`` is resolved when its stream may go on, and when the connection is lost.
    """

    engine: E

    def __init__(self, limits: Limits, *, idle_timeout_s: float, turns: Turns | None = None) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.closing = False
        self.lost_because: Exception | None = None
        self._idle_timeout_s = idle_timeout_s
        self.is_paused = False
        self._waiters: dict[Stream, asyncio.Future[None]] = {}
        self._drained: list[asyncio.Future[None]] = []
        self._flush_scheduled = False
        self._heard = True
        self._heard_at_s = 0.0
        self._busy_at_s = 0.0
        self._ping_at_s: float | None = None
        self._closing_at_s: float | None = None
        self._stalls: dict[Stream, float] = {}
        self._turns = turns

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From the loop, or from the sniffer."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self.limits.write_high_water_bytes)
        if is_same_host(self.transport.get_extra_info("peername")):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.local_send_buffer_bytes)
        now_s = self.loop.time()
        self._heard_at_s = self._busy_at_s = now_s
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket's next bytes go."""
        return self.engine.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        self._heard = True
        try:
            self.engine.received(nbytes)
        except ProtocolError as error:
            self.give_up(error)
        else:
            if self.engine.outbox:
                self.flush_soon()

    def feed(self, data: bytes) -> None:
        """Bytes that the sniffer had read."""
        try:
            self.engine.feed(data)
        except ProtocolError as error:
            self.give_up(error)
        else:
            self.flush()

    def eof_received(self) -> bool:
        """The peer is done sending; so are we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """From the loop, once."""
        self.transport = None
        self.closing = True
        if self.lost_because is None:
            self.lost_because = PeerUnavailable("the connection was closed" if exc is None else f"it broke: {exc}")
        self.on_lost(self.lost_because)
        self.is_paused = False
        self._wake_all()

    def pause_writing(self) -> None:
        """The write buffer is above its high-water mark."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """It is below its low-water mark."""
        self.is_paused = False
        self._wake_drained()

    # -- the role's side

    @abstractmethod
    def on_lost(self, reason: Exception) -> None:
        """The connection is gone; every stream with it."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether there is a reason to keep the connection."""

    # -- writing

    def flush_soon(self) -> None:
        """Writes the outbox at the end of this turn of the loop."""
        if len(self.engine.outbox) >= FLUSH_AT_ONCE_FRAMES:
            self.flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Writes the outbox."""
        outbox = self.engine.outbox
        transport = self.transport
        if not outbox:
            return
        if transport is not None and not transport.is_closing():
            with contextlib.suppress(RuntimeError):  # uvloop's, of a handle that it closed and has not told us of yet
                _write(transport, outbox)
        outbox.clear()

    async def send_body(self, stream: Stream, data: bytes | bytearray | memoryview, *, is_end: bool) -> None:
        """Sends all of ``data`` (one-dimensional, bytes) as the windows, the socket and the loop's turns allow, without
        copying it.

        Raises:
            ConnectionResetError: the stream was closed meanwhile.
        """
        engine, position, total = self.engine, 0, len(data)
        view = data
        has_turn = False
        while True:
            while self.is_paused and not stream.is_closed:
                await self.writable()
                has_turn = False
            if stream.is_closed:
                raise ConnectionResetError("the stream was closed")
            count = min(total - position, engine.sendable(stream))
            if count <= 0 and total:
                await self._wait_for_window(stream)
                has_turn = False
                continue
            if count >= BULK_BYTES and self._turns is not None:
                if not has_turn and not self._turns.try_take():
                    await self._turns.take()
                    has_turn = True
                    continue
                count, has_turn = min(count, self.limits.bulk_piece_bytes_max), False
            if count < total and view is data:
                view = memoryview(data)
            piece = view if count == total else view[position : position + count]
            position += count
            engine.send_data(stream, piece, is_end=is_end and position == total)
            if count >= FLUSH_AT_ONCE_BYTES:
                self.flush()
            else:
                self.flush_soon()
            if position == total:
                return

    async def writable(self) -> None:
        """Returns when the write buffer has fallen below its low-water mark, or when there is news of a stream: callers
        look again."""
        if self.is_paused and self.transport is not None:
            waiter = self.loop.create_future()
            self._drained.append(waiter)
            await waiter

    async def flushed(self) -> None:
        """Returns when the kernel has taken everything written so far: borrowed memory may change again.

        Raises:
            ConnectionResetError: the connection went first (the memory is free all the same).
        """
        self.flush()
        while (transport := self.transport) is not None and transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)
            try:
                await self.writable()
            finally:
                if self.transport is not None:
                    self.transport.set_write_buffer_limits(high=self.limits.write_high_water_bytes)
        if self.transport is None:
            raise ConnectionResetError("the connection was lost")

    async def _wait_for_window(self, stream: Stream) -> None:
        self.flush()
        waiter = self.loop.create_future()
        self._waiters[stream] = waiter
        try:
            await waiter
        except asyncio.CancelledError:
            self._waiters.pop(stream, None)
            self.wake(None)  # what it was woken for is another's now
            raise
        finally:
            self._waiters.pop(stream, None)
            self._stalls.pop(stream, None)

    def wake(self, stream: Stream | None) -> None:
        """``stream`` may go on sending, or has to see that it is closed; ``None``: the connection's window grew."""
        if stream is None:
            self._wake_sendable()
            return
        if (waiter := self._waiters.get(stream)) is not None and not waiter.done():
            waiter.set_result(None)
        if stream.is_closed:
            self._wake_drained()

    def _wake_sendable(self) -> None:
        """Wakes as many as the connection's window has bytes for: a peer that grants single bytes shall not make us run
        every waiting stream for each of them."""
        left = self.engine.send_window.size
        for stream, waiter in self._waiters.items():
            if left <= 0:
                break
            if not waiter.done() and (count := self.engine.sendable(stream)) > 0:
                waiter.set_result(None)
                left -= count

    def _wake_drained(self) -> None:
        waiters, self._drained = self._drained, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _wake_all(self) -> None:
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_result(None)
        self._wake_drained()

    # -- the end, and time

    def give_up(self, error: ProtocolError) -> None:
        """The peer broke the protocol; GOAWAY is in the outbox."""
        self.lost_because = error
        self.close()

    def close(self) -> None:
        """Writes what is ready and closes; `tick` aborts a close that the peer does not read."""
        if self._closing_at_s is None:
            self._closing_at_s = self.loop.time()
        self.flush()
        self.closing = True
        if self.transport is not None:
            self.transport.close()

    def abort(self, reason: Exception) -> None:
        """Closes without another byte."""
        self.lost_because = self.lost_because or reason
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def tick(self, now_s: float) -> None:
        """About a second has passed: budgets, keep-alive, idle time-out, stalled writers, stuck closes."""
        self.engine.refill()
        if self._heard:
            self._heard, self._heard_at_s, self._ping_at_s = False, now_s, None
        if self.is_busy:
            self._busy_at_s = now_s
        if self._closing_at_s is not None:
            if now_s - self._closing_at_s > self.limits.keepalive_timeout_s:
                self.abort(PeerUnavailable("the peer did not read our last frames"))
        elif self._ping_at_s is not None:
            if now_s - self._ping_at_s > self.limits.keepalive_timeout_s:
                self.abort(PeerUnavailable("the peer did not answer a keep-alive PING"))
        elif now_s - self._busy_at_s > self._idle_timeout_s:
            self.engine.goaway(ErrorCode.NO_ERROR)
            self.close()
        elif now_s - self._heard_at_s > self.limits.keepalive_interval_s:
            self._ping_at_s = now_s
            self.engine.ping(PING_PAYLOAD)
            self.flush()
        if self._waiters:
            self._reset_stalled(now_s)

    def _reset_stalled(self, now_s: float) -> None:
        for stream in list(self._waiters):
            since_s = self._stalls.setdefault(stream, now_s)
            if now_s - since_s > self.limits.write_stall_timeout_s:
                self.engine.reset(stream, ErrorCode.CANCEL)
                self.wake(stream)
        self.flush()
