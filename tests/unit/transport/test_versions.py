"""Requests and replies between neighbours: unknown fields of the newer one are left out, a person's are refused."""

from __future__ import annotations

import aiohttp
import orjson
import pytest
from aiohttp import web

from forebay.contracts import WIRE_VERSION, WithdrawReply, WithdrawRequest
from forebay.contracts.codec import WIRE_HEADER
from forebay.errors import InvalidRequest, NotFound, PeerMisbehaved
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.transport import HttpClient, HttpServer
from forebay.transport.app import read_record, record_response
from forebay.transport.versions import NAMES_MAX, LeftOut, decode_body

NEXT = str(WIRE_VERSION + 1)
BODY = b'{"member_id": "m1", "later": {"a": 1}}'


def soon() -> Deadline:
    return Deadline.after(10.0)


@pytest.mark.parametrize("wire", [None, str(WIRE_VERSION), "1"])
def test_an_unknown_field_is_refused_unless_its_sender_is_newer(wire: str | None) -> None:
    with pytest.raises(InvalidRequest, match="later"):
        decode_body(WithdrawRequest, BODY, wire)
    assert decode_body(WithdrawRequest, BODY, NEXT) == WithdrawRequest(member_id="m1")


def test_a_name_is_said_once_and_not_more_than_the_limit() -> None:
    left_out = LeftOut()
    assert left_out.add(["A.x", "A.y"]) == ["A.x", "A.y"]
    assert left_out.add(["A.y", "A.z"]) == ["A.z"]
    assert len(left_out.add(f"B.{number}" for number in range(500))) == NAMES_MAX - 3
    assert left_out.add(["C.x"]) == []
    assert len(left_out.names) == NAMES_MAX


async def posted(peer: str, wire: str | None) -> tuple[int, str]:
    """Status and text of BODY posted by somebody else's client, which says this wire version."""
    headers = {} if wire is None else {WIRE_HEADER: wire}
    where = f"http://{peer}/withdraw"
    async with aiohttp.ClientSession() as session, session.post(where, data=BODY, headers=headers) as reply:
        return reply.status, await reply.text()


def test_a_service_takes_the_request_of_a_newer_client_and_a_client_the_reply_of_a_newer_service() -> None:
    async def withdraw(request: web.Request) -> web.Response:
        try:
            asked = await read_record(request, WithdrawRequest)
        except InvalidRequest as error:
            return web.Response(status=400, text=error.message)
        return record_response(WithdrawReply(was_there=asked.member_id == "m1"))

    async def newer(request: web.Request) -> web.Response:
        body = orjson.dumps({"was_there": True, "since_s": 1.5})
        return web.Response(body=body, headers={WIRE_HEADER: request.query.get("wire", NEXT)})

    async def newer_error(request: web.Request) -> web.Response:
        body = orjson.dumps({"code": "not_found", "message": "none", "retryable": False, "hint": "look elsewhere"})
        return web.Response(status=404, body=body, headers={WIRE_HEADER: NEXT})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/withdraw", withdraw)
        app.router.add_post("/newer", newer)
        app.router.add_post("/error", newer_error)
        server, client = HttpServer(app, None), HttpClient(quiet())
        await server.start("127.0.0.1", 0)
        peer = server.address
        try:
            # a newer client's request, one of our version, and a person's
            assert await posted(peer, NEXT) == (200, '{"was_there":true}')
            for wire in (str(WIRE_VERSION), None):
                status, said = await posted(peer, wire)
                assert (status, "later" in said) == (400, True)
            # a newer service's replies
            assert (await client.call(peer, "/newer", None, WithdrawReply, deadline=soon())).was_there
            with pytest.raises(NotFound, match="none"):
                await client.call(peer, "/error", None, WithdrawReply, deadline=soon())
            # one of our own version must know its fields
            with pytest.raises(PeerMisbehaved, match="since_s"):
                await client.call(peer, f"/newer?wire={WIRE_VERSION}", None, WithdrawReply, deadline=soon())
        finally:
            await client.close()
            await server.close()

    run(main())
