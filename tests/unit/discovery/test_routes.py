"""The embedded registry over HTTP: what a careless or hostile caller gets, and the proof of the cluster key."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import orjson
import pytest

from forebay.contracts import AnnounceRequest, Member, StatusReply, encode
from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.discovery import EmbeddedHub, RegistryOptions, add_registry_routes, local_registry, open_registry
from forebay.discovery.doors import PROOF_HEADER, check_proof, proof
from forebay.discovery.routes import WAIT_MAX_S, parse_wait
from forebay.errors import InvalidRequest, PeerMisbehaved, PermissionDenied, Unauthenticated
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.transport import HttpClient, HttpServer, Reply
from forebay.transport.app import ServiceInfo, make_app

KEYS = KeyRing((("k1", b"0123456789abcdef"), ("k0", b"fedcba9876543210")))
OTHER_KEYS = KeyRing((("k1", b"................"),))
WORKER = Member(member_id="w1", role="worker", tcp="h:1")
OPTIONS = RegistryOptions(announce_timeout_s=5.0, retry_min_s=0.02)


class Served:
    """A hub behind HTTP, and a client."""

    def __init__(self, hub: EmbeddedHub, address: str, client: HttpClient) -> None:
        self.hub, self.address, self.client = hub, address, client

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.fetch(self.address, method, path, body=body, headers=named, deadline=Deadline.after(5))


@contextlib.asynccontextmanager
async def served(*, keys: KeyRing | None = None) -> AsyncIterator[Served]:
    hub = EmbeddedHub("c")
    await hub.open()
    status = StatusReply(service="master", member_id="m", version="0", wire_version=1, started_at_s=0.0, ready=True)
    app = make_app(ServiceInfo("master", "m", "0", time.time()), quiet(), status=lambda: status, waiting_for=lambda: ())
    add_registry_routes(app, hub, keys=keys)
    server = HttpServer(app, quiet(), drain_timeout_s=5.0)
    await server.start("127.0.0.1", 0)
    client = HttpClient(quiet())
    try:
        yield Served(hub, server.address, client)
    finally:
        hub.close()
        await client.close()
        await server.close()
        hub.validate()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/members:announce", b"", 400, "invalid_request"),
        ("POST", "/v1/members:announce", b"not json", 400, "invalid_request"),
        ("POST", "/v1/members:announce", b"[]", 400, "invalid_request"),
        ("POST", "/v1/members:announce", b'{"member": {}}', 400, "invalid_request"),
        ("POST", "/v1/members:announce", b"[" * 100_000, 400, "invalid_request"),
        ("POST", "/v1/members:announce", b'{"x": "' + b"x" * (2 << 20) + b'"}', 413, "too_large"),
        ("POST", "/v1/members:withdraw", b'{"member_id": 7}', 400, "invalid_request"),
        ("POST", "/v1/members:withdraw", b'{"member_id": "w", "more": 1}', 400, "invalid_request"),
        ("GET", "/v1/cluster?after=x", b"", 400, "invalid_request"),
        ("GET", "/v1/cluster?after=-1", b"", 400, "invalid_request"),
        ("GET", "/v1/cluster?after=1&wait_s=nan", b"", 400, "invalid_request"),
        ("GET", "/v1/cluster?after=1&wait_s=inf", b"", 400, "invalid_request"),
        ("GET", "/v1/cluster?after=1&wait_s=-1", b"", 400, "invalid_request"),
    ],
)
def test_a_bad_request_is_answered_with_a_code(method: str, path: str, body: bytes, status: int, code: str) -> None:
    async def main() -> None:
        async with served() as s:
            before = s.hub.current()
            reply = await s.send(method, path, body)
            assert reply.status == status, reply.body
            assert orjson.loads(reply.body)["code"] == code
            assert s.hub.current() is before

    run(main())


def test_a_long_poll_answers_unchanged_after_its_time() -> None:
    async def main() -> None:
        async with served() as s:
            revision = s.hub.current().revision
            started_s = time.monotonic()
            reply = await s.send("GET", f"/v1/cluster?after={revision}&wait_s=0.2")
            assert time.monotonic() - started_s >= 0.2
            assert orjson.loads(reply.body)["revision"] == revision

    run(main())


def test_a_long_poll_of_a_revision_to_come_from_nowhere_ends_in_time() -> None:
    async def main() -> None:
        async with served() as s:
            reply = await s.send("GET", f"/v1/cluster?after={1 << 60}&wait_s=0.1")
            assert reply.status == 200

    run(main())


def test_long_polls_do_not_keep_a_server_from_draining() -> None:
    async def main() -> None:
        started_s = time.monotonic()
        async with served() as s:
            revision = s.hub.current().revision
            polls = [asyncio.create_task(s.send("GET", f"/v1/cluster?after={revision}&wait_s=50")) for _ in range(20)]
            while s.hub.maps.waiting < 20:
                await asyncio.sleep(0.01)
            s.hub.close()
            replies = await asyncio.gather(*polls)
            assert {r.status for r in replies} == {200}
        assert time.monotonic() - started_s < 3

    run(main())


def test_long_waits_are_cut() -> None:
    assert parse_wait("7", "86400") == (7, WAIT_MAX_S)
    assert parse_wait(None, None) == (None, 0.0)
    with pytest.raises(InvalidRequest):
        parse_wait("7", "soon")


def test_only_holders_of_the_cluster_key_change_who_is_a_member() -> None:
    request = AnnounceRequest(member=WORKER, session="s")
    now_s = time.time()
    reading = TicketClaims(
        cluster="c", mount_id="m", generation=1, prefix="", client="w1", rights="read", expires_at_s=now_s + 60
    )
    attempts = {
        "": "unauthenticated",
        "nonsense": "unauthenticated",
        proof(OTHER_KEYS, "c", "w1", now_s): "ticket_forged",
        proof(KEYS, "c", "w1", now_s - 3600): "ticket_expired",
        proof(KEYS, "c", "w2", now_s): "permission_denied",
        proof(KEYS, "other", "w1", now_s): "ticket_wrong_cluster",
        sign(KEYS, reading): "permission_denied",
    }

    async def main() -> None:
        async with served(keys=KEYS) as s:
            for text, code in attempts.items():
                for path, body in (("announce", encode(request)), ("withdraw", b'{"member_id":"w1"}')):
                    reply = await s.send("POST", f"/v1/members:{path}", body, forebay_ticket=text)
                    assert orjson.loads(reply.body)["code"] == code, text
            assert s.hub.current().members == ()
            good = proof(KEYS, "c", "w1", now_s)
            assert (await s.send("POST", "/v1/members:announce", encode(request), forebay_ticket=good)).status == 200

    run(main())


def test_an_older_key_of_the_ring_still_proves() -> None:
    older_first = KeyRing(tuple(reversed(KEYS.keys)))
    check_proof(KEYS, "c", "w1", proof(older_first, "c", "w1", 100.0), 100.0)
    with pytest.raises(Unauthenticated):
        check_proof(KEYS, "c", "w1", None, 100.0)
    with pytest.raises(PermissionDenied):
        check_proof(KEYS, "c", "w1", proof(KEYS, "c", "w1 ", 100.0), 100.0)
    assert PROOF_HEADER == "forebay-ticket"


def test_a_registry_with_the_key_announces_and_one_without_is_told() -> None:
    async def main() -> None:
        async with served(keys=KEYS) as s:
            url = f"http://{s.address}"
            plain = open_registry(url, cluster_id="c", telemetry=quiet(), client=s.client, options=OPTIONS)
            keyed = open_registry(url, cluster_id="c", telemetry=quiet(), client=s.client, keys=KEYS, options=OPTIONS)
            try:
                await plain.start(Deadline.after(5))
                await keyed.start(Deadline.after(5))
                with pytest.raises(Unauthenticated, match="cluster_key_file"):
                    await plain.announce(WORKER)
                await keyed.announce(WORKER)
                assert s.hub.current().members == (WORKER,)
                await keyed.withdraw()
                assert s.hub.current().members == ()
            finally:
                await plain.close()
                await keyed.close()

    run(main())


def test_the_registry_of_another_cluster_is_refused_by_name() -> None:
    async def main() -> None:
        async with served() as s:
            url = f"http://{s.address}"
            registry = open_registry(url, cluster_id="pond", telemetry=quiet(), client=s.client, options=OPTIONS)
            try:
                with pytest.raises(PeerMisbehaved, match="of cluster 'c', this member of 'pond'"):
                    await registry.start(Deadline.after(5))
                assert registry.current() is None
            finally:
                await registry.close()

    run(main())


def test_the_master_itself_needs_no_http() -> None:
    async def main() -> None:
        hub = EmbeddedHub("c")
        await hub.open()
        registry = local_registry(hub, telemetry=quiet(), options=OPTIONS)
        await registry.start(Deadline.after(1))
        await registry.announce(Member(member_id="m1", role="master", tcp="h:7070"))
        assert [m.member_id for m in hub.current().members] == ["m1"]
        assert registry.is_announced()
        await registry.close()
        assert [m.state for m in hub.current().members] == ["down"]
        hub.validate()

    run(main())


def test_the_metrics_say_whether_the_registry_answers() -> None:
    async def main() -> None:
        telemetry = quiet()
        async with served() as s:
            url = f"http://{s.address}"
            registry = open_registry(url, cluster_id="c", telemetry=telemetry, client=s.client, options=OPTIONS)
            await registry.start(Deadline.after(5))
            lines = telemetry.metrics.render().decode().splitlines()
            shown = {name: float(value) for name, _, value in (x.partition(" ") for x in lines if x[0] != "#")}
            assert shown["forebay_discovery_connected"] == 1
            assert shown["forebay_discovery_map_revision"] == s.hub.current().revision
            assert shown["forebay_discovery_map_epoch"] == s.hub.current().epoch
            assert 0 <= shown["forebay_discovery_map_age_seconds"] < 5
            await registry.close()

    run(main())
