"""TLS with ALPN, many streams under load, bulk transfer, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from forebay.errors import ForebayError, PeerMisbehaved, PeerUnavailable
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.transport import BODY, Seen, application, eventually, pair
from forebay.transport import HttpClient, HttpServer

BULK_BYTES = int(os.environ.get("FOREBAY_TEST_BULK_BYTES", "268435456"))
"""Moved in ranges of 4 MiB by two readers; a GiB by hand, a quarter of it in every run."""

RANGE_BYTES = 4 << 20


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds)


class Certificates:
    """An authority of this test, and contexts of both sides."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.mine = self.authority.issue_cert("127.0.0.1", "localhost")

    def server(self, *, asks_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.mine.configure_cert(context)
        if asks_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, *, shows_cert: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if shows_cert:
            self.mine.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[HttpServer]:
    server = HttpServer(application(Seen()), quiet(), tls=context)
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.close()


def test_tls_agrees_on_http_2_with_us_and_on_http_1_with_others(certificates: Certificates) -> None:
    async def main() -> None:
        async with tls_server(certificates.server()) as server:
            client = HttpClient(quiet(), tls=certificates.client())
            buffer = bytearray(5_000_000)
            reply = await client.read_into(server.address, "/bytes/5000000", memoryview(buffer), deadline=soon())
            assert reply.length == 5_000_000
            assert buffer == (BODY * 5)[:5_000_000]
            reply2 = await client.fetch(server.address, "POST", "/crc", body=BODY * 3, deadline=soon())
            assert reply2.body.decode() == f"{zlib.crc32(BODY * 3)} {len(BODY) * 3}"
            assert server.connections == 2
            context = certificates.client()
            url = f"https://{server.address}/"
            async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as old:
                assert (old.version, await old.text()) == (aiohttp.HttpVersion11, "hello\n")
            await client.close()

    run(main())


def test_borrowed_memory_is_free_after_the_barrier_over_tls_too(certificates: Certificates) -> None:
    async def main() -> None:
        async with tls_server(certificates.server()) as server:
            client = HttpClient(None, tls=certificates.client())
            buffer = bytearray(8 << 20)
            await client.read_into(server.address, "/reused", memoryview(buffer), deadline=soon())
            assert [buffer[n << 20] for n in range(8)] == list(range(8))
            assert [buffer[(n + 1 << 20) - 1] for n in range(8)] == list(range(8))
            await client.close()

    run(main())


def test_both_sides_may_ask_for_certificates(certificates: Certificates) -> None:
    async def main() -> None:
        async with tls_server(certificates.server(asks_client=True)) as server:
            known = HttpClient(None, tls=certificates.client(shows_cert=True))
            assert (await known.fetch(server.address, "GET", "/", deadline=soon())).status == 200
            unknown = HttpClient(None, tls=certificates.client())
            with pytest.raises(ForebayError):
                await unknown.fetch(server.address, "GET", "/", deadline=soon())
            await known.close()
            await unknown.close()

    run(main())


def test_a_certificate_of_somebody_else_is_refused(certificates: Certificates) -> None:
    async def main() -> None:
        async with tls_server(certificates.server()) as server:
            client = HttpClient(None, tls=ssl.create_default_context())
            with pytest.raises(PeerMisbehaved, match="TLS failed"):
                await client.fetch(server.address, "GET", "/", deadline=soon())
            plain = HttpClient(None)
            with pytest.raises((PeerUnavailable, PeerMisbehaved)):
                await plain.fetch(server.address, "GET", "/", deadline=soon())
            await client.close()
            await plain.close()

    run(main())


def test_a_tls_server_without_http_2_is_named_as_such(certificates: Certificates) -> None:
    async def main() -> None:
        runner = web.AppRunner(application(Seen()))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificates.server())
        await site.start()
        client = HttpClient(None, tls=certificates.client())
        with pytest.raises(PeerMisbehaved, match="does not speak HTTP/2 over TLS"):
            await client.fetch(f"127.0.0.1:{runner.addresses[0][1]}", "GET", "/", deadline=soon())
        await client.close()
        await runner.cleanup()

    run(main())


@pytest.mark.parametrize("is_tls", [False, True])
def test_128_streams_at_once_all_end(is_tls: bool, certificates: Certificates) -> None:
    """A load of this shape once hung in a prototype: hence the watchdog, and the many rounds."""

    async def main() -> None:
        server = HttpServer(application(Seen()), quiet(), tls=certificates.server() if is_tls else None)
        await server.start("127.0.0.1", 0)
        client = HttpClient(quiet(), tls=certificates.client() if is_tls else None)
        rng = random.Random(7)

        async def worker(number: int) -> None:
            for _ in range(20):
                size = rng.choice((0, 1, 5000, 70_000, 200_000))
                if rng.random() < 0.5:
                    reply = await client.fetch(server.address, "GET", f"/bytes/{size}", deadline=soon())
                    assert reply.body == BODY[:size]
                else:
                    reply = await client.fetch(server.address, "POST", "/echo", body=BODY[:size], deadline=soon())
                    assert reply.body == BODY[:size]
                if rng.random() < 0.1:
                    call = asyncio.create_task(client.fetch(server.address, "GET", "/endless", deadline=soon()))
                    await asyncio.sleep(rng.random() / 200)
                    call.cancel()
                    await asyncio.gather(call, return_exceptions=True)

        async with asyncio.timeout(60):
            await asyncio.gather(*(worker(number) for number in range(128)))
        assert server.connections == 1
        await client.close()
        await server.close()

    run(main(), watchdog_s=90)


def test_a_bulk_transfer_is_right_to_the_last_byte() -> None:
    async def main() -> None:
        blob = memoryview(os.urandom(1 << 20) * 64)

        async def ranges(request: web.Request) -> web.StreamResponse:
            piece = blob[request.http_range.start : request.http_range.stop]
            response = web.StreamResponse(status=206, headers={"content-length": str(len(piece))})
            await response.prepare(request)
            await response.write(piece)
            return response

        app = web.Application()
        app.router.add_get("/blob", ranges)
        server, client = HttpServer(app, quiet()), HttpClient(quiet())
        await server.start("127.0.0.1", 0)
        wanted = zlib.crc32(blob)

        async def epoch() -> int:
            crc, buffer = 0, memoryview(bytearray(RANGE_BYTES))
            for start in range(0, len(blob), RANGE_BYTES):
                headers = {"range": f"bytes={start}-{start + RANGE_BYTES - 1}"}
                await client.read_into(server.address, "/blob", buffer, deadline=soon(), headers=headers)
                crc = zlib.crc32(buffer, crc)
            return crc

        rounds = max(1, BULK_BYTES // len(blob) // 2)
        for _ in range(rounds):
            assert set(await asyncio.gather(epoch(), epoch())) == {wanted}
        await client.close()
        await server.close()

    run(main(), watchdog_s=110)


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_after_a_turbulent_life() -> None:
    async def main() -> None:
        async with pair() as p:  # opens what the loop keeps for itself
            await p.client.fetch(p.peer, "GET", "/", deadline=soon())
        before = descriptors()
        async with pair() as p:
            rng = random.Random(3)

            async def turbulent(number: int) -> None:
                path = rng.choice(("/", "/bytes/200000", "/endless", "/half", "/broken", "/hold", "/nowhere"))
                seconds = rng.choice((0.02, 0.05, 1.0))
                try:
                    if rng.random() < 0.5:
                        await p.client.fetch(p.peer, "GET", path, deadline=soon(seconds))
                    else:
                        buffer = memoryview(bytearray(1 << 20))
                        await p.client.read_into(p.peer, path, buffer, deadline=soon(seconds))
                except ForebayError:
                    pass

            for _ in range(5):
                calls = [asyncio.create_task(turbulent(number)) for number in range(40)]
                await asyncio.sleep(rng.random() / 50)
                for call in rng.sample(calls, 10):
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            await eventually(lambda: p.active() == 0)
            for connection in p.server._shared.connections:  # type: ignore[union-attr]  # the server has started
                connection.engine.validate()
                assert not connection.tasks
                assert not connection.engine.streams
                assert connection.engine.receive_window.held == 0
            for peer in p.client._peers.values():
                for lane in peer.lanes:
                    lane.gate.validate()
        assert descriptors() == before

    run(main(), watchdog_s=60)
