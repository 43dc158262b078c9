"""The client of data GETs: what it lends, when it lets a connection go, answers that only the other client reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from forebay.errors import UfsUnavailable
from forebay.testing import run
from forebay.ufs.s3_wire import BUFFER_BYTES, HEAD_BYTES_MAX, CutOff, Malformed, Wire, parse_head
from tests.integration.ufs.scripted import Reply, opened, scripted

BODY = random.Random(3).randbytes(5 * BUFFER_BYTES + 77)
TARGET = "/bucket/x"

Answer = Sequence[bytes]
"""Pieces that are written one after the other, each on its own."""


@asynccontextmanager
async def serving(
    answers: Callable[[int], Answer], *, closes: bool = False
) -> AsyncIterator[tuple[Wire, list[asyncio.StreamWriter]]]:
    """A server that gives the answer for the number of the request, whatever is asked."""
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None] | None] = set()
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        writers.append(writer)
        tasks.add(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                number, asked = asked, asked + 1
                for piece in answers(number):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(f"http://127.0.0.1:{port}", None, connect_timeout_s=2, silence_timeout_s=1)
    try:
        yield wire, writers
    finally:
        wire.close()
        server.close()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


def always(answer: Answer) -> Callable[[int], Answer]:
    return lambda _: answer


def head(length: int | None, extra: str = "", status: int = 206) -> bytes:
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {status} x\r\n{size}{extra}\r\n".encode()


async def body(wire: Wire) -> bytes:
    async with wire.get(TARGET, {"host": "h"}) as reply, aclosing(reply.pieces()) as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


def test_pieces_keep_the_ranges_alignment_whatever_the_head() -> None:
    async def main() -> None:
        for padding in (0, 500, 5_000, HEAD_BYTES_MAX - 200):
            answer = [head(len(BODY), f"x-padding: {'p' * padding}\r\n") + BODY]
            async with serving(always(answer)) as (wire, _):
                async with wire.get(TARGET, {"host": "h"}) as reply, aclosing(reply.pieces()) as pieces:
                    got = [bytes(piece) async for piece in pieces]
                assert [len(piece) for piece in got] == [BUFFER_BYTES] * 5 + [77]
                assert b"".join(got) == BODY

    run(main())


@pytest.mark.parametrize("cut", [1, 17, 40, 1000, 4096])
def test_an_answer_in_pieces_of_any_size_is_put_together(cut: int) -> None:
    whole = b"HTTP/1.1 103 early\r\nlink: x\r\n\r\n" + head(3_000) + BODY[:3_000]
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]

    async def main() -> None:
        async with serving(lambda _: pieces) as (wire, writers):
            for _ in range(2):
                assert await body(wire) == BODY[:3_000]
            assert len(writers) == 1

    run(main())


def test_a_piece_stays_whole_while_its_reader_has_it_and_more_comes() -> None:
    async def main() -> None:
        async with (
            serving(lambda _: [head(len(BODY)) + BODY]) as (wire, _),
            wire.get(TARGET, {"host": "h"}) as reply,
            aclosing(reply.pieces()) as pieces,
        ):
            at = 0
            async for piece in pieces:
                for _ in range(20):  # the next buffer fills meanwhile
                    await asyncio.sleep(0.001)
                assert piece == BODY[at : at + len(piece)]
                at += len(piece)
            assert at == len(BODY)

    run(main())


def test_a_reader_that_leaves_keeps_its_piece_whatever_is_read_next() -> None:
    async def main() -> None:
        other = bytes(len(BODY))
        async with serving(lambda number: [head(len(BODY)) + (other if number else BODY)]) as (wire, _):
            # given a reader that leaves with a piece that a thread may still be writing
            async with wire.get(TARGET, {"host": "h"}) as reply, aclosing(reply.pieces()) as pieces:
                kept = await anext(pieces)
            # when others read
            for _ in range(3):
                assert await body(wire) == other
            # then
            assert kept == BODY[: len(kept)]

    run(main())


def test_buffers_are_used_again() -> None:
    async def main() -> None:
        async with serving(lambda _: [head(len(BODY)) + BODY]) as (wire, _):
            held = set()
            for _ in range(5):
                async with wire.get(TARGET, {"host": "h"}) as reply, aclosing(reply.pieces()) as pieces:
                    async for piece in pieces:
                        held.add(id(piece.obj))
            assert len(held) == 2

    run(main())


def test_a_body_that_ends_before_its_length_is_cut_off() -> None:
    async def main() -> None:
        async with serving(lambda _: [head(1_000), BODY[:999]], closes=True) as (wire, _):
            with pytest.raises(CutOff):
                await body(wire)

    run(main())


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async def main() -> None:
        async with serving(lambda _: [head(None), BODY], closes=True) as (wire, _):
            assert await body(wire) == BODY

    run(main())


def test_silence_is_a_time_out_and_slowness_is_not() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        pieces = [head(30), BODY[:10]]

        async with serving(lambda _: pieces) as (wire, writers):

            async def trickle() -> None:
                for at in (10, 20):
                    await asyncio.sleep(0.6)  # under the time-out each, over it together
                    writers[0].write(BODY[at : at + 10])
                gate.set()

            async with asyncio.TaskGroup() as group:
                group.create_task(trickle())
                assert await body(wire) == BODY[:30]
            assert gate.is_set()
            with pytest.raises(TimeoutError):
                await body(wire)

    run(main())


def test_bytes_behind_an_answers_end_end_the_connection() -> None:
    async def main() -> None:
        async with serving(lambda _: [head(10) + BODY[:10] + b"HTTP/1.1 200 forged"]) as (wire, writers):
            for _ in range(3):
                assert await body(wire) == BODY[:10]
            assert len(writers) == 3

    run(main())


@pytest.mark.parametrize(
    "text",
    [
        b"ICY 200 OK",
        b"HTTP/2 200",
        b"HTTP/1.1 20x",
        b"HTTP/1.1 200 x\r\nno colon",
        b"HTTP/1.1 200 x\r\n folded: 1",
        b"HTTP/1.1 200 x\r\nContent-Length: -1",
        b"HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 x\r\nContent-Length: 99999999999999999999",
    ],
)
def test_a_head_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        parse_head(text)


def test_a_head_without_end_is_refused() -> None:
    async def main() -> None:
        async with serving(lambda _: [b"HTTP/1.1 200 x\r\nx: " + b"y" * 3 * HEAD_BYTES_MAX]) as (wire, _):
            with pytest.raises(Malformed):
                await body(wire)

    run(main())


TAGGED = {"ETag": '"tag"', "Content-Range": "bytes 0-9/10"}


def test_a_body_in_chunks_is_read_by_the_other_client() -> None:
    async def main() -> None:
        chunked = {**TAGGED, "Transfer-Encoding": "chunked"}
        reply = Reply(206, chunked, b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n", length=-1)
        async with scripted(lambda _: reply) as (s3, endpoint), opened(endpoint) as ufs:
            for _ in range(2):
                assert [p async for p in ufs.read("x", 0, 10, fingerprint="tag")] == [b"0123", b"456789"]
            assert len(s3.asked) == 3  # the second read went there at once

    run(main())


def test_an_error_in_chunks_is_read_without_waiting_for_more() -> None:
    async def main() -> None:
        text = b"<Error><Code>SlowDown</Code></Error>"
        body = f"{len(text):x}\r\n".encode() + text + b"\r\n0\r\n\r\n"
        reply = Reply(503, {"Transfer-Encoding": "chunked"}, body, length=-1)
        async with scripted(lambda _: reply) as (s3, endpoint), opened(endpoint) as ufs:
            with pytest.raises(UfsUnavailable) as caught:
                await anext(ufs.read("x", 0, 10, fingerprint="tag"))
            assert caught.value.details["s3_code"] == "SlowDown"
            assert len(s3.asked) == 1

    run(main())
