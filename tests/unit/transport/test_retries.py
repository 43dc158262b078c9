"""Which requests the client sends again, and which it must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from forebay.errors import PeerUnavailable
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.http2 import Frame, headers, split_frames
from forebay.transport import HttpClient, Limits, frames
from forebay.transport.frames import ErrorCode, goaway, rst_stream, settings

Script = Callable[[int, int], bytes | None]
"""(connection, request on it; both from 1) to the frames that answer, ``None``: close at once."""

OK = ((":status", "200"),)


class Scripted:
    """A server that answers by a script and counts."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.requests: list[tuple[int, int]] = []
        self.peer = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection, number = self.connections, 0
        writer.write(settings([(frames.MAX_CONCURRENT_STREAMS, 50)]))
        rest = (await reader.readexactly(len(frames.PREFACE)))[:0]
        while chunk := await reader.read(1 << 16):
            found, rest = split_frames(rest + chunk)
            for frame in found:
                if frame.kind != frames.HEADERS:
                    continue
                number += 1
                self.requests.append((connection, number))
                answer = self._script(connection, number)
                if answer is None:
                    writer.close()
                    return
                writer.write(self._on_stream(answer, frame))
        writer.close()

    def _on_stream(self, answer: bytes, request: Frame) -> bytes:
        """The script's frames speak of stream 1; they are moved to the request's stream."""
        moved = b""
        for frame in split_frames(answer)[0]:
            stream_id = request.stream_id if frame.stream_id else 0
            moved += frames.frame(frame.kind, frame.flags, stream_id, frame.payload)
        return moved


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[Scripted, HttpClient]]:
    server = Scripted(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.peer = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = HttpClient(None, limits=Limits(attempts_max=3))
    try:
        yield server, client
    finally:
        await client.close()
        listener.close()
        await asyncio.sleep(0.01)


async def ask(server: Scripted, client: HttpClient, method: str = "POST") -> int:
    body = b"{}" if method == "POST" else b""
    reply = await client.fetch(server.peer, method, "/", body=body, deadline=Deadline.after(5))
    return reply.status


def test_a_refused_request_is_sent_again() -> None:
    async def main() -> None:
        answers = iter([rst_stream(1, ErrorCode.REFUSED_STREAM), headers(1, OK)])
        async with scripted(lambda connection, number: next(answers)) as (server, client):
            assert await ask(server, client) == 200
            assert server.requests == [(1, 1), (1, 2)]

    run(main())


def test_a_request_above_the_last_stream_of_goaway_goes_to_a_new_connection() -> None:
    async def main() -> None:
        def script(connection: int, number: int) -> bytes:
            return goaway(0, 0) if connection == 1 else headers(1, OK)

        async with scripted(script) as (server, client):
            assert await ask(server, client) == 200
            assert server.requests == [(1, 1), (2, 1)]

    run(main())


def test_goaway_lets_earlier_requests_finish_on_the_old_connection() -> None:
    async def main() -> None:
        def script(connection: int, number: int) -> bytes:
            return goaway(0x7FFFFFFF, 0) + headers(1, OK) if number == 1 else headers(1, OK)

        async with scripted(script) as (server, client):
            assert await ask(server, client) == 200
            assert await ask(server, client) == 200
            assert server.requests == [(1, 1), (2, 1)]

    run(main())


def test_refusals_without_end_are_given_up() -> None:
    async def main() -> None:
        async with scripted(lambda c, n: rst_stream(1, ErrorCode.REFUSED_STREAM)) as (server, client):
            with pytest.raises(PeerUnavailable, match="REFUSED_STREAM"):
                await ask(server, client)
            assert len(server.requests) == 3

    run(main())


def test_a_get_on_a_connection_that_died_idle_is_sent_again() -> None:
    async def main() -> None:
        def script(connection: int, number: int) -> bytes | None:
            return headers(1, OK) if (connection, number) != (1, 2) else None

        async with scripted(script) as (server, client):
            assert await ask(server, client, "GET") == 200
            assert await ask(server, client, "GET") == 200
            assert server.requests == [(1, 1), (1, 2), (2, 1)]

    run(main())


def test_a_post_that_may_have_happened_is_not_sent_again() -> None:
    async def main() -> None:
        def script(connection: int, number: int) -> bytes | None:
            return headers(1, OK) if number == 1 else None

        async with scripted(script) as (server, client):
            assert await ask(server, client) == 200
            with pytest.raises(PeerUnavailable):
                await ask(server, client)
            assert server.requests == [(1, 1), (1, 2)]

    run(main())


def test_a_server_that_closes_fresh_connections_is_not_asked_for_ever() -> None:
    async def main() -> None:
        async with scripted(lambda connection, number: None) as (server, client):
            with pytest.raises(PeerUnavailable):
                await ask(server, client, "GET")
            assert server.requests == [(1, 1)]

    run(main())
