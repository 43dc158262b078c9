"""What a caller's certificate opens, over real sockets, and certificates that change while connections stand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from forebay.contracts import StatusReply, WithdrawReply
from forebay.errors import ForebayError, PeerMisbehaved, PermissionDenied, Unauthenticated
from forebay.runtime import Deadline
from forebay.runtime.tls import TlsFiles
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.certificates import Authority, replace, write_role_files
from forebay.transport import HttpClient, HttpServer
from forebay.transport.app import ServiceInfo, make_app, record_response, require_admin, require_role

TOKEN = "a-token-of-the-administrators"
DOORS = ("/open", "/workers", "/admin")


def soon() -> Deadline:
    return Deadline.after(20)


def files_of(folder: Path, role: str) -> TlsFiles:
    own = folder / f"{role}.pem"
    return TlsFiles(cert=own, key=own, ca=folder / "ca.pem")


@asynccontextmanager
async def serving(
    tls: TlsFiles | None, *, token: str | None = None, uds: Path | None = None
) -> AsyncIterator[HttpServer]:
    """Three doors: for everybody, for workers, for administrators."""

    def status() -> StatusReply:
        return StatusReply(service="test", member_id="m", version="0", wire_version=1, started_at_s=0.0, ready=True)

    async def everybody(request: web.Request) -> web.Response:
        return record_response(WithdrawReply(was_there=True))

    async def workers(request: web.Request) -> web.Response:
        require_role(request, "worker")
        return await everybody(request)

    async def admin(request: web.Request) -> web.Response:
        require_admin(request)
        return await everybody(request)

    info = ServiceInfo("test", "m", "0", 0.0)
    app = make_app(info, quiet(), status=status, waiting_for=lambda: (), admin_token=token, tls=tls)
    for path, handler in zip(DOORS, (everybody, workers, admin), strict=True):
        app.router.add_post(path, handler)
    server = HttpServer(app, quiet(), tls=tls)
    await server.start("127.0.0.1", 0, uds=uds)
    try:
        yield server
    finally:
        await server.close()


async def opens(client: HttpClient, peer: str, path: str, token: str | None = None) -> bool:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        await client.call(peer, path, None, WithdrawReply, deadline=soon(), headers=headers)
    except PermissionDenied as e:
        return e.details.get("reason") != "role"
    return True


@pytest.mark.parametrize(
    ("role", "opened"),
    [
        ("worker", {"/open", "/workers"}),
        ("master", {"/open", "/admin"}),
        ("admin", {"/open", "/admin"}),
        ("gateway", {"/open"}),
        ("client", {"/open"}),
        ("nobody", {"/open"}),
    ],
)
def test_each_role_opens_its_doors_and_no_other(tmp_path: Path, role: str, opened: set[str]) -> None:
    async def main() -> None:
        write_role_files(tmp_path, Authority())
        async with serving(files_of(tmp_path, "worker")) as server:
            client = HttpClient(None, tls=files_of(tmp_path, role))
            assert {path for path in DOORS if await opens(client, server.address, path)} == opened
            await client.close()

    run(main())


def test_where_a_token_is_configured_the_certificate_alone_opens_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        write_role_files(tmp_path, Authority())
        async with serving(files_of(tmp_path, "master"), token=TOKEN) as server:
            admin, gateway = (HttpClient(None, tls=files_of(tmp_path, role)) for role in ("admin", "gateway"))
            with pytest.raises(Unauthenticated):
                await opens(admin, server.address, "/admin")
            assert await opens(admin, server.address, "/admin", TOKEN)
            assert not await opens(gateway, server.address, "/admin", TOKEN)
            await admin.close()
            await gateway.close()

    run(main())


def test_without_mutual_tls_certificates_decide_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        write_role_files(tmp_path, Authority())
        own = tmp_path / "worker.pem"
        for server_tls in (None, TlsFiles(cert=own, key=own, ca=None)):
            async with serving(server_tls) as server:
                client = HttpClient(None, tls=files_of(tmp_path, "gateway") if server_tls else None)
                assert [await opens(client, server.address, path) for path in DOORS] == [True, True, True]
                await client.close()

    run(main())


def test_the_unix_socket_is_plain_and_asks_for_no_certificate(tmp_path: Path) -> None:
    async def main() -> None:
        write_role_files(tmp_path, Authority())
        path = tmp_path / "socket"
        async with serving(files_of(tmp_path, "worker"), uds=path):
            for tls in (None, files_of(tmp_path, "gateway")):
                client = HttpClient(None, tls=tls)
                assert await opens(client, f"unix:{path}", "/workers")
                await client.close()

    run(main())


def test_who_answers_with_a_gateways_certificate_is_not_believed(tmp_path: Path) -> None:
    async def main() -> None:
        write_role_files(tmp_path, Authority())
        async with serving(files_of(tmp_path, "gateway")) as server:
            client = HttpClient(None, tls=files_of(tmp_path, "client"))
            with pytest.raises(PeerMisbehaved, match="gateway"):
                await opens(client, server.address, "/open")
            await client.close()

    run(main())


def test_new_certificates_are_used_without_a_restart_and_connections_stand(tmp_path: Path) -> None:
    async def main() -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        old, new = Authority("old"), Authority("new")
        write_role_files(tmp_path, old)
        write_role_files(theirs, old)
        async with serving(files_of(tmp_path, "worker")) as server:
            standing, later = (HttpClient(None, tls=files_of(theirs, "worker")) for _ in range(2))
            assert await opens(standing, server.address, "/workers")
            # when the server's side moves to another authority
            write_role_files(tmp_path, new)
            # then what stands goes on, and a new connection is refused in both directions
            assert await opens(standing, server.address, "/workers")
            with pytest.raises(ForebayError):
                await opens(later, server.address, "/workers")
            replace(theirs / "ca.pem", new.pem)
            with pytest.raises(ForebayError):
                await opens(later, server.address, "/workers")
            # until the client's files follow, in the same client
            write_role_files(theirs, new)
            assert await opens(later, server.address, "/workers")
            await standing.close()
            await later.close()

    run(main())
