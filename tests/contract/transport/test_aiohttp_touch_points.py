"""What the adapter uses of aiohttp without a promise: each point by name, so that an upgrade says what moved.

The numbers are those in ``forebay/transport/adapter.py``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import zlib
from pathlib import Path

import aiohttp
from aiohttp import web, web_fileresponse
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.http2 import RawPeer, headers
from forebay.testing.transport import BODY, Seen, application, pair
from forebay.transport import HttpClient, HttpServer, frames


def soon() -> Deadline:
    return Deadline.after(10)


def test_the_version_is_the_one_that_was_read() -> None:
    assert aiohttp.__version__.startswith("3.14.")


def test_1_a_server_has_a_handler_and_a_request_factory() -> None:
    async def main() -> None:
        runner = web.AppRunner(application(Seen()))
        await runner.setup()
        server = runner.server
        assert server is not None
        assert inspect.iscoroutinefunction(server.request_handler)
        names = list(inspect.signature(server.request_factory).parameters)
        assert names[:5] == ["message", "payload", "protocol", "writer", "task"]
        assert isinstance(server.requests_count, int)
        await runner.cleanup()

    run(main())


def test_2_a_message_has_ten_fields_in_this_order() -> None:
    headers = CIMultiDictProxy(CIMultiDict({"a": "b"}))
    given = {
        "method": "GET",
        "path": "/",
        "version": HttpVersion(2, 0),
        "headers": headers,
        "raw_headers": ((b"a", b"b"),),
        "should_close": False,
        "compression": None,
        "upgrade": False,
        "chunked": False,
        "url": URL("/"),
    }
    message = RawRequestMessage(*given.values())  # type: ignore[arg-type]  # a dict's values have one type
    assert {name: getattr(message, name) for name in given} == given


def test_2_version_2_sets_no_connection_field() -> None:
    async def main() -> None:
        async with pair() as p:
            reply = await p.client.fetch(p.peer, "GET", "/", deadline=soon())
            assert "connection" not in reply.headers
            (request,) = p.seen.requests
            assert request.version == HttpVersion(2, 0)

    run(main())


def test_3_a_request_reads_these_from_its_protocol() -> None:
    async def main() -> None:
        async with pair() as p:
            await p.client.fetch(p.peer, "GET", "/?q=1", deadline=soon())
            (request,) = p.seen.requests
            assert (request.scheme, request.remote, request.host) == ("http", "127.0.0.1", p.peer)
            assert str(request.url) == f"http://{p.peer}/?q=1"
            assert request.transport is not None
            assert request.get_extra_info("sockname")[1] == int(p.peer.rpartition(":")[2])
            assert not request.body_exists
        source = inspect.getsource(web.BaseRequest)
        used = {"ssl_context", "peername", "sockname", "transport", "max_field_size", "max_headers"}
        found = {name for name in used if f"protocol.{name}" in source}
        assert found == used

    run(main())


def test_4_a_request_is_finished_and_its_task_let_go() -> None:
    async def main() -> None:
        async with pair() as p:
            await p.client.fetch(p.peer, "GET", "/", deadline=soon())
            (request,) = p.seen.requests
            assert request.__dict__["_task"] is None
            assert callable(request._finish)

    run(main())


def test_5_a_stream_reader_asks_its_protocol_for_three_things() -> None:
    class Asked:
        connected = True
        calls: list[str] = []  # noqa: RUF012  # one instance, one test

        def pause_reading(self) -> None:
            self.calls.append("pause")

        def resume_reading(self, resume_parser: bool = True) -> None:
            self.calls.append("resume")

    async def main() -> None:
        protocol = Asked()
        reader = StreamReader(protocol, 10, loop=asyncio.get_running_loop())  # type: ignore[arg-type]  # that is the point
        reader.feed_data(b"x" * 21)
        assert protocol.calls == ["pause"]
        assert await reader.readany() == b"x" * 21
        assert protocol.calls == ["pause", "resume"]
        reader.feed_eof()
        reader.set_exception(ConnectionResetError())
        assert EMPTY_PAYLOAD.is_eof()

    run(main())


def test_6_the_writers_methods_are_those_we_have() -> None:
    assert AbstractStreamWriter.__abstractmethods__ == {
        "write",
        "write_eof",
        "drain",
        "enable_compression",
        "enable_chunking",
        "write_headers",
    }


def test_6_a_compressed_response_is_compressed() -> None:
    async def whole(request: web.Request) -> web.Response:
        response = web.Response(body=BODY)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_compression(web.ContentCoding.deflate)
        await response.prepare(request)
        for _ in range(4):
            await response.write(BODY[: 1 << 18])
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/whole", whole)
        app.router.add_get("/pieces", pieces)
        server, client = HttpServer(app, quiet()), HttpClient(None)
        await server.start("127.0.0.1", 0)
        for path, wbits, wanted in (("/whole", 31, BODY), ("/pieces", 15, BODY[: 1 << 18] * 4)):
            reply = await client.fetch(server.address, "GET", path, deadline=soon())
            assert zlib.decompress(reply.body, wbits) == wanted
        await client.close()
        await server.close()

    run(main())


def test_7_a_file_response_stays_inside_its_stream(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)

    async def file(request: web.Request) -> web.FileResponse:
        return web.FileResponse(tmp_path / "file")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/file", file)
        server, client = HttpServer(app, quiet()), HttpClient(None)
        await server.start("127.0.0.1", 0)
        for _ in range(3):
            assert (await client.fetch(server.address, "GET", "/file", deadline=soon())).body == BODY
        await client.close()
        await server.close()

    assert os.environ["AIOHTTP_NOSENDFILE"]
    assert web_fileresponse.NOSENDFILE
    run(main())


def test_a_response_that_is_written_in_pieces_shows_its_head_before_the_first() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"x-early": "yes"})
        await response.prepare(request)
        await released.wait()
        await response.write(b"late")
        return response

    released = asyncio.Event()

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", slow)
        server = HttpServer(app, quiet())
        await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession(f"http://{server.address}") as session, session.get("/") as reply:
            assert reply.headers["x-early"] == "yes"
            released.set()
            assert await reply.read() == b"late"
        released.clear()
        async with await RawPeer.connect(server.address) as raw:
            await raw.send(headers(1))
            await raw.until(lambda f: f.kind == frames.HEADERS)
            released.set()
            await raw.until(lambda f: f.kind == frames.DATA)
        await server.close()

    run(main())


def test_a_web_socket_stays_on_http_1() -> None:
    async def chat(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(await socket.receive_str())
        await socket.close()
        return socket

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", chat)
        server, client = HttpServer(app, quiet()), HttpClient(None)
        await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{server.address}/") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
        assert (await client.fetch(server.address, "GET", "/", deadline=soon())).status == 400
        await client.close()
        await server.close()

    run(main())
