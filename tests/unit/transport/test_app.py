"""What every service's application does before its own routes: errors, versions, deadlines, health, administrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web

from forebay.contracts import WIRE_VERSION, LookupRequest, StatusReply, WithdrawReply, WithdrawRequest
from forebay.errors import (
    WIRE_ERRORS,
    ConfigError,
    DeadlineExceeded,
    ForebayError,
    InternalError,
    InvalidRequest,
    NotFound,
    PeerMisbehaved,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    UnsupportedWireVersion,
)
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.transport import eventually
from forebay.transport import HttpClient, HttpServer
from forebay.transport.app import ADMIN_TOKEN, ServiceInfo, make_app, read_record, record_response, require_admin

INFO = ServiceInfo("test", "m1", "0.1", 0.0)


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds)


class Service:
    """An application with one route of each kind."""

    def __init__(self, *, admin_token: str | None = None) -> None:
        self.missing: tuple[str, ...] = ()
        self.cancelled = 0
        self.app = make_app(
            INFO,
            quiet(),
            status=self.status,
            waiting_for=lambda: self.missing,
            body_max_bytes=1000,
            admin_token=admin_token,
        )
        self.app.router.add_post("/withdraw", self.withdraw)
        self.app.router.add_get("/missing", self.not_there)
        self.app.router.add_get("/bug", self.bug)
        self.app.router.add_get("/slow", self.slow)
        self.app.router.add_get("/late", self.late)
        self.app.router.add_get("/moved", self.moved)
        self.app.router.add_post("/admin", self.admin)

    def status(self) -> StatusReply:
        return StatusReply(
            service="test", member_id="m1", version="0.1", wire_version=1, started_at_s=0.0, ready=not self.missing
        )

    async def withdraw(self, request: web.Request) -> web.Response:
        asked = await read_record(request, WithdrawRequest)
        return record_response(WithdrawReply(was_there=asked.member_id == "m1"))

    async def not_there(self, request: web.Request) -> web.Response:
        raise NotFound("no such thing", path="/missing", tries=3)

    async def bug(self, request: web.Request) -> web.Response:
        raise ZeroDivisionError("secret text")

    async def slow(self, request: web.Request) -> web.Response:
        try:
            await asyncio.sleep(60)
        finally:
            self.cancelled += 1
        return web.Response()

    async def late(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        raise NotFound("too late to say so")

    async def moved(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async def admin(self, request: web.Request) -> web.Response:
        require_admin(request)
        return record_response(WithdrawReply(was_there=True))


@asynccontextmanager
async def running(service: Service, *, uds: Path | None = None) -> AsyncIterator[tuple[str, HttpClient]]:
    server, client = HttpServer(service.app, quiet()), HttpClient(quiet())
    await server.start("127.0.0.1", 0, uds=uds)
    try:
        yield server.address, client
    finally:
        await client.close()
        await server.close()


async def failure(client: HttpClient, peer: str, method: str, path: str, **headers: str) -> ForebayError:
    with pytest.raises(ForebayError) as caught:
        await client.call(peer, path, None, WithdrawReply, deadline=soon(), method=method, headers=headers)
    return caught.value


async def stranger(peer: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and error code of a GET by somebody else's client, over HTTP/1.1."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.get(f"http://{peer}{path}", headers=fields) as reply:
        body = await reply.read()
        assert reply.headers["forebay-wire"] == "1"
        return reply.status, orjson.loads(body)["code"] if body.startswith(b"{") else ""


def test_a_record_goes_there_and_another_comes_back() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            asked = WithdrawRequest(member_id="m1")
            assert (await client.call(peer, "/withdraw", asked, WithdrawReply, deadline=soon())).was_there

    run(main())


def test_an_error_arrives_as_the_class_it_was_raised_as() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            error = await failure(client, peer, "GET", "/missing")
            assert type(error) is NotFound
            assert (error.message, error.details) == ("no such thing", {"path": "/missing", "tries": 3, "peer": peer})

    run(main())


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("GET", "/nowhere", NotFound, 404),
        ("PUT", "/withdraw", InvalidRequest, 405),
        ("GET", "/bug", InternalError, 500),
        ("POST", "/withdraw", InvalidRequest, 400),
    ],
)
def test_what_goes_wrong_is_an_error_reply(method: str, path: str, kind: type[ForebayError], status: int) -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            reply = await client.fetch(peer, method, path, deadline=soon())
            said = orjson.loads(reply.body)
            assert reply.status == status
            assert said["code"] == kind.code
            assert len(said["trace_id"]) == 32
            assert "secret" not in said["message"]
            assert type(await failure(client, peer, method, path)) is kind

    run(main())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", InvalidRequest),
        (b"[]", InvalidRequest),
        (b'{"member_id": 7}', InvalidRequest),
        (b'{"member_id": "a", "more": 1}', InvalidRequest),
        (b'{"member_id": "' + b"a" * 2000 + b'"}', TooLarge),
    ],
)
def test_a_body_of_the_wrong_shape_or_size_is_refused(body: bytes, kind: type[ForebayError]) -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            reply = await client.fetch(peer, "POST", "/withdraw", body=body, deadline=soon())
            assert (reply.status, orjson.loads(reply.body)["code"]) == (kind.status, kind.code)

    run(main())


def test_a_redirect_is_not_an_error() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            assert (await client.fetch(peer, "GET", "/moved", deadline=soon())).status == 302

    run(main())


def test_a_wire_version_that_is_not_next_to_ours_is_refused_and_none_is_taken() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, _):
            for far in ("0", str(WIRE_VERSION + 2), f" {WIRE_VERSION + 1}0", "new"):
                assert await stranger(peer, "/healthz", forebay_wire=far) == (400, UnsupportedWireVersion.code)
            for near in (WIRE_VERSION, WIRE_VERSION + 1):
                assert await stranger(peer, "/healthz", forebay_wire=str(near)) == (200, "")
            assert await stranger(peer, "/healthz") == (200, "")

    run(main())


def test_a_reply_of_a_wire_version_that_is_not_next_to_ours_is_refused() -> None:
    async def other(request: web.Request) -> web.Response:
        return web.Response(headers={"forebay-wire": "3"})

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", other)
        server, client = HttpServer(app, None), HttpClient(None)
        await server.start("127.0.0.1", 0)
        with pytest.raises(UnsupportedWireVersion, match="speaks wire version 3, we speak 1 and work with 1 and 2"):
            await client.fetch(server.address, "GET", "/", deadline=soon())
        await client.close()
        await server.close()

    run(main())


def test_a_deadline_in_the_header_ends_the_handler() -> None:
    async def main() -> None:
        service = Service()
        async with running(service) as (peer, _):
            assert await stranger(peer, "/slow", forebay_deadline_ms="50") == (504, DeadlineExceeded.code)
            assert service.cancelled == 1

    run(main())


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "1" * 20])
def test_a_deadline_that_is_no_number_is_refused(text: str) -> None:
    async def main() -> None:
        async with running(Service()) as (peer, _):
            assert await stranger(peer, "/healthz", forebay_deadline_ms=text) == (400, InvalidRequest.code)

    run(main())


def test_an_error_after_the_reply_began_breaks_it_off() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            with pytest.raises(ForebayError) as caught:
                await client.read_into(peer, "/late", memoryview(bytearray(100)), deadline=soon())
            assert caught.value.retryable

    run(main())


def test_an_answer_that_is_not_the_record_asked_for_is_the_peers_fault() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            with pytest.raises(PeerMisbehaved, match="no LookupRequest"):
                await client.call(peer, "/v1/status", None, LookupRequest, deadline=soon(), method="GET")
            with pytest.raises(PeerMisbehaved, match="no WithdrawReply"):
                await client.call(peer, "/healthz", None, WithdrawReply, deadline=soon(), method="GET")

    run(main())


def test_health_is_not_readiness() -> None:
    async def main() -> None:
        service = Service()
        async with running(service) as (peer, client):
            service.missing = ("the registry", "a tier")
            assert (await client.fetch(peer, "GET", "/healthz", deadline=soon())).status == 200
            reply = await client.fetch(peer, "GET", "/readyz", deadline=soon())
            assert (reply.status, reply.body) == (503, b"waiting for the registry\nwaiting for a tier\n")
            service.missing = ()
            assert (await client.fetch(peer, "GET", "/readyz", deadline=soon())).status == 200

    run(main())


def test_status_and_metrics_are_there() -> None:
    async def main() -> None:
        async with running(Service()) as (peer, client):
            status = await client.call(peer, "/v1/status", None, StatusReply, deadline=soon(), method="GET")
            assert status.ready
            reply = await client.fetch(peer, "GET", "/metrics", deadline=soon())
            assert reply.headers["content-type"].startswith("text/plain")

    run(main())


def test_without_a_token_only_this_host_may_change_things(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(Service(), uds=tmp_path / "s") as (peer, client):
            for local in (peer, f"unix:{tmp_path / 's'}"):
                assert (await client.call(local, "/admin", None, WithdrawReply, deadline=soon())).was_there

    run(main())


class FromAfar:
    """A request as `require_admin` sees it, from another host."""

    def __init__(self, sockname: object, peername: object) -> None:
        self.config_dict: dict[object, object] = {}
        self._ends = {"sockname": sockname, "peername": peername}

    def get_extra_info(self, name: str) -> object:
        return self._ends[name]


@pytest.mark.parametrize(
    ("sockname", "peername"),
    [
        (("10.0.0.1", 1), ("10.0.0.2", 2)),
        (("10.0.0.1", 1), ("10.0.0.1", 2)),
        (("127.0.0.1", 1), ("10.0.0.2", 2)),
        (("fe80::1%eth0", 1, 0, 0), ("fe80::2%eth0", 1, 0, 0)),
        (None, None),
    ],
)
def test_without_a_token_another_host_is_refused(sockname: object, peername: object) -> None:
    request = FromAfar(sockname, peername)
    request.config_dict = {ADMIN_TOKEN: None}
    with pytest.raises(PermissionDenied):
        require_admin(request)  # type: ignore[arg-type]  # only what it reads


def test_with_a_token_everybody_needs_it() -> None:
    async def main() -> None:
        async with running(Service(admin_token="geheim")) as (peer, client):
            for text in ("", "geheim", "Basic geheim", "Bearer falsch", "Bearer geheim2", "Bearer ü"):
                assert type(await failure(client, peer, "POST", "/admin", authorization=text)) is Unauthenticated
            headers = {"authorization": "Bearer geheim"}
            assert await client.call(peer, "/admin", None, WithdrawReply, deadline=soon(), headers=headers)

    run(main())


def test_a_setting_error_never_travels() -> None:
    assert ConfigError.code not in WIRE_ERRORS


def test_a_handler_whose_client_went_is_cancelled() -> None:
    async def main() -> None:
        service = Service()
        async with running(service) as (peer, client):
            with pytest.raises(DeadlineExceeded):
                await client.call(peer, "/slow", None, WithdrawReply, deadline=soon(0.05), method="GET")
            await eventually(lambda: service.cancelled == 1)

    run(main())
