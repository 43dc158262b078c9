"""Targets for the transport: a peer that sends anything, in pieces of any size, while we talk to it.

``http2_server`` and ``http2_client``: the bytes are a script (`steps`): pieces of wire in reads of any length, and
things that our side does in between. What may come out is a `ProtocolError`, with the GOAWAY in the outbox; sums hold
all the time, and nothing that the engine keeps grows beyond its limits. ``hpack``: the bytes are header blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from forebay.testing.http2 import GET, POST, client_engine, data, headers, sent, server_engine, split_frames
from forebay.transport import frames
from forebay.transport.engine import Engine
from forebay.transport.fields import HeadDecoder, Memo
from forebay.transport.frames import ErrorCode, ProtocolError
from forebay.transport.heads import reply_head, request_head
from forebay.transport.limits import Limits

STEPS_MAX = 200
READ_BYTES_MAX = 223
REFILL, PING, RESET, CONSUME, SEND = range(READ_BYTES_MAX + 1, READ_BYTES_MAX + 6)
LIMITS = Limits(streams_max=8, settings_per_s=8, pings_per_s=8, idle_frames_per_s=16, resets_per_s=8, faults_per_s=8)
HELD_BYTES_MAX = 1 << 20
"""What a peer may make an engine keep (a header block, frames to send) in one conversation, with room."""


def steps(script: bytes) -> Iterator[tuple[int, bytes]]:
    """(deed, wire): a byte for each step; up to `READ_BYTES_MAX` it is the length of a read, else one of our deeds."""
    at = 0
    for _ in range(STEPS_MAX):
        if at >= len(script):
            return
        what, at = script[at], at + 1
        if what <= READ_BYTES_MAX:
            yield 0, script[at : at + what]
            at += what
        else:
            yield what, b""


def reads(*wire: bytes) -> bytes:
    """The script of these reads; for seeds. Long ones are cut."""
    size = READ_BYTES_MAX
    parts = [piece[start : start + size] for piece in wire for start in range(0, len(piece), size)]
    return b"".join(bytes((len(part),)) + part for part in parts)


def converse(engine: Engine[Any], script: bytes) -> None:
    """Runs a script against one end of a connection."""
    broken: ProtocolError | None = None
    try:
        for deed, wire in steps(script):
            if deed:
                _do(engine, deed)
            else:
                engine.feed(wire)
            engine.validate()
            held = sum(map(len, engine.outbox)) + sum(map(len, engine._block or ()))
            assert held <= HELD_BYTES_MAX, f"{held} bytes are kept"
            assert len(engine.streams) <= LIMITS.streams_max
    except ProtocolError as error:
        broken = error
    if broken is not None:
        found, rest = split_frames(sent(engine).removeprefix(frames.PREFACE))
        assert not rest
        assert found[-1].kind == frames.GOAWAY, "a connection error without GOAWAY"
        assert found[-1].code == broken.error_code != ErrorCode.NO_ERROR


def _do(engine: Engine[Any], deed: int) -> None:
    """One of our own deeds, as far as the state allows it."""
    stream = next(iter(engine.streams.values()), None)
    if deed == REFILL:
        engine.refill()
    elif deed == PING:
        engine.ping(b"12345678")
    elif deed == RESET and stream is not None:
        engine.reset(stream)
    elif deed == CONSUME and stream is not None:
        engine.consume(stream, stream.receive_window.held)
    elif deed == SEND:
        sent(engine)


def http2_server(script: bytes) -> None:
    """A client that may do anything."""
    converse(server_engine(LIMITS, credits=False)[0], script)


def http2_client(script: bytes) -> None:
    """A server that may do anything, to a client with requests under way, one of them into memory of its own."""
    engine, owner = client_engine(LIMITS, credits=False)
    owner.targets = {1: memoryview(bytearray(1 << 16))}
    for fields in (GET, POST, GET):
        engine.send_request(fields, None, is_end=fields is GET, is_bodyless=False)
    converse(engine, script)


def hpack(script: bytes) -> None:
    """Header blocks: two decoders that hear the same say the same, whatever they remember of each other's blocks."""
    for parse in (request_head, reply_head):
        memo: Memo[Any] = Memo()
        decoders = [HeadDecoder(parse, memo, LIMITS.header_list_bytes_max) for _ in range(2)]
        for deed, block in steps(script):
            if not deed and len({_decoded(decoder, block) for decoder in decoders}) != 1:
                raise AssertionError("decoders of one table differ")


def _decoded(decoder: HeadDecoder[Any], block: bytes) -> str:
    try:
        return repr(decoder.head(block))
    except ProtocolError as error:
        return f"{type(error).__name__} {error.error_code}"


TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "http2_server": lambda: http2_server,
    "http2_client": lambda: http2_client,
    "hpack": lambda: hpack,
}


def seeds() -> dict[str, list[bytes]]:
    """Conversations as they should be."""
    hello, update = frames.settings([(frames.INITIAL_WINDOW_SIZE, 1 << 20)]), frames.window_update(0, 1 << 20)
    ping = frames.frame(frames.PING, 0, 0, b"12345678")
    upload = (headers(1, POST, end=False), data(1, b"x" * 300), data(1, b"", end=True))
    late = (frames.rst_stream(1, 8), frames.goaway(0, 0), frames.SETTINGS_ACK)
    whole = headers(5, GET)[frames.FRAME_HEADER_BYTES :]
    cut = (frames.frame(frames.HEADERS, 1, 5, whole[:5]), frames.frame(frames.CONTINUATION, 4, 5, whole[5:]))
    ok, more = [(":status", "200"), ("content-length", "300")], [(":status", "103")]
    reply = (headers(1, more, end=False), headers(1, ok, end=False), data(1, b"y" * 300, end=True))
    others = (headers(3, [(":status", "500")]), frames.rst_stream(5, 7), frames.goaway(5, 0, b"bye"))
    blocks = [headers(1, fields)[frames.FRAME_HEADER_BYTES :] for fields in (GET, POST, ok)]
    return {
        "http2_server": [reads(hello, update, ping, *upload), reads(hello, *upload[:1], *late), reads(hello, *cut)],
        "http2_client": [reads(hello, update, *reply), reads(hello, *reply[:2]) + bytes((CONSUME,)) + reads(*others)],
        "hpack": [reads(*blocks), reads(b"\x40\x01a\x01b", b"\xbe", b"\x20", b"\x82\x86\x84\x41\x04test")],
    }
