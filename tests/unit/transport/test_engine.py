"""What each broken rule costs the peer, and what a whole exchange looks like without a socket."""

from __future__ import annotations

import struct

import hpack
import pytest

from forebay.errors import InternalError
from forebay.testing.http2 import (
    GET,
    POST,
    Frame,
    client_engine,
    data,
    headers,
    join,
    sent,
    server_engine,
    split_frames,
    whole,
)
from forebay.transport import frames
from forebay.transport.frames import ErrorCode, ProtocolError, frame, goaway, rst_stream, settings, window_update
from forebay.transport.limits import Limits

HELLO = settings(())


def frames_of(raw: bytes) -> list[Frame]:
    found, rest = split_frames(raw)
    assert not rest
    return found


def last_goaway(raw: bytes) -> Frame:
    (found,) = [f for f in frames_of(raw) if f.kind == frames.GOAWAY]
    return found


# -- connection errors of a client towards the server

BAD_SETTINGS = {
    "push": (frames.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
    "window": (frames.INITIAL_WINDOW_SIZE, 1 << 31, ErrorCode.FLOW_CONTROL_ERROR),
    "small frame": (frames.MAX_FRAME_SIZE, (1 << 14) - 1, ErrorCode.PROTOCOL_ERROR),
    "large frame": (frames.MAX_FRAME_SIZE, 1 << 24, ErrorCode.PROTOCOL_ERROR),
}

CONNECTION_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "no SETTINGS first": (headers(1), ErrorCode.PROTOCOL_ERROR),
    "DATA first": (data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS ack first": (frames.SETTINGS_ACK, ErrorCode.PROTOCOL_ERROR),
    "SETTINGS on a stream": (HELLO + frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (HELLO + frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS ack with payload": (HELLO + frame(frames.SETTINGS, 1, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR),
    "too many SETTINGS": (HELLO + settings([(0x99, 0)] * 65), ErrorCode.ENHANCE_YOUR_CALM),
    "DATA on stream 0": (HELLO + data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream": (HELLO + data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA after both ends": (HELLO + headers(1) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS on stream 0": (HELLO + headers(0), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream": (HELLO + headers(2), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an older stream": (HELLO + headers(5) + headers(3), ErrorCode.STREAM_CLOSED),
    "HEADERS padded beyond its end": (HELLO + frame(frames.HEADERS, 0xD, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS padded and empty": (HELLO + frame(frames.HEADERS, 0xD, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
    "HEADERS too short for its priority": (HELLO + frame(frames.HEADERS, 0x25, 1, b"abc"), ErrorCode.PROTOCOL_ERROR),
    "HPACK garbage": (HELLO + frame(frames.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "a list too long": (HELLO + frame(frames.HEADERS, 5, 1, b"\x82" * 2000), ErrorCode.ENHANCE_YOUR_CALM),
    "CONTINUATION alone": (HELLO + frame(frames.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "a block interrupted by PING": (
        HELLO + frame(frames.HEADERS, 0, 1, b"\x82") + frame(frames.PING, 0, 0, b"x" * 8),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a block interrupted by DATA": (
        HELLO + frame(frames.HEADERS, 0, 1, b"\x82") + data(1, b"x"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a block interrupted by an unknown frame": (
        HELLO + frame(frames.HEADERS, 0, 1, b"\x82") + frame(0x77, 0, 0),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a block continued on another stream": (
        HELLO + frame(frames.HEADERS, 0, 1, b"\x82") + frame(frames.CONTINUATION, 4, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION flood": (
        HELLO + frame(frames.HEADERS, 0, 1, b"\x82") + frame(frames.CONTINUATION, 0, 1, b"") * 9,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a block too long": (
        HELLO + frame(frames.HEADERS, 0, 1, b"\0" * 16_000) + frame(frames.CONTINUATION, 0, 1, b"\0" * 16_000) * 2,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "PRIORITY on stream 0": (HELLO + frame(frames.PRIORITY, 0, 0, b"12345"), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (HELLO + headers(1) + frame(frames.RST_STREAM, 0, 1, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM on stream 0": (HELLO + rst_stream(0, 8), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (HELLO + rst_stream(1, 8), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (HELLO + frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), ErrorCode.PROTOCOL_ERROR),
    "PING on a stream": (HELLO + frame(frames.PING, 0, 1, b"x" * 8), ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": (HELLO + frame(frames.PING, 0, 0, b"x" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (HELLO + frame(frames.GOAWAY, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (HELLO + frame(frames.GOAWAY, 0, 0, b"\0" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3 bytes": (HELLO + frame(frames.WINDOW_UPDATE, 0, 0, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0": (HELLO + window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (HELLO + window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
    "the connection's window overflows": (HELLO + window_update(0, 0x7FFFFFFF), ErrorCode.FLOW_CONTROL_ERROR),
    "a frame too large": (HELLO + frames.frame_header((1 << 20) + 1, 0, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS flood": (HELLO * 40, ErrorCode.ENHANCE_YOUR_CALM),
    "PING flood": (HELLO + frame(frames.PING, 0, 0, b"x" * 8) * 200, ErrorCode.ENHANCE_YOUR_CALM),
    "PRIORITY flood": (HELLO + frame(frames.PRIORITY, 0, 3, b"12345") * 2000, ErrorCode.ENHANCE_YOUR_CALM),
    "a flood of unknown frames": (HELLO + frame(0x77, 0, 0) * 2000, ErrorCode.ENHANCE_YOUR_CALM),
    "a flood of empty DATA": (HELLO + headers(1, POST, end=False) + data(1, b"") * 2000, ErrorCode.ENHANCE_YOUR_CALM),
    "a flood of tiny DATA": (HELLO + headers(1, POST, end=False) + data(1, b"x") * 2000, ErrorCode.ENHANCE_YOUR_CALM),
    "rapid reset": (
        HELLO + b"".join(headers(i) + rst_stream(i, 8) for i in range(1, 2001, 2)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "we are made to reset": (
        HELLO + b"".join(headers(i, POST, end=False) + window_update(i, 0) for i in range(1, 601, 2)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
} | {f"SETTINGS {name}": (HELLO + settings([(key, value)]), code) for name, (key, value, code) in BAD_SETTINGS.items()}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_rule_of_the_connection_costs_the_connection(name: str) -> None:
    # given
    wire, code = CONNECTION_ERRORS[name]
    engine, owner = server_engine()
    if name == "DATA after both ends":
        engine.feed(HELLO + headers(1))
        engine.send_head(owner.streams[1], [(":status", "204")], is_end=True)
        wire = data(1, b"x")
    # when
    with pytest.raises(ProtocolError) as caught:
        engine.feed(wire)
    # then it is told, by the right name
    assert caught.value.error_code is code
    assert last_goaway(sent(engine)).code == code


# -- stream errors of a client towards the server

STREAM_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "a malformed head": (headers(1, [*GET, ("X-Upper".lower(), "1"), (":late", "1")]), ErrorCode.PROTOCOL_ERROR),
    "trailers that do not end": (
        headers(1, POST, end=False) + headers(1, [("x", "1")], end=False),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "trailers with a pseudo field": (
        headers(1, POST, end=False) + headers(1, [(":path", "/")]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "DATA after END_STREAM": (headers(1) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS after END_STREAM": (headers(1) + headers(1), ErrorCode.STREAM_CLOSED),
    "a body shorter than its length": (
        headers(1, [*POST, ("content-length", "5")], end=False) + data(1, b"1234", end=True),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a body longer than its length": (
        headers(1, [*POST, ("content-length", "5")], end=False) + data(1, b"123456", end=True),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "no body for a length": (headers(1, [*POST, ("content-length", "5")]), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of 0": (headers(1, POST, end=False) + window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "the stream's window overflows": (
        headers(1, POST, end=False) + window_update(1, 0x7FFFFFFF),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "PRIORITY of 4 bytes": (
        headers(1, POST, end=False) + frame(frames.PRIORITY, 0, 1, b"1234"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "more DATA than the window": (
        headers(1, POST, end=False) + data(1, b"x" * 60_000) + data(1, b"x" * 6_000),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_rule_of_a_stream_costs_the_stream_alone(name: str) -> None:
    # given
    wire, code = STREAM_ERRORS[name]
    engine, owner = server_engine(credits=False)
    engine.feed(HELLO)
    sent(engine)
    # when the rule is broken, and the connection is used on
    engine.feed(wire + headers(101))
    # then
    resets = [f for f in frames_of(sent(engine)) if f.kind == frames.RST_STREAM]
    assert [(f.stream_id, f.code) for f in resets] == [(1, code)]
    assert ("head", 101) in [event[:2] for event in owner.heard]
    assert set(engine.streams) == {101}
    engine.validate()


def test_a_stream_that_was_refused_may_still_send_what_was_on_its_way() -> None:
    # given a stream that we reset
    engine, owner = server_engine()
    engine.feed(HELLO + headers(1, POST, end=False))
    engine.reset(owner.streams[1])
    # when its frames still come
    engine.feed(data(1, b"x" * 1000) + window_update(1, 5) + headers(1, [("x", "1")]) + rst_stream(1, 8))
    # then nothing happens, and their bytes are credited
    assert owner.bodies == {}
    assert engine.receive_window.held == 0
    engine.validate()


def test_more_streams_than_agreed_are_refused() -> None:
    # given
    engine, owner = server_engine(Limits(streams_max=2))
    # when
    engine.feed(HELLO + headers(1, POST, end=False) + headers(3, POST, end=False) + headers(5, POST, end=False))
    # then
    (reset,) = [f for f in frames_of(sent(engine)) if f.kind == frames.RST_STREAM]
    assert (reset.stream_id, reset.code) == (5, ErrorCode.REFUSED_STREAM)
    assert set(owner.streams) == {1, 3}


def test_budgets_are_full_again_after_a_second() -> None:
    engine, _ = server_engine()
    ping = frame(frames.PING, 0, 0, b"x" * 8)
    engine.feed(HELLO + ping * 128)
    engine.refill()
    engine.feed(ping * 128)


def test_unknown_settings_and_frames_are_ignored() -> None:
    # given
    engine, owner = server_engine()
    # when
    engine.feed(settings([(0x99, 1)]) + frame(0x55, 0xFF, 7, b"x" * 50_000) + headers(1))
    # then
    assert [event[:2] for event in owner.heard if event[0] == "head"] == [("head", 1)]


def test_a_ping_is_answered_with_its_payload() -> None:
    engine, _ = server_engine()
    engine.feed(HELLO)
    sent(engine)
    engine.feed(frame(frames.PING, 0, 0, b"12345678"))
    assert frames_of(sent(engine)) == [Frame(frames.PING, frames.ACK, 0, b"12345678")]


def test_a_smaller_initial_window_makes_a_senders_window_negative() -> None:
    # given a reply under way
    engine, owner = server_engine()
    engine.feed(HELLO + headers(1))
    stream = owner.streams[1]
    engine.send_head(stream, [(":status", "200")], is_end=False)
    engine.send_data(stream, b"x" * 16_384, is_end=False)
    # when
    engine.feed(settings([(frames.INITIAL_WINDOW_SIZE, 1000)]))
    # then
    assert stream.send_window.size == 1000 - 16_384
    assert engine.sendable(stream) < 0
    engine.feed(window_update(1, 20_000))
    assert engine.sendable(stream) == 20_000 + 1000 - 16_384


def test_a_reply_may_come_in_continuation_frames() -> None:
    # given a head longer than a frame of the peer
    server, server_owner = server_engine()
    client, client_owner = client_engine()
    client.send_request(GET, None, is_end=True, is_bodyless=False)
    join(client, server, split=whole)
    long = "v" * 20_000
    # when
    server._peer_frame_bytes_max = 16_384  # what a peer with default settings takes
    server.send_head(server_owner.streams[1], [(":status", "200"), ("x-long", long)], is_end=True)
    # then
    kinds = [f.kind for f in split_frames(b"".join(bytes(p) for p in server.outbox))[0]]
    assert kinds == [frames.HEADERS, frames.CONTINUATION]
    join(client, server, split=whole)
    assert client_owner.heard[-1][2].headers["x-long"] == long


def test_a_whole_exchange_ends_with_no_stream_left() -> None:
    # given
    server, server_owner = server_engine()
    client, client_owner = client_engine()
    client_owner.targets[1] = memoryview(bytearray(300_000))
    # when a request with a body is answered with a body that lands, and trailers are none
    stream = client.send_request(POST, None, is_end=False, is_bodyless=False)
    join(client, server, split=whole)
    client.send_data(stream, b"question", is_end=True)
    join(client, server, split=whole)
    answer = server_owner.streams[1]
    server.send_head(answer, [(":status", "200"), ("content-length", "300000")], is_end=False)
    body, position = bytes(range(250)) * 1200, 0
    while position < len(body):
        count = min(server.sendable(answer), len(body) - position)
        server.send_data(answer, memoryview(body)[position : position + count], is_end=position + count == len(body))
        position += count
        join(client, server, split=whole)
    # then
    assert server_owner.bodies[1] == b"question"
    assert bytes(client_owner.targets[1]) == body
    assert client_owner.names()[-1] == "end"
    assert not client.streams
    assert not server.streams
    for engine in (client, server):
        engine.validate()
        assert engine.receive_window.held == 0


def test_a_body_after_the_clients_end_is_not_credited_to_its_stream() -> None:
    # given a request whose last frame alone is half a window
    engine, owner = server_engine()
    engine.feed(HELLO + headers(1, POST, end=False))
    sent(engine)
    # when
    engine.feed(data(1, b"x" * 40_000, end=True))
    # then no WINDOW_UPDATE goes to a stream on which nothing may come
    assert not [f for f in frames_of(sent(engine)) if f.kind == frames.WINDOW_UPDATE and f.stream_id]
    assert owner.names()[-1] == "end"


def test_credit_returns_when_the_owner_has_consumed_and_not_before() -> None:
    # given
    engine, owner = server_engine(credits=False)
    engine.feed(HELLO + headers(1, POST, end=False) + data(1, b"x" * 40_000))
    assert not [f for f in frames_of(sent(engine)) if f.kind == frames.WINDOW_UPDATE and f.stream_id]
    # when
    engine.consume(owner.streams[1], 40_000)
    # then
    updates = [f for f in frames_of(sent(engine)) if f.kind == frames.WINDOW_UPDATE]
    assert [(f.stream_id, struct.unpack("!L", f.payload)[0]) for f in updates] == [(1, 40_000)]


def test_a_closed_streams_bytes_go_back_to_the_connection() -> None:
    engine, owner = server_engine(credits=False)
    engine.feed(HELLO + headers(1, POST, end=False) + data(1, b"x" * 1000))
    assert engine.receive_window.held == 1000
    engine.reset(owner.streams[1])
    assert engine.receive_window.held == 0
    engine.consume(owner.streams[1], 1000)  # late, and harmless
    engine.validate()


# -- the client's side


REPLY = [(":status", "200")]

CLIENT_CONNECTION_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "HEADERS on an idle stream": (headers(3, REPLY), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream": (headers(2, REPLY), ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream": (data(3, b"x"), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\x02"), ErrorCode.PROTOCOL_ERROR),
    "push enabled": (settings([(frames.ENABLE_PUSH, 1)]), ErrorCode.PROTOCOL_ERROR),
    "a reply after its end": (headers(1, REPLY) + headers(1, REPLY), ErrorCode.STREAM_CLOSED),
}


@pytest.mark.parametrize("name", CLIENT_CONNECTION_ERRORS)
def test_a_server_that_breaks_the_connections_rules_loses_it(name: str) -> None:
    # given
    wire, code = CLIENT_CONNECTION_ERRORS[name]
    client, _ = client_engine()
    client.feed(HELLO)
    client.send_request(GET, None, is_end=True, is_bodyless=False)
    # when
    with pytest.raises(ProtocolError) as caught:
        client.feed(wire)
    # then
    assert caught.value.error_code is code


CLIENT_STREAM_ERRORS: dict[str, bytes] = {
    "DATA before the head": data(1, b"x"),
    "an interim head that ends": headers(1, [(":status", "100")]),
    "a head without status": headers(1, [("x", "1")]),
    "less body than its length": headers(1, [*REPLY, ("content-length", "5")]),
    "more body than its length": headers(1, [*REPLY, ("content-length", "1")], end=False) + data(1, b"22"),
    "an interim head in the body": headers(1, REPLY, end=False) + headers(1, [(":status", "103")], end=False),
}


@pytest.mark.parametrize("name", CLIENT_STREAM_ERRORS)
def test_a_reply_that_breaks_the_rules_is_a_fault_of_its_stream(name: str) -> None:
    # given
    client, owner = client_engine()
    client.feed(HELLO)
    client.send_request(GET, None, is_end=True, is_bodyless=False)
    # when
    client.feed(CLIENT_STREAM_ERRORS[name])
    # then
    assert owner.heard[-1] == ("fault", 1, ErrorCode.PROTOCOL_ERROR)
    assert not client.streams
    client.validate()


def test_interim_heads_come_before_the_final_one() -> None:
    client, owner = client_engine()
    client.feed(HELLO)
    client.send_request(GET, None, is_end=True, is_bodyless=False)
    client.feed(headers(1, [(":status", "103")], end=False) + headers(1, REPLY))
    assert [event[2].status for event in owner.heard if event[0] == "head"] == [103, 200]


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "304"), ("GET", "204")])
def test_a_reply_without_a_body_may_declare_a_length(method: str, status: str) -> None:
    client, owner = client_engine()
    client.feed(HELLO)
    client.send_request([(":method", method), *GET[1:]], None, is_end=True, is_bodyless=method == "HEAD")
    client.feed(headers(1, [(":status", status), ("content-length", "5")]))
    assert owner.heard[-1][0] == "head"
    assert not client.streams


def test_goaway_refuses_what_the_server_will_not_serve() -> None:
    # given three requests
    client, owner = client_engine()
    client.feed(HELLO)
    for _ in range(3):
        client.send_request(GET, None, is_end=True, is_bodyless=False)
    # when
    client.feed(goaway(1, 0))
    # then
    resets = [event for event in owner.heard if event[0] == "reset"]
    assert resets == [("reset", 3, ErrorCode.REFUSED_STREAM, True), ("reset", 5, ErrorCode.REFUSED_STREAM, True)]
    assert set(client.streams) == {1}
    assert not client.is_open


def test_the_ids_of_a_connection_run_out() -> None:
    client, _ = client_engine()
    assert client.is_open
    client.next_stream_id = frames.STREAM_ID_MAX + 2
    assert not client.is_open


def test_our_own_mistakes_are_not_the_peers() -> None:
    engine, owner = server_engine()
    engine.feed(HELLO + headers(1))
    with pytest.raises(InternalError):
        engine.send_data(owner.streams[1], b"x", is_end=False)


def test_a_drain_warns_first_and_then_names_the_last_stream() -> None:
    # given
    engine, owner = server_engine()
    engine.feed(HELLO + headers(1, POST, end=False))
    # when it warns, a stream that was on its way is served; after the last word none is
    engine.goaway(is_warning=True)
    engine.feed(headers(3))
    engine.goaway()
    engine.feed(headers(5))
    # then
    found = frames_of(sent(engine))
    assert [int.from_bytes(f.payload[:4], "big") for f in found if f.kind == frames.GOAWAY] == [0x7FFFFFFF, 3]
    assert set(owner.streams) == {1, 3}
    assert [(f.stream_id, f.code) for f in found if f.kind == frames.RST_STREAM] == [(5, ErrorCode.REFUSED_STREAM)]


def test_a_client_with_a_dynamic_table_is_understood() -> None:
    # given another library's encoder, which fills its table until it has seen our settings
    engine, owner = server_engine()
    encoder = hpack.Encoder()
    fields = [*GET, ("x-trace", "abc")]
    # when
    engine.feed(HELLO)
    for stream_id in (1, 3):
        engine.feed(frame(frames.HEADERS, 5, stream_id, encoder.encode(fields)))
    engine.feed(frames.SETTINGS_ACK)
    encoder.header_table_size = 0
    engine.feed(frame(frames.HEADERS, 5, 5, encoder.encode(fields)))
    # then
    heads = [event[2] for event in owner.heard if event[0] == "head"]
    assert heads[0] == heads[1] == heads[2]
