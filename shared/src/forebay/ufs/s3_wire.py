"""HTTP/1.1 GETs on kept connections, for long bodies: received straight into buffers that are used again and again.

A general HTTP client hands out each piece as a new object: 0.45 CPU-s/GiB against 0.17 here, and new memory has to be
touched first, which is dear on a virtual machine. This one does one thing. Bodies have a length or end with the
connection; one in chunks raises ``Chunked``, and the caller asks somebody else. No redirects, no proxies.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from multidict import CIMultiDict

BUFFER_BYTES = 1 << 20
"""One piece of a body at most, whatever the length of the head before it, so that pieces keep the alignment of the
range. A running reply has two buffers: one that fills, one that its reader has."""

HEAD_BYTES_MAX = 64 << 10
HEAD_BYTES_USUAL = 2 << 10
"""What the first receive call takes at most: the head and little more, unless the body is wanted with it."""

IDLE_S = 30.0
BUFFERS_KEPT_MAX = 128
"""Buffers that wait for their next use."""

_STATUS = re.compile(r"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_UNTIL_THE_END = 1 << 62


class Chunked(Exception):
    """The body comes in chunks of unknown length. Never leaves this package."""


class Malformed(ConnectionError):
    """The peer does not speak HTTP/1.1 as we understand it."""


class CutOff(ConnectionError):
    """The connection ended in the middle. ``is_unanswered``: before the first byte of an answer."""

    def __init__(self, *, is_unanswered: bool = False) -> None:
        super().__init__("the connection ended")
        self.is_unanswered = is_unanswered


@dataclass(frozen=True)
class Head:
    """Status and headers of an answer. ``length``: bytes of its body; ``None``: until the connection ends."""

    status: int
    headers: CIMultiDict[str]
    length: int | None
    is_kept: bool

    @property
    def is_chunked(self) -> bool:
        """Whether the body needs another client."""
        return "transfer-encoding" in self.headers


def parse_head(text: bytes) -> Head:
    """The head of an answer, without the empty line at its end.

    Raises:
        Malformed: it is none, or its length is not clear.
    """
    first, *lines = text.decode("latin-1").split("\r\n")
    found = _STATUS.fullmatch(first)
    if found is None:
        raise Malformed("the answer is not HTTP/1.1")
    pairs: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Malformed("a header line is malformed")
        pairs.append((name, value.strip(" \t")))
    headers = CIMultiDict(pairs)
    lengths = set(headers.getall("content-length", ()))
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        raise Malformed("the length is not clear")
    status = int(found[2])
    length = 0 if status in {204, 304} else int(lengths.pop()) if lengths else None
    is_kept = found[1] == "1" and headers.get("connection", "").lower() != "close"
    return Head(status, headers, length, is_kept)


class _Buffers:
    """Receive buffers: allocated once, touched once."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        return self._free.pop() if self._free else memoryview(bytearray(HEAD_BYTES_MAX + BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        if len(self._free) < BUFFERS_KEPT_MAX:
            self._free.append(buffer)


class _Connection(asyncio.BufferedProtocol):
    """One connection. Between replies it has no buffers, and whatever comes then breaks it.

    Invariants: ``_filling[_start:_end]`` came in and was not taken; reading is paused exactly while ``_end`` is at
    ``_limit``.
    """

    def __init__(self, buffers: _Buffers, silence_s: float) -> None:
        self._buffers = buffers
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._idle = memoryview(bytearray(16))
        self._filling = self._idle
        self._spare: memoryview | None = None
        self._lent: memoryview | None = None
        self._start = self._end = self._wanted = 0
        self._limit = len(self._idle)
        self._came_s = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._has_ended = False
        self.has_answered = False
        self.has_excess = False
        """Whether the last reply had bytes behind its end."""
        self.idle_since_s = 0.0

    # -- for the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._filling[self._end : self._limit]

    def buffer_updated(self, nbytes: int) -> None:
        if self._filling is self._idle:  # nobody asked
            self.abort()
            return
        self._end += nbytes
        self._came_s = self._loop.time()
        self.has_answered = True
        if self._end == self._limit:
            self._pause()
        if self._end - self._start >= self._wanted or self._is_paused:
            self._wake()

    def eof_received(self) -> None:
        self._has_ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._transport = None
        self._wake()

    # -- for the reply

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._has_ended and not self._transport.is_closing()

    def send(self, request: bytes, at_once: int) -> None:
        """Sends a request and gets ready for its answer, of whose body ``at_once`` bytes may come with the head."""
        self._filling, self._spare = self._buffers.take(), self._buffers.take()
        self._start = self._end = 0
        self._limit = HEAD_BYTES_USUAL + min(at_once, BUFFER_BYTES)
        self.has_answered = False
        self._came_s = self._loop.time()
        if self._transport is None:
            raise CutOff(is_unanswered=True)
        self._transport.write(request)

    async def head(self) -> Head:
        """The head of the answer; 1xx are passed over."""
        while True:
            found = self._find_end_of_head()
            if found >= 0:
                head = parse_head(bytes(self._filling[self._start : self._start + found]))
                self._start += found + 4
                self._receive_until(self._start + BUFFER_BYTES)
                if head.status >= 200:
                    return head
                continue
            if self._end - self._start > HEAD_BYTES_MAX:
                raise Malformed("the head does not end")
            if self._has_ended:
                raise CutOff(is_unanswered=not self.has_answered)
            if self._is_paused:
                self._receive_until(self._end + HEAD_BYTES_MAX)
            await self._until(self._end - self._start + 1)

    def _find_end_of_head(self) -> int:
        for limit in (HEAD_BYTES_USUAL, HEAD_BYTES_MAX):  # what is searched is copied
            found = bytes(self._filling[self._start : min(self._end, self._start + limit)]).find(b"\r\n\r\n")
            if found >= 0 or self._end - self._start <= limit:
                return found
        return -1

    async def take(self, length: int) -> memoryview:
        """Up to ``length`` bytes, as many as fit into a buffer; lent until the next call. Empty at the end."""
        if self._lent is not None:
            self._spare, self._lent = self._lent, None
        await self._until(min(length, self._limit - self._start))
        piece = self._filling[self._start : min(self._end, self._start + length)]
        self._start += len(piece)
        if self._start == self._end and not self._has_ended and len(piece) < length:
            self._turn()
        return piece

    async def start_of_body(self, count: int, *, is_chunked: bool) -> bytes:
        """Up to ``count`` bytes; of a body in chunks what is there when it seems to be over, chunk lines included."""
        while True:
            said = bytes(self._filling[self._start : min(self._end, self._start + count)])
            if len(said) >= count or self._has_ended or (is_chunked and said.endswith(b"0\r\n\r\n")):
                self._start += len(said)
                return said
            await self._until(self._end - self._start + 1)

    def _turn(self) -> None:
        """Goes on receiving into the other buffer while the reader has this one."""
        assert self._spare is not None
        self._lent, self._filling, self._spare = self._filling, self._spare, None
        self._start = self._end = 0
        self._receive_until(BUFFER_BYTES)

    def _receive_until(self, limit: int) -> None:
        self._limit = limit
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    async def _until(self, count: int) -> None:
        """Until so many bytes are there, or all that will come.

        Raises:
            TimeoutError: nothing came for too long.
        """
        began_s = self._loop.time()
        while self._end - self._start < count and not self._has_ended and not self._is_paused:
            patience_until_s = max(began_s, self._came_s) + self._silence_s
            if self._loop.time() >= patience_until_s:
                raise TimeoutError("nothing came")
            self._wanted = count
            self._waiter = self._loop.create_future()
            timer = self._loop.call_at(patience_until_s, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        self._is_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def rest(self, *, is_lent: bool) -> None:
        """The reply is over. ``is_lent``: its reader left with the last piece, which is not used again then."""
        held = [self._filling, self._spare, self._lent]
        if is_lent:
            held = [buffer for buffer in held if buffer is self._spare]
        self._filling, self._spare, self._lent = self._idle, None, None
        self.has_excess = self._end > self._start
        self._start = self._end = 0
        self._receive_until(len(self._idle))
        for buffer in held:
            if buffer is not None and buffer is not self._idle:
                self._buffers.give(buffer)

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Reply:
    """An answer whose head is here. The body is read once."""

    def __init__(self, head: Head, connection: _Connection) -> None:
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        self._connection = connection
        self._has_length = head.length is not None and not head.is_chunked
        self._left = head.length if head.length is not None and self._has_length else _UNTIL_THE_END
        self._is_chunked = head.is_chunked
        self._is_kept = head.is_kept and self._has_length
        self.is_lent = False

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow on the connection."""
        return self._is_kept and self._left == 0

    async def pieces(self, limit: int = _UNTIL_THE_END) -> AsyncGenerator[memoryview, None]:
        """The body's first ``limit`` bytes; each piece is lent until the next is asked for.

        Raises:
            CutOff: it ended before its length.
            TimeoutError: nothing came for too long.
        """
        while wanted := min(self._left, limit):
            piece = await self._connection.take(wanted)
            if not piece:
                if self._has_length:
                    raise CutOff
                return
            self._left -= len(piece)
            limit -= len(piece)
            self.is_lent = True
            yield piece
            self.is_lent = False

    async def whole(self, limit: int) -> bytes:
        """The body's first ``limit`` bytes, in one piece. Raises as ``pieces``."""
        parts = []
        while wanted := min(self._left, limit):
            piece = await self._connection.take(wanted)
            if not piece:
                if self._has_length:
                    raise CutOff
                break
            self._left -= len(piece)
            limit -= len(piece)
            parts.append(bytes(piece))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def start_of_body(self, count: int) -> bytes:
        """Up to ``count`` bytes of an error's body, as they are on the wire."""
        said = await self._connection.start_of_body(min(count, self._left), is_chunked=self._is_chunked)
        self._left -= len(said)
        return said


class Wire:
    """GETs at one ``http(s)://host[:port]``."""

    def __init__(
        self, base: str, tls: ssl.SSLContext | None, *, connect_timeout_s: float, silence_timeout_s: float
    ) -> None:
        parts = urlsplit(base)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" else None
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._buffers = _Buffers()
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._closed = False

    @asynccontextmanager
    async def get(self, target: str, headers: Mapping[str, str], *, at_once: int = 0) -> AsyncIterator[Reply]:
        """The answer to a GET of ``target``; ``headers`` hold ``host``. One attempt, save that a kept connection
        which the server has closed is replaced. ``at_once``: how much of the body may be received together with the
        head, for who takes it whole: pieces are not aligned then, and reading does not stop in between.

        Raises:
            OSError: nobody there, cut off, malformed (``ssl.SSLError`` and ``TimeoutError`` are such).
            Chunked: a good answer whose body comes in chunks.
        """
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        connection, head = await self._answered("\r\n".join(lines).encode("latin-1"), at_once)
        reply = Reply(head, connection)
        is_good = False
        try:
            if head.is_chunked and head.status < 300:
                raise Chunked
            yield reply
            is_good = reply.is_reusable
        finally:
            self._release(connection, is_good=is_good, is_lent=reply.is_lent)

    async def _answered(self, request: bytes, at_once: int) -> tuple[_Connection, Head]:
        while True:
            kept = self._kept()
            connection = kept or await self._connect()
            self._busy.add(connection)
            head = None
            try:
                connection.send(request, at_once)
                head = await connection.head()
                return connection, head
            except CutOff as e:
                if kept is None or not e.is_unanswered:
                    raise
            finally:
                if head is None:
                    self._release(connection, is_good=False, is_lent=False)

    def _kept(self) -> _Connection | None:
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and now_s - connection.idle_since_s < IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        if self._closed:
            raise CutOff
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._buffers, self._silence_timeout_s),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except UnicodeError as e:  # a name that no resolver takes
            raise ConnectionError("the host's name cannot be looked up") from e
        return connection

    def _release(self, connection: _Connection, *, is_good: bool, is_lent: bool) -> None:
        self._busy.discard(connection)
        connection.rest(is_lent=is_lent)
        if is_good and connection.is_usable and not connection.has_excess and not self._closed:
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Ends all connections; running replies are cut off."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
