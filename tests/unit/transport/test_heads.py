"""Which lists of fields are messages (RFC 9113, section 8)."""

from __future__ import annotations

import pytest

from forebay.transport.fields import RawField
from forebay.transport.frames import ErrorCode, StreamError
from forebay.transport.heads import check_trailers, reply_head, request_head

GOOD = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h:1"), (b":path", b"/a?b")]


def changed(name: bytes, value: bytes) -> list[RawField]:
    return [(n, value if n == name else v) for n, v in GOOD]


def test_a_request_is_parsed() -> None:
    # given
    raw = [*GOOD, (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"content-length", b"7")]
    # when
    head = request_head(raw)
    # then
    assert (head.method, head.scheme, head.path, head.authority) == ("GET", "http", "/a?b", "h:1")
    assert head.fields == (("host", "h:1"), ("x-a", "1"), ("content-length", "7"), ("cookie", "a=1; b=2"))
    assert head.content_length == 7


@pytest.mark.parametrize(
    "raw",
    [
        GOOD[1:],
        [GOOD[0], *GOOD[2:]],
        GOOD[:3],
        [*GOOD, GOOD[0]],
        [*GOOD, (b":status", b"200")],
        [*GOOD, (b":new", b"1")],
        [*GOOD[:3], (b"x", b"1"), GOOD[3]],
        [*GOOD, (b"X-Upper", b"1")],
        [*GOOD, (b"a b", b"1")],
        [*GOOD, (b"", b"1")],
        [*GOOD, (b"x", b"a\nb")],
        [*GOOD, (b"x", b"a\0")],
        [*GOOD, (b"x", b" a")],
        [*GOOD, (b"x", b"a\t")],
        [*GOOD, (b"connection", b"close")],
        [*GOOD, (b"transfer-encoding", b"chunked")],
        [*GOOD, (b"upgrade", b"h2c")],
        [*GOOD, (b"te", b"gzip")],
        [*GOOD, (b"content-length", b"-1")],
        [*GOOD, (b"content-length", b"1"), (b"content-length", b"2")],
        [*GOOD, (b"content-length", "١".encode())],
        [*GOOD, (b"host", b"other")],
        [*GOOD, (b"host", b"h:1"), (b"host", b"h:1")],
        changed(b":path", b""),
        changed(b":path", b"a"),
        changed(b":path", b"*"),
        changed(b":path", b"/a b"),
        changed(b":path", b"/a#b"),
        changed(b":path", b"/\xff"),
        changed(b":method", b"GE T"),
        changed(b":method", b"CONNECT"),
    ],
)
def test_a_malformed_request_is_a_stream_error(raw: list[RawField]) -> None:
    with pytest.raises(StreamError) as caught:
        request_head(raw)
    assert caught.value.error_code is ErrorCode.PROTOCOL_ERROR


def test_te_trailers_and_a_repeated_equal_length_are_allowed() -> None:
    head = request_head([*GOOD, (b"te", b"trailers"), (b"content-length", b"3"), (b"content-length", b"3")])
    assert head.content_length == 3


def test_options_star_is_a_path() -> None:
    assert request_head([(b":method", b"OPTIONS"), *GOOD[1:3], (b":path", b"*")]).path == "*"


def test_a_reply_is_parsed_and_repeated_fields_are_joined() -> None:
    # given / when
    head = reply_head([(b":status", b"206"), (b"vary", b"a"), (b"vary", b"b"), (b"content-length", b"0")])
    # then
    assert head.status == 206
    assert dict(head.headers) == {"vary": "a, b", "content-length": "0"}
    assert head.content_length == 0


@pytest.mark.parametrize("status", [b"", b"99", b"600", b"20", b"2000", b"abc", b"101", "２００".encode()])
def test_a_reply_without_a_real_status_is_malformed(status: bytes) -> None:
    with pytest.raises(StreamError):
        reply_head([(b":status", status)])


def test_trailers_have_no_pseudo_fields() -> None:
    check_trailers([(b"x-crc", b"1")])
    with pytest.raises(StreamError):
        check_trailers([(b":status", b"200")])
