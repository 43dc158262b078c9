"""Our client and our server together on loopback: bodies, cancellation, deadlines, drains, refusals."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from forebay.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PeerMisbehaved,
    PeerUnavailable,
)
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.transport import BODY, Seen, application, eventually, pair
from forebay.transport import HttpClient, HttpServer, Limits
from forebay.transport.client import deadline_ms
from forebay.transport.pool import split_peer


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds)


def test_a_reply_of_any_size_arrives_whole() -> None:
    async def main() -> None:
        async with pair() as p:
            for count in (0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1, 5_000_000):
                buffer = bytearray(count)
                reply = await p.client.read_into(p.peer, f"/bytes/{count}", memoryview(buffer), deadline=soon())
                assert (reply.status, reply.length) == (200, count)
                assert buffer == (BODY * 5)[:count]

    run(main())


def test_everything_works_on_asyncios_own_loop_as_well() -> None:
    async def main() -> None:
        async with pair() as p:
            buffer = bytearray(9_000_001)
            reply = await p.client.read_into(p.peer, "/bytes/9000001", memoryview(buffer), deadline=soon())
            assert reply.length == 9_000_001
            assert buffer == (BODY * 9)[:9_000_001]
            answer = await p.client.fetch(p.peer, "POST", "/crc", body=BODY * 5, deadline=soon())
            assert answer.body.decode() == f"{zlib.crc32(BODY * 5)} {len(BODY) * 5}"
            await p.client.read_into(p.peer, "/reused", memoryview(buffer), deadline=soon())
            assert [buffer[n << 20] for n in range(8)] == list(range(8))
            with pytest.raises(DeadlineExceeded):
                await p.client.fetch(p.peer, "GET", "/hold", deadline=soon(0.02))
            await eventually(lambda: p.seen.cancelled == 1)

    asyncio.run(main())


def test_a_request_body_of_any_size_arrives_whole() -> None:
    async def main() -> None:
        async with pair() as p:
            for count in (1, 65_535, 1 << 20, 7_000_001):
                body = (BODY * 7)[:count]
                reply = await p.client.fetch(p.peer, "POST", "/crc", body=body, deadline=soon())
                assert reply.body.decode() == f"{zlib.crc32(body)} {count}"

    run(main())


def test_a_buffer_larger_than_the_body_is_filled_from_its_start() -> None:
    async def main() -> None:
        async with pair() as p:
            buffer = bytearray(b"z" * 100)
            reply = await p.client.read_into(p.peer, "/bytes/10", memoryview(buffer), deadline=soon())
            assert reply.length == 10
            assert buffer == BODY[:10] + b"z" * 90

    run(main())


def test_a_body_longer_than_the_buffer_is_refused_and_the_connection_lives() -> None:
    async def main() -> None:
        async with pair() as p:
            buffer = bytearray(1000)
            with pytest.raises(PeerMisbehaved):
                await p.client.read_into(p.peer, "/bytes/5000000", memoryview(buffer), deadline=soon())
            with pytest.raises(PeerMisbehaved):
                await p.client.read_into(p.peer, "/endless", memoryview(buffer), deadline=soon())
            assert (await p.client.read_into(p.peer, "/bytes/9", memoryview(buffer), deadline=soon())).length == 9
            assert p.server.connections == 1
            await eventually(lambda: p.seen.cancelled == 1)

    run(main())


def test_memory_is_not_written_to_after_a_read_was_cancelled() -> None:
    async def main() -> None:
        async with pair() as p:
            for wait_s in (0.0005, 0.002, 0.01):
                # given a bulk read under way
                buffer = bytearray(64 << 20)
                reading = asyncio.create_task(
                    p.client.read_into(p.peer, "/endless", memoryview(buffer), deadline=soon())
                )
                await asyncio.sleep(wait_s)
                # when it is cancelled and the memory is used for something else
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                buffer[:] = bytes(len(buffer))
                # then what was on its way does not land in it
                await p.client.read_into(p.peer, "/bytes/1000", memoryview(bytearray(1000)), deadline=soon())
                assert not any(buffer)

    run(main())


def test_a_cancelled_call_cancels_its_handler() -> None:
    async def main() -> None:
        async with pair() as p:
            call = asyncio.create_task(p.client.fetch(p.peer, "GET", "/hold", deadline=soon()))
            await p.seen.started.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await eventually(lambda: p.seen.cancelled == 1)

    run(main())


def test_a_deadline_ends_a_call_and_its_handler() -> None:
    async def main() -> None:
        async with pair() as p:
            long = asyncio.create_task(p.client.fetch(p.peer, "GET", "/hold", deadline=soon(5)))
            for seconds in (0.05, 0.02):
                with pytest.raises(DeadlineExceeded):
                    await p.client.fetch(p.peer, "GET", "/hold", deadline=soon(seconds))
            await eventually(lambda: p.seen.cancelled == 2)
            assert not long.done()
            p.seen.release.set()
            assert (await long).status == 200

    run(main())


def test_a_deadline_ends_a_body_that_the_peer_does_not_take() -> None:
    async def main() -> None:
        async with pair() as p:
            with pytest.raises(DeadlineExceeded):
                await p.client.fetch(p.peer, "POST", "/hold", body=BODY * 4, deadline=soon(0.1))
            assert (await p.client.fetch(p.peer, "GET", "/", deadline=soon())).status == 200
            await eventually(lambda: p.seen.cancelled == 1)

    run(main())


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async def main() -> None:
        async with pair() as p:
            with pytest.raises(DeadlineExceeded):
                await p.client.fetch(p.peer, "GET", "/", deadline=soon(0))
            assert p.seen.requests == []

    run(main())


def test_memory_may_change_after_the_barrier() -> None:
    async def main() -> None:
        async with pair() as p:
            buffer = bytearray(8 << 20)
            await p.client.read_into(p.peer, "/reused", memoryview(buffer), deadline=soon())
            for number in range(8):
                piece = buffer[number << 20 : (number + 1) << 20]
                assert piece == bytes((number,)) * (1 << 20)

    run(main())


def test_a_handler_that_fails_answers_500_without_its_text() -> None:
    async def main() -> None:
        async with pair() as p:
            reply = await p.client.fetch(p.peer, "GET", "/broken", deadline=soon())
            assert reply.status == 500
            assert b"bug" not in reply.body

    run(main())


def test_a_body_that_ends_early_is_an_error_not_a_short_read() -> None:
    async def main() -> None:
        async with pair() as p:
            with pytest.raises(PeerUnavailable):
                await p.client.read_into(p.peer, "/half", memoryview(bytearray(1_000_000)), deadline=soon())

    run(main())


def test_nobody_listening_is_told_with_the_peers_name() -> None:
    async def main() -> None:
        client = HttpClient(quiet())
        with pytest.raises(PeerUnavailable, match=r"127\.0\.0\.1:1 "):
            await client.fetch("127.0.0.1:1", "GET", "/", deadline=soon())
        with pytest.raises(PeerUnavailable):
            await client.fetch("unix:/nonexistent/socket", "GET", "/", deadline=soon())
        await client.close()

    run(main())


def test_many_calls_share_one_attempt_to_connect() -> None:
    async def main() -> None:
        async with pair() as p:
            calls = [p.client.fetch(p.peer, "GET", "/", deadline=soon()) for _ in range(50)]
            assert {reply.status for reply in await asyncio.gather(*calls)} == {200}
            assert p.server.connections == 1

    run(main())


def test_rpc_and_data_use_two_connections() -> None:
    async def main() -> None:
        async with pair() as p:
            await p.client.fetch(p.peer, "GET", "/", deadline=soon())
            await p.client.read_into(p.peer, "/bytes/5", memoryview(bytearray(5)), deadline=soon())
            assert p.server.connections == 2

    run(main())


def test_bulk_reads_beyond_the_cap_wait_their_turn() -> None:
    async def main() -> None:
        async with pair(client_limits=Limits(data_streams_max=2, data_waiting_max=0, waiters_max=3)) as p:
            # given two held reads and three that wait
            sent: list[int] = []

            def on_sent(under_way: int, landed: Callable[[], int]) -> None:
                assert landed() == 0
                sent.append(under_way)

            async def read() -> int:
                buffer = memoryview(bytearray(5))
                return (await p.client.read_into(p.peer, "/hold", buffer, deadline=soon(), on_sent=on_sent)).length

            reads = [asyncio.create_task(read()) for _ in range(5)]
            await p.seen.started.wait()
            await eventually(lambda: p.active() == 5 + 2)
            assert sent == [1, 2]  # who waits has not been sent
            # when one more comes it is refused, and one that waits may be cancelled
            with pytest.raises(Overloaded):
                await read()
            reads[3].cancel()
            p.seen.release.set()
            done = await asyncio.gather(*reads, return_exceptions=True)
            # then the others are served
            assert [isinstance(result, asyncio.CancelledError) for result in done] == [False, False, False, True, False]
            assert len(sent) == 4

    run(main())


def test_reads_that_wait_for_their_answer_do_not_hold_up_those_whose_bytes_are_there() -> None:
    async def main() -> None:
        async with pair(client_limits=Limits(data_streams_max=2, data_waiting_max=3)) as p:

            async def read(path: str) -> int:
                return (await p.client.read_into(p.peer, path, memoryview(bytearray(5)), deadline=soon())).length

            # given as many reads as may be under way, none of which is answered
            held = [asyncio.create_task(read("/hold")) for _ in range(2)]
            await p.seen.started.wait()
            # when others come, then they are served
            assert await asyncio.gather(*[read("/bytes/5") for _ in range(10)]) == [5] * 10
            # when more go unanswered than may lend their place, then what is behind them waits
            held += [asyncio.create_task(read("/hold")) for _ in range(3)]
            await eventually(lambda: p.active() == 5 + 5)
            behind = asyncio.create_task(read("/bytes/5"))
            await asyncio.sleep(3 * Limits().data_patience_s)
            assert not behind.done()
            p.seen.release.set()
            assert await asyncio.gather(*held, behind) == [5] * 6

    run(main())


def test_a_client_reconnects_after_its_server_came_back() -> None:
    async def main() -> None:
        telemetry, client = quiet(), HttpClient(None)
        first = HttpServer(application(Seen()), telemetry)
        await first.start("127.0.0.1", 0)
        port = int(first.address.rpartition(":")[2])
        assert (await client.fetch(first.address, "GET", "/", deadline=soon())).status == 200
        await first.close()
        second = HttpServer(application(Seen()), telemetry)
        await second.start("127.0.0.1", port)
        assert (await client.fetch(second.address, "GET", "/", deadline=soon())).status == 200
        await client.close()
        await second.close()

    run(main())


def test_a_drain_lets_running_requests_finish_and_refuses_new_ones() -> None:
    async def main() -> None:
        async with pair() as p:
            # given a request under way
            held = asyncio.create_task(p.client.fetch(p.peer, "GET", "/hold", deadline=soon()))
            await p.seen.started.wait()
            # when the server drains
            closing = asyncio.create_task(p.server.close())
            await asyncio.sleep(0.05)
            with pytest.raises(PeerUnavailable):
                await p.client.fetch(p.peer, "GET", "/", deadline=soon(1))
            assert not held.done()
            p.seen.release.set()
            # then the running request gets its reply
            assert (await held).body == b"held\n"
            await closing
            assert (p.seen.finished, p.seen.cancelled) == (1, 0)

    run(main())


def test_a_drain_cancels_what_does_not_finish_in_time() -> None:
    async def main() -> None:
        async with pair(drain_timeout_s=0.1) as p:
            held = asyncio.create_task(p.client.fetch(p.peer, "GET", "/hold", deadline=soon()))
            await p.seen.started.wait()
            await p.server.close()
            with pytest.raises(PeerUnavailable):
                await held
            assert p.seen.cancelled == 1

    run(main())


def test_a_closed_client_fails_its_calls_and_takes_no_more() -> None:
    async def main() -> None:
        async with pair() as p:
            held = asyncio.create_task(p.client.fetch(p.peer, "GET", "/hold", deadline=soon()))
            await p.seen.started.wait()
            await p.client.close()
            with pytest.raises(PeerUnavailable):
                await held
            with pytest.raises(PeerUnavailable):
                await p.client.fetch(p.peer, "GET", "/", deadline=soon())
            await eventually(lambda: p.seen.cancelled == 1)

    run(main())


def test_a_unix_socket_serves_the_same_and_is_removed_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        # given a stale socket file of an earlier process
        path = tmp_path / "s.sock"
        stale = await asyncio.start_unix_server(lambda r, w: None, str(path))
        stale.close()
        await stale.wait_closed()
        server, client = HttpServer(application(Seen()), quiet()), HttpClient(None)
        # when
        await server.start("127.0.0.1", 0, uds=path)
        buffer = bytearray(3_000_000)
        reply = await client.read_into(f"unix:{path}", "/bytes/3000000", memoryview(buffer), deadline=soon())
        # then
        assert reply.length == 3_000_000
        with pytest.raises(ConfigError) as caught:
            await HttpServer(application(Seen()), None).start("127.0.0.1", 0, uds=path)
        assert caught.value.setting == "uds"
        await client.close()
        await server.close()
        assert not path.exists()

    run(main())


def test_a_taken_port_and_a_foreign_address_are_settings_to_change() -> None:
    async def main() -> None:
        async with pair() as p:
            port = int(p.peer.rpartition(":")[2])
            for host, number, setting in (
                ("127.0.0.1", port, "port"),
                ("192.0.2.1", 0, "host"),
                ("no.such.host.invalid", 0, "host"),
            ):
                with pytest.raises(ConfigError) as caught:
                    await HttpServer(web.Application(), None).start(host, number)
                assert caught.value.setting == setting

    run(main())


def test_requests_are_measured_by_route_and_status_on_both_sides() -> None:
    async def main() -> None:
        async with pair() as p:
            await p.client.fetch(p.peer, "GET", "/bytes/7", deadline=soon())
            await p.client.fetch(p.peer, "GET", "/nothing?secret=1", deadline=soon())
            text = p.telemetry.metrics.render().decode()
            assert 'http_route="/bytes/{count}"' in text
            assert 'http_response_status_code="404",http_route="_unmatched",network_protocol_version="2"' in text
            assert f'server_address="{p.peer}"' in text
            assert "secret" not in text

    run(main())


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def main() -> None:
        async with pair(limits=Limits(server_idle_timeout_s=0.5)) as p:
            held = asyncio.create_task(p.client.fetch(p.peer, "GET", "/hold", deadline=soon()))
            await p.client.read_into(p.peer, "/bytes/5", memoryview(bytearray(5)), deadline=soon())
            assert p.server.connections == 2
            await eventually(lambda: p.server.connections == 1)
            p.seen.release.set()
            assert (await held).status == 200

    run(main())


def test_a_silent_peer_is_found_by_keep_alive() -> None:
    async def main() -> None:
        # given a listener that accepts and never says a word
        mute = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = mute.sockets[0].getsockname()[1]
        client = HttpClient(None, limits=Limits(keepalive_interval_s=0.2, keepalive_timeout_s=0.2))
        # when
        with pytest.raises(PeerUnavailable, match="keep-alive"):
            await client.fetch(f"127.0.0.1:{port}", "GET", "/", deadline=soon())
        # then
        await client.close()
        mute.close()

    run(main())


def test_a_peer_that_speaks_http_1_is_named_as_such() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async def main() -> None:
        old = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = old.sockets[0].getsockname()[1]
        client = HttpClient(None)
        with pytest.raises(PeerMisbehaved, match="does not speak HTTP/2"):
            await client.fetch(f"127.0.0.1:{port}", "GET", "/", deadline=soon())
        await client.close()
        old.close()

    run(main())


@pytest.mark.parametrize(
    ("text", "parts"), [("h:1", ("h", 1)), ("[::1]:70", ("::1", 70)), ("127.0.0.1:0", ("127.0.0.1", 0))]
)
def test_a_peer_is_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_peer(text) == parts


@pytest.mark.parametrize("text", ["", "h", ":1", "h:", "h:x", "h:70000", "h:-1", "h:１"])
def test_anything_else_is_no_peer(text: str) -> None:
    with pytest.raises(InvalidRequest):
        split_peer(text)


@pytest.mark.parametrize(
    ("remaining_s", "text"),
    [(0.0, "1"), (0.0004, "1"), (0.0501, "51"), (1.0, "1000"), (29.99, "30000"), (30.0, "30000")],
)
def test_a_deadline_travels_in_two_digits_rounded_up(remaining_s: float, text: str) -> None:
    assert deadline_ms(remaining_s) == text
