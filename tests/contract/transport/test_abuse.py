"""Peers without manners against the real server: each is told by the right code, and others are served on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.http2 import GET, POST, Frame, RawPeer, data, headers
from forebay.testing.transport import Pair, eventually, pair
from forebay.transport import Limits, frames
from forebay.transport.frames import ErrorCode, frame, rst_stream, window_update

HOLD = [*GET[:3], (":path", "/hold")]
HOLD_BODY = [*POST[:3], (":path", "/hold")]
ENDLESS = [*GET[:3], (":path", "/endless")]


async def is_served(p: Pair) -> bool:
    reply = await p.client.fetch(p.peer, "GET", "/", deadline=Deadline.after(5))
    return reply.status == 200


def endless_block(i: int, fields: bytes) -> bytes:
    """Part ``i`` of a header block that never ends."""
    return frame(frames.CONTINUATION if i else frames.HEADERS, 0, 1, fields)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": lambda i: headers(2 * i + 1, HOLD) + rst_stream(2 * i + 1, 8),
    "made to reset": lambda i: headers(2 * i + 1, HOLD) + window_update(2 * i + 1, 0),
    "malformed heads": lambda i: headers(2 * i + 1, [*GET, ("te", "x")]) + frame(1, 5, 2 * i + 1, b"\x82"),
    "SETTINGS": lambda i: frames.settings(()),
    "PING": lambda i: frame(frames.PING, 0, 0, b"x" * 8),
    "PRIORITY": lambda i: frame(frames.PRIORITY, 0, 5, b"12345"),
    "unknown frames": lambda i: frame(0x42, 0, 0),
    "single bytes of window": lambda i: headers(1, HOLD) * (not i) + window_update(1 if i % 2 else 0, 1),
    "empty DATA": lambda i: headers(1, HOLD_BODY, end=False) * (not i) + data(1, b""),
}

ENDLESS_BLOCKS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "CONTINUATION": (lambda i: endless_block(i, b""), 10),
    "CONTINUATION with fields": (lambda i: endless_block(i, b"\x40\x01a\x7f\x80\x02" + b"x" * 383), 10),
    "huge headers": (lambda i: endless_block(i, b"\x40\x01a\x7f\x80\x7c" + b"x" * 15_999), 3),
}
"""Header blocks that never end, and after how many frames it is too much."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection_calmly(name: str) -> None:
    async def main() -> None:
        async with pair() as p, await RawPeer.connect(p.peer) as raw:
            # when
            for start in range(0, 20_000, 500):
                if raw.is_closed:
                    break
                await raw.send(*(FLOODS[name](i) for i in range(start, start + 500)))
            # then
            last = (await raw.until_closed())[-1]
            assert (last.kind, last.code) == (frames.GOAWAY, ErrorCode.ENHANCE_YOUR_CALM)
            assert await is_served(p)
            await eventually(lambda: p.server.connections == 1)

    run(main())


@pytest.mark.parametrize("name", ENDLESS_BLOCKS)
def test_a_header_block_without_an_end_is_cut_off(name: str) -> None:
    async def main() -> None:
        part, count = ENDLESS_BLOCKS[name]
        async with pair() as p, await RawPeer.connect(p.peer) as raw:
            await raw.send(*map(part, range(count)))
            last = (await raw.until_closed())[-1]
            assert (last.kind, last.code) == (frames.GOAWAY, ErrorCode.ENHANCE_YOUR_CALM)
            assert await is_served(p)

    run(main())


def test_bytes_that_are_no_frames_end_the_connection() -> None:
    async def main() -> None:
        async with pair() as p, await RawPeer.connect(p.peer) as raw:
            await raw.send(b"\xff" * 100)
            last = (await raw.until_closed())[-1]
            assert (last.kind, last.code) == (frames.GOAWAY, ErrorCode.FRAME_SIZE_ERROR)
            assert await is_served(p)

    run(main())


def is_data(stream_id: int, seen: Frame) -> bool:
    return seen.kind == frames.DATA and seen.stream_id == stream_id


def test_a_peer_that_asks_for_more_streams_than_agreed_is_refused_those() -> None:
    async def main() -> None:
        async with pair(limits=Limits(streams_max=4)) as p, await RawPeer.connect(p.peer) as raw:
            await raw.send(*(headers(i, HOLD) for i in range(1, 13, 2)))
            refused = await raw.until(lambda f: f.kind == frames.RST_STREAM and f.stream_id == 11)
            assert refused.code == ErrorCode.REFUSED_STREAM
            p.seen.release.set()
            for stream_id in (1, 3, 5, 7):
                await raw.until(partial(is_data, stream_id))

    run(main())


def test_a_peer_that_does_not_read_does_not_fill_our_memory() -> None:
    async def main() -> None:
        limits = Limits(write_stall_timeout_s=0.5)
        async with pair(limits=limits) as p, await RawPeer.connect(p.peer) as raw:
            # given streams with huge windows and a peer that never reads
            window = frames.settings([(frames.INITIAL_WINDOW_SIZE, (1 << 31) - 1)])
            await raw.send(
                window, window_update(0, (1 << 31) - 65_536), *(headers(i, ENDLESS) for i in range(1, 41, 2))
            )
            await p.seen.started.wait()
            await asyncio.sleep(0.3)
            # then what is buffered is bounded by the high-water mark and a frame per stream
            (connection,) = p.server._shared.connections  # type: ignore[union-attr]  # the server has started
            assert connection.transport is not None
            assert connection.transport.get_write_buffer_size() < 4 << 20
            assert await is_served(p)

    run(main())


def test_replies_without_a_body_wait_for_a_peer_that_does_not_read() -> None:
    async def main() -> None:
        async with pair() as p, await RawPeer.connect(p.peer) as raw:
            # given a socket that is full
            window = frames.settings([(frames.INITIAL_WINDOW_SIZE, (1 << 31) - 1)])
            await raw.send(window, window_update(0, (1 << 31) - 65_536), headers(1, ENDLESS))
            await p.seen.started.wait()
            await asyncio.sleep(0.2)
            # when many small requests follow
            for start in range(3, 20_003, 1000):
                await raw.send(*(headers(i) for i in range(start, start + 1000, 2)))
                await asyncio.sleep(0)
            # then they are held back, refused or cut off, never piled up
            for connection in p.server._shared.connections:  # type: ignore[union-attr]  # the server has started
                if connection.transport is not None:
                    assert connection.transport.get_write_buffer_size() < 4 << 20
            assert await is_served(p)

    run(main())


def test_a_stream_whose_peer_opens_no_window_is_given_up() -> None:
    async def main() -> None:
        async with pair(limits=Limits(write_stall_timeout_s=0.5)) as p, await RawPeer.connect(p.peer) as raw:
            # given a peer that reads but grants nothing after the first 64 KiB
            await raw.send(headers(1, ENDLESS))
            # then
            reset = await raw.until(lambda f: f.kind == frames.RST_STREAM)
            assert (reset.stream_id, reset.code) == (1, ErrorCode.CANCEL)
            await eventually(lambda: p.seen.cancelled == 1)

    run(main())


def test_a_peer_that_says_nothing_is_dropped() -> None:
    async def main() -> None:
        async with pair(limits=Limits(handshake_timeout_s=0.2)) as p:
            for greeting in (b"", b"PRI * HT"):
                async with await RawPeer.connect(p.peer, greet=False) as raw:
                    await raw.send(greeting)
                    assert await raw.until_closed() == []

    run(main())


def test_a_peer_that_does_not_answer_keep_alive_is_dropped() -> None:
    async def main() -> None:
        limits = Limits(keepalive_interval_s=0.2, keepalive_timeout_s=0.2)
        async with pair(limits=limits) as p, await RawPeer.connect(p.peer) as raw:
            ping = await raw.until(lambda f: f.kind == frames.PING)
            assert ping.flags == 0
            await raw.until_closed()
            assert p.server.connections == 0

    run(main())


def test_connections_beyond_the_limit_are_dropped() -> None:
    async def main() -> None:
        async with pair(limits=Limits(connections_max=1)) as p, await RawPeer.connect(p.peer) as first:
            await first.send(headers(1))
            await first.until(lambda f: f.kind == frames.DATA)
            async with await RawPeer.connect(p.peer) as second:
                assert await second.until_closed() == []

    run(main())


def test_a_request_body_is_credited_as_the_handler_reads_and_no_faster() -> None:
    async def main() -> None:
        async with pair() as p, await RawPeer.connect(p.peer) as raw:
            # given a handler that does not read its body
            await raw.send(headers(1, [*POST[:3], (":path", "/hold")], end=False))
            await p.seen.started.wait()
            # when the whole window of the stream is sent
            window = p.server.limits.request_window_bytes
            for _ in range(window >> 14):
                await raw.send(data(1, b"x" * (1 << 14)))
            await raw.send(frame(frames.PING, 0, 0, b"x" * 8))
            await raw.until(lambda f: f.kind == frames.PING)
            # then little of it was credited, and one byte more than that is an error
            credited = sum(
                int.from_bytes(f.payload, "big")
                for f in raw.frames
                if f.kind == frames.WINDOW_UPDATE and f.stream_id == 1
            )
            assert credited == 0
            await raw.send(data(1, b"x"))
            reset = await raw.until(lambda f: f.kind == frames.RST_STREAM)
            assert reset.code == ErrorCode.FLOW_CONTROL_ERROR

    run(main())
