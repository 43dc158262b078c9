"""One trace across two services: client span, server span, next client span, next server span."""

from __future__ import annotations

from aiohttp import web

from forebay.runtime import Deadline
from forebay.telemetry import setup
from forebay.testing import run
from forebay.testing.otlp import otlp_receiver
from forebay.transport import HttpClient, HttpServer


def test_a_sampled_trace_runs_through_every_hop_and_names_routes() -> None:
    with otlp_receiver() as receiver:
        front = setup("front", member_id="f", otlp_endpoint=receiver.endpoint, sample_ratio=1.0)
        back = setup("back", member_id="b", otlp_endpoint=receiver.endpoint)
        user = setup("user", member_id="u", otlp_endpoint=receiver.endpoint, sample_ratio=1.0)

        async def main() -> None:
            deadline = Deadline.after(10)
            own = HttpClient(front)

            async def leaf(request: web.Request) -> web.Response:
                return web.Response(text="leaf")

            async def relay(request: web.Request) -> web.Response:
                reply = await own.fetch(leaf_server.address, "GET", "/leaf/7", deadline=deadline)
                return web.Response(body=reply.body)

            leaf_app, relay_app = web.Application(), web.Application()
            leaf_app.router.add_get("/leaf/{id}", leaf)
            relay_app.router.add_get("/relay", relay)
            leaf_server, relay_server = HttpServer(leaf_app, back), HttpServer(relay_app, front)
            await leaf_server.start("127.0.0.1", 0)
            await relay_server.start("127.0.0.1", 0)
            client = HttpClient(user)
            assert (await client.fetch(relay_server.address, "GET", "/relay", deadline=deadline)).body == b"leaf"
            for closing in (client, own, relay_server, leaf_server):
                await closing.close()

        run(main())
        for telemetry in (user, front, back):
            telemetry.shutdown()
        spans = receiver.wait_for(lambda found: len(found) >= 4)
    by_id = {span.span_id: span for span in spans}
    assert len({span.trace_id for span in spans}) == 1
    leaf_span = next(span for span in spans if span.attributes.get("http.route") == "/leaf/{id}")
    chain = [leaf_span]
    while chain[-1].parent_id:
        chain.append(by_id[chain[-1].parent_id])
    assert [span.service for span in chain] == ["back", "front", "front", "user"]
    assert leaf_span.attributes["http.response.status_code"] == "200"
    assert leaf_span.attributes["network.protocol.version"] == "2"
