"""A TCP proxy that makes a network bad on command: far, slow, cut, truncated, half closed, stalled, corrupting.

It runs on a thread of its own, so that blocking tests, async tests and other processes can all go through it. What
happens to a piece of data is decided by a pure function (``decide``), and when it arrives by another (``Pace``); the
ways only queue, wait and write. Delay does not lower throughput: a way holds as much as is under way in `delay_s`, up
to `QUEUE_BYTES_MAX`.

    with FaultProxy("127.0.0.1:9000") as proxy:
        proxy.address                                              # connect there
        proxy.faults = Faults(delay_s=0.05, bytes_per_s=40e6)      # far away and slow
        proxy.faults = Faults(stalled=True)                        # a black hole, until the next line
        proxy.faults = Faults(cut_after=1_000_000, ending="half")  # each reply ends early, and only that way

What it cannot do: drop single packets, or leave a SYN unanswered (the kernel takes connections before we see them; a
stalled proxy then keeps them silent).
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, cast

import uvloop

QUEUE_BYTES_MAX = 8 << 20
"""What one way holds; with delay it bounds the throughput of a connection, as a TCP window does."""

QUEUE_AHEAD_S = 0.02
"""So much more than the delay is taken from the sender in advance, lest a slow way runs dry."""

START_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 2.0
FLUSH_POLL_S = 0.001

Ending = Literal["reset", "close", "half"]


@dataclass(frozen=True)
class Faults:
    """What is wrong with the network now. Byte counts are per connection, from the server to the client."""

    delay_s: float = 0.0
    """Every byte arrives so much later, in both directions; a new connection first costs a round trip."""
    bytes_per_s: float | None = None
    """Bandwidth of each connection, from the server to the client."""
    shared_bytes_per_s: float | None = None
    """Bandwidth of all connections together, from the server to the client."""
    cut_after: int | None = None
    """The connection ends after so many bytes; 0 cuts at the first byte of the reply."""
    ending: Ending = "reset"
    """How it ends then: ``reset`` (RST), ``close`` (both ways end politely: a truncated reply), ``half`` (only the way
    to the client ends; what the client sends still arrives)."""
    corrupt_at: int | None = None
    """One bit of this byte of the stream is flipped."""
    stalled: bool = False
    """A black hole: connections stay, nothing passes, until this is taken back."""
    refusing: bool = False
    """New connections are reset at once."""


@dataclass(frozen=True)
class Step:
    """What becomes of one piece: pass ``data`` on, then perhaps end the connection in that way."""

    data: bytes
    ending: Ending | None


def decide(faults: Faults, passed: int, piece: bytes) -> Step:
    """The fate of ``piece``, which follows ``passed`` bytes of the same connection."""
    data, ending = piece, None
    if faults.cut_after is not None and passed + len(piece) > faults.cut_after:
        data, ending = piece[: max(0, faults.cut_after - passed)], faults.ending
    at = -1 if faults.corrupt_at is None else faults.corrupt_at - passed
    if 0 <= at < len(data):
        data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
    return Step(data, ending)


class Pace:
    """When the bytes of a sender have left, at a bandwidth: one after the other, with no credit for idle time."""

    def __init__(self) -> None:
        self.busy_until_s = 0.0

    def departure_s(self, now_s: float, count: int, bytes_per_s: float | None) -> float:
        """When the last of ``count`` more bytes leaves."""
        if not bytes_per_s:
            return now_s
        self.busy_until_s = max(now_s, self.busy_until_s) + count / bytes_per_s
        return self.busy_until_s


class _Way:
    """One direction of one connection: what came, when it may arrive, and the loop that delivers it."""

    def __init__(self, proxy: FaultProxy, source: _End, target: _End, *, is_down: bool) -> None:
        self._proxy = proxy
        self._source = source
        self._target = target
        self._is_down = is_down
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._passed = 0
        self._news = asyncio.Event()
        self._pace = Pace()
        self._is_braked = False
        self._has_ended = False
        self._opens_s = time.monotonic() + 2 * proxy.faults.delay_s
        """When a real client could have sent its first byte: a round trip after it began to connect."""
        source.way = self

    def arrived(self, piece: bytes) -> None:
        """Bytes from the source."""
        faults, now_s = self._proxy.faults, time.monotonic()
        at_s = max(now_s, self._opens_s)
        if self._is_down:
            own_s = self._pace.departure_s(now_s, len(piece), faults.bytes_per_s)
            at_s = max(at_s, own_s, self._proxy.shared_pace.departure_s(now_s, len(piece), faults.shared_bytes_per_s))
        self._queue.append((at_s + faults.delay_s, piece))
        self._queued += len(piece)
        self._news.set()
        self._brake()

    def ended(self) -> None:
        """The source sends no more."""
        self._has_ended = True
        self._news.set()

    def _brake(self) -> None:
        """Takes as much from the source as is under way, and a little more."""
        ahead_s = self._queue[-1][0] - time.monotonic() - self._proxy.faults.delay_s if self._queue else 0.0
        is_full = self._queued > QUEUE_BYTES_MAX or ahead_s > QUEUE_AHEAD_S
        if is_full != self._is_braked:
            self._is_braked = is_full
            self._source.let_read(not is_full)

    async def run(self) -> Ending:
        """Delivers until the source has ended, or a fault ends the connection; how it ended."""
        while self._queue or not self._has_ended:
            if not self._queue:
                self._news.clear()
                await self._news.wait()
                continue
            await self._until(self._queue[0][0])
            piece = self._queue.popleft()[1]
            step = decide(self._proxy.faults, self._passed, piece) if self._is_down else Step(piece, None)
            await self._target.write(step.data)
            self._passed += len(step.data)
            self._queued -= len(piece)
            self._brake()
            if step.ending is not None:
                return step.ending
        await self._proxy.while_stalled()
        return "half"

    async def _until(self, at_s: float) -> None:
        while (wait_s := at_s - time.monotonic()) > 0:
            self._brake()
            await asyncio.sleep(min(wait_s, QUEUE_AHEAD_S))
        await self._proxy.while_stalled()

    async def swallow(self) -> None:
        """Takes and drops what still comes."""
        while not self._has_ended:
            self._queue.clear()
            self._queued = 0
            self._brake()
            self._news.clear()
            await self._news.wait()


class _End(asyncio.Protocol):
    """A socket of a connection: the client's (``on_made``) or the server's. ``gone`` is set when it is lost."""

    def __init__(self, on_made: Callable[[_End], None] | None = None) -> None:
        self.transport: asyncio.Transport | None = None
        self.way: _Way | None = None
        self.gone = asyncio.Event()
        self._on_made = on_made
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # Drained means handed to the kernel: a cut loses nothing that was let through.
        self.transport.set_write_buffer_limits(high=0)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        assert self.way is not None
        self.way.arrived(data)

    def eof_received(self) -> bool:
        assert self.way is not None
        self.way.ended()
        return True  # the other direction may still have bytes

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.gone.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def let_read(self, reads: bool) -> None:
        """Takes more from the peer, or no more for now."""
        if self.transport is not None and not self.transport.is_closing():
            if reads:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has taken ``data``, or the connection is gone."""
        if self.transport is not None and not self.transport.is_closing() and data:
            self.transport.write(data)
            await self._writable.wait()

    def end_writing(self) -> None:
        """FIN; the peer may go on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()

    async def flushed(self) -> None:
        """Returns when the peer's kernel has everything, or after `FLUSH_TIMEOUT_S`: a reset drops the rest."""
        end_s = time.monotonic() + FLUSH_TIMEOUT_S
        while self.transport is not None and _unsent(self.transport) and time.monotonic() < end_s:
            await asyncio.sleep(FLUSH_POLL_S)

    def reset(self) -> None:
        """RST."""
        if self.transport is not None and not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def close(self) -> None:
        """FIN, and no more reading."""
        if self.transport is not None:
            self.transport.close()


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not acknowledged."""
    sock = transport.get_extra_info("socket")
    try:
        packed = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\x00" * 4)
    except OSError:
        return 0
    return int(struct.unpack("i", packed)[0])


class FaultProxy:
    """``with FaultProxy("127.0.0.1:9000") as proxy: proxy.address; proxy.faults = Faults(stalled=True)``."""

    def __init__(self, upstream: str, faults: Faults | None = None) -> None:
        self._upstream = upstream
        self._faults = faults or Faults()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._address = ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy")
        self._links: dict[asyncio.Task[None], list[_End]] = {}
        self.shared_pace = Pace()
        self.connections = 0
        """Connections taken so far."""

    @property
    def address(self) -> str:
        """``host:port`` to connect to."""
        return self._address

    @property
    def faults(self) -> Faults:
        """What is wrong now; set it from any thread, running connections obey at their next piece."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._call(self._changed.set)

    def cut(self) -> None:
        """Resets all running connections."""
        self._call(self._cut)

    async def while_stalled(self) -> None:
        """Returns when nothing is stalled (on the proxy's own loop)."""
        while self._faults.stalled:
            self._changed.clear()
            await self._changed.wait()

    def _call(self, what: Callable[[], object]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(what)

    def _cut(self) -> None:
        for task, ends in list(self._links.items()):
            for end in ends:
                end.reset()
            task.cancel()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._changed, self._ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        server = await self._loop.create_server(lambda: _End(self._taken), "127.0.0.1", 0, backlog=1024)
        self._address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._ended.wait()
        server.close()
        while self._links:
            self._cut()
            await asyncio.wait(list(self._links))

    def _taken(self, near: _End) -> None:
        """A client came; the task is owned by ``_links`` until it ends."""
        assert self._loop is not None
        self.connections += 1
        far = _End()
        up, down = _Way(self, near, far, is_down=False), _Way(self, far, near, is_down=True)
        task = self._loop.create_task(self._carry(up, down, near, far))
        self._links[task] = [near, far]
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        for end in self._links.pop(task):
            end.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _carry(self, up: _Way, down: _Way, near: _End, far: _End) -> None:
        if self._faults.refusing or not await self._reach(far):
            near.reset()
            return
        async with asyncio.TaskGroup() as group:
            ways = group.create_task(self._both(up, down, near, far))
            gone = [group.create_task(end.gone.wait()) for end in (near, far)]
            await asyncio.wait([ways, *gone], return_when=asyncio.FIRST_COMPLETED)
            for task in (ways, *gone):
                task.cancel()
        if near.gone.is_set() or far.gone.is_set():
            near.reset()
            far.reset()

    async def _reach(self, far: _End) -> bool:
        """Whether there is somebody behind us."""
        assert self._loop is not None
        await asyncio.sleep(2 * self._faults.delay_s)
        await self.while_stalled()
        host, _, port = self._upstream.rpartition(":")
        try:
            await self._loop.create_connection(lambda: far, host, int(port))
        except OSError:
            return False
        return True

    async def _both(self, up: _Way, down: _Way, near: _End, far: _End) -> None:
        """Both ways until both have ended, or a fault ends the connection."""
        async with asyncio.TaskGroup() as group:
            upward = group.create_task(self._upward(up, far))
            ending = await down.run()
            if ending == "half":
                near.end_writing()
                await down.swallow()
            else:
                await near.flushed()
                upward.cancel()
                if ending == "reset":
                    near.reset()
                    far.reset()

    async def _upward(self, up: _Way, far: _End) -> None:
        await up.run()
        far.end_writing()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise RuntimeError("the fault proxy did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._ended.set)
        self._thread.join()
