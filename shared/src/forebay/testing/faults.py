"""A TCP proxy that makes a network bad on command: slow, cut, stalled, refusing, corrupting.

It runs on a thread of its own, so that blocking tests, async tests and other processes can all go through it. What
happens to a piece of data is decided by a pure function (``decide``); the pumps only wait and write.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

PIECE_BYTES = 64 << 10
START_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Faults:
    """What is wrong with the network now. Byte counts are per connection, from the server to the client."""

    delay_s: float = 0.0
    """Each piece is held back this long, in both directions."""
    bytes_per_s: float | None = None
    cut_after: int | None = None
    """After so many bytes the connection is reset; 0 cuts at the first byte of the reply."""
    corrupt_at: int | None = None
    """This byte of the stream is inverted."""
    stalled: bool = False
    """Connections stay, nothing passes, until this is taken back."""
    refusing: bool = False
    """New connections are reset at once."""


@dataclass(frozen=True)
class Step:
    """What becomes of one piece: wait, pass ``data`` on, then perhaps cut."""

    wait_s: float
    data: bytes
    cut: bool


def decide(faults: Faults, passed: int, piece: bytes) -> Step:
    """The fate of ``piece``, which follows ``passed`` bytes of the same connection."""
    data, cut = piece, False
    if faults.cut_after is not None and passed + len(piece) > faults.cut_after:
        data, cut = piece[: max(0, faults.cut_after - passed)], True
    at = -1 if faults.corrupt_at is None else faults.corrupt_at - passed
    if 0 <= at < len(data):
        data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    slow = len(data) / faults.bytes_per_s if faults.bytes_per_s else 0.0
    return Step(faults.delay_s + slow, data, cut)


@dataclass
class _Link:
    """One connection through the proxy: both ends, and the two tasks that move bytes between them."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    pumps: tuple[asyncio.Task[None], ...] = ()

    def cut(self) -> None:
        """Both ends are reset at once."""
        for pump in self.pumps:
            pump.cancel()
        for end in (self.near, self.far):
            if end is not None:
                end.transport.abort()


class FaultProxy:
    """``with FaultProxy("127.0.0.1:9000") as proxy: proxy.address; proxy.faults = Faults(stalled=True)``."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._faults = Faults()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._address = ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy")
        self._links: dict[asyncio.Task[None], _Link] = {}
        self.connections = 0

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

    def _call(self, what: Callable[[], object]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(what)

    def _cut(self) -> None:
        for link in self._links.values():
            link.cut()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._changed, self._ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._ended.wait()
        server.close()
        while self._links:
            self._cut()
            await asyncio.wait(list(self._links))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        link = self._links[task] = _Link(writer)
        with suppress(OSError):  # nobody behind us: the caller is told by the end of the connection
            if not self._faults.refusing:
                await self._join(link, reader, writer)
        link.cut()
        del self._links[task]

    async def _join(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._upstream.rpartition(":")
        far_reader, link.far = await asyncio.open_connection(host, int(port))
        link.pumps = (
            asyncio.ensure_future(self._pump(reader, link.far, down=False)),
            asyncio.ensure_future(self._pump(far_reader, writer, down=True)),
        )
        _, running = await asyncio.wait(link.pumps, return_when=asyncio.FIRST_EXCEPTION)
        if running:
            link.cut()
        await asyncio.gather(*link.pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        passed = 0
        writer.transport.set_write_buffer_limits(high=0)  # drained means handed to the kernel: a cut loses nothing more
        while piece := await reader.read(PIECE_BYTES):
            await self._while_stalled()
            faults = self._faults if down else Faults(delay_s=self._faults.delay_s)
            step = decide(faults, passed, piece)
            if step.wait_s:
                await asyncio.sleep(step.wait_s)
            await self._while_stalled()
            writer.write(step.data)
            await writer.drain()
            passed += len(step.data)
            if step.cut:
                raise ConnectionResetError("cut by the fault proxy")
        await self._while_stalled()
        with suppress(OSError):
            writer.write_eof()

    async def _while_stalled(self) -> None:
        while self._faults.stalled:
            self._changed.clear()
            await self._changed.wait()

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
