"""Tools for transport tests: engines joined in memory, and a peer that sends any bytes it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from forebay.transport import frames
from forebay.transport.engine import Engine
from forebay.transport.fields import Field, FieldEncoder, HeadDecoder, Memo, encode_field
from forebay.transport.frames import StreamError
from forebay.transport.heads import ReplyHead, RequestHead, reply_head, request_head
from forebay.transport.limits import Limits
from forebay.transport.roles import ClientEngine, ServerEngine
from forebay.transport.streams import Stream

GET: tuple[Field, ...] = ((":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/"))
POST: tuple[Field, ...] = ((":method", "POST"), *GET[1:])
READ_TIMEOUT_S = 10.0


def block(fields: Sequence[Field]) -> bytes:
    """A header block without dynamic table."""
    return b"".join(encode_field(*field) for field in fields)


def headers(stream_id: int, fields: Sequence[Field] = GET, *, end: bool = True, flags: int = 0) -> bytes:
    """A HEADERS frame with END_HEADERS."""
    flags |= frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, block(fields))


def data(stream_id: int, body: bytes, *, end: bool = False) -> bytes:
    """A DATA frame."""
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, body)


class Recorder:
    """An engine's owner that writes down what it hears. Bodies go to ``targets[stream id]`` if there, else are copied
    and credited at once (``credits=False``: never)."""

    def __init__(self, *, credits: bool = True) -> None:
        self.engine: Engine[Any] | None = None
        self.heard: list[tuple[Any, ...]] = []
        self.bodies: dict[int, bytearray] = {}
        self.targets: dict[int, memoryview] = {}
        self.streams: dict[int, Stream] = {}
        self.credits = credits

    def names(self) -> list[str]:
        """The kinds of events, in order."""
        return [event[0] for event in self.heard]

    def on_head(self, stream: Stream, head: Any, is_end: bool) -> None:
        self.streams[stream.id] = stream
        self.heard.append(("head", stream.id, head, is_end))

    def body_target(self, stream: Stream, count: int) -> memoryview | None:
        target = self.targets.get(stream.id)
        if target is None:
            return None
        start = len(self.bodies.setdefault(stream.id, bytearray()))
        return target[start : start + count]

    def on_body(self, stream: Stream, piece: memoryview | None, count: int) -> None:
        body = self.bodies.setdefault(stream.id, bytearray())
        if piece is None:
            body += self.targets[stream.id][len(body) : len(body) + count]
            return
        body += piece
        if self.credits and self.engine is not None:
            self.engine.consume(stream, count)

    def on_end(self, stream: Stream) -> None:
        self.heard.append(("end", stream.id))

    def on_reset(self, stream: Stream, code: int, is_refused: bool) -> None:
        self.heard.append(("reset", stream.id, code, is_refused))

    def on_fault(self, stream: Stream, error: StreamError) -> None:
        self.heard.append(("fault", stream.id, error.error_code))

    def on_window(self, stream: Stream | None) -> None:
        self.heard.append(("window", stream.id if stream else 0))

    def on_goaway(self, code: int, debug: bytes) -> None:
        self.heard.append(("goaway", code))

    def on_pong(self, payload: bytes) -> None:
        self.heard.append(("pong", payload))

    def on_settings(self) -> None:
        self.heard.append(("settings",))


def server_engine(
    limits: Limits | None = None, *, credits: bool = True, window: int = frames.WINDOW_DEFAULT
) -> tuple[ServerEngine[RequestHead], Recorder]:
    """A server's engine with its SETTINGS in the outbox, and its owner."""
    limits, owner = limits or Limits(), Recorder(credits=credits)
    decoder = HeadDecoder(request_head, Memo(), limits.header_list_bytes_max)
    engine = ServerEngine(
        owner, decoder, FieldEncoder(), limits, stream_window=window, connection_window=max(window, 1 << 17)
    )
    owner.engine = engine
    engine.start()
    return engine, owner


def client_engine(
    limits: Limits | None = None, *, credits: bool = True, window: int = frames.WINDOW_DEFAULT
) -> tuple[ClientEngine, Recorder]:
    """A client's engine with preface and SETTINGS in the outbox, and its owner."""
    limits, owner = limits or Limits(), Recorder(credits=credits)
    decoder: HeadDecoder[ReplyHead] = HeadDecoder(reply_head, Memo(), limits.header_list_bytes_max)
    engine = ClientEngine(
        owner, decoder, FieldEncoder(), limits, stream_window=window, connection_window=max(window, 1 << 17)
    )
    owner.engine = engine
    engine.start()
    return engine, owner


def sent(engine: Engine[Any]) -> bytes:
    """Takes what the engine wants to send."""
    out = b"".join(bytes(piece) for piece in engine.outbox)
    engine.outbox.clear()
    return out


@dataclass(frozen=True)
class Frame:
    """A frame as it was read."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[:4] if self.kind == frames.RST_STREAM else self.payload[4:8], "big")


def split_frames(raw: bytes) -> tuple[list[Frame], bytes]:
    """Whole frames and what is left."""
    found, position = [], 0
    while len(raw) - position >= 9:
        high, low, kind, flags, stream_id = frames.unpack_header(raw, position)
        end = position + 9 + (high << 8 | low)
        if end > len(raw):
            break
        found.append(Frame(kind, flags, stream_id, raw[position + 9 : end]))
        position = end
    return found, raw[position:]


def join(client: ClientEngine, server: ServerEngine[RequestHead], *, split: Callable[[bytes], list[bytes]]) -> None:
    """Carries bytes both ways until both are silent; ``split`` cuts each flight into reads."""
    skip = len(frames.PREFACE)
    while client.outbox or server.outbox:
        flight = sent(client)
        if flight.startswith(frames.PREFACE):
            flight = flight[skip:]
        for part in split(flight):
            server.feed(part)
        for part in split(sent(server)):
            client.feed(part)


def whole(flight: bytes) -> list[bytes]:
    """For `join`: no cuts."""
    return [flight]


class RawPeer:
    """A client socket without manners. ``async with await RawPeer.connect(address)``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self.frames: list[Frame] = []

    @classmethod
    async def connect(cls, address: str, *, greet: bool = True) -> RawPeer:
        """Connects; greets with preface and empty SETTINGS unless told not to."""
        host, _, port = address.rpartition(":")
        peer = cls(*await asyncio.open_connection(host, int(port)))
        if greet:
            await peer.send(frames.PREFACE, frames.settings(()))
        return peer

    async def __aenter__(self) -> RawPeer:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.transport.abort()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._writer.is_closing()

    async def send(self, *parts: bytes) -> None:
        """Sends bytes; a connection that the server has closed is no error."""
        if self.is_closed:
            return
        try:
            self._writer.write(b"".join(parts))
            await self._writer.drain()
        except ConnectionError:
            pass

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Reads until a frame is ``wanted``, which may have come already."""
        seen = 0
        async with asyncio.timeout(READ_TIMEOUT_S):
            while True:
                for frame in self.frames[seen:]:
                    if wanted(frame):
                        return frame
                seen = len(self.frames)
                if not await self._read():
                    raise AssertionError(f"the server closed; it sent {self.frames}")

    async def until_closed(self) -> list[Frame]:
        """Reads until the server closes; all frames."""
        async with asyncio.timeout(READ_TIMEOUT_S):
            while await self._read():
                pass
        return self.frames

    async def _read(self) -> bool:
        try:
            chunk = await self._reader.read(1 << 16)
        except ConnectionError:
            return False
        found, self._rest = split_frames(self._rest + chunk)
        self.frames += found
        return bool(chunk)
