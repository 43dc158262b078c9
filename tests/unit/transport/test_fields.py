"""Header blocks: what we send is HPACK to others, and what is remembered means the same as what was decoded."""

from __future__ import annotations

import hpack
import pytest

from forebay.errors import InternalError
from forebay.transport.fields import (
    CACHED_FIELDS_MAX,
    MEMO_BLOCKS_MAX,
    TABLE_SIZE_ZERO,
    FieldEncoder,
    HeadDecoder,
    Memo,
    RawField,
    encode_field,
)
from forebay.transport.frames import ErrorCode, ProtocolError


def as_tuples(raw: list[RawField]) -> tuple[RawField, ...]:
    return tuple((bytes(name), bytes(value)) for name, value in raw)


def decoder(memo: Memo[tuple[RawField, ...]] | None = None) -> HeadDecoder[tuple[RawField, ...]]:
    return HeadDecoder(as_tuples, memo or Memo(), 1 << 15)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (":method", "GET"),
        (":status", "206"),
        (":path", "/v1/blocks/0?x=" + "y" * 300),
        ("content-type", "application/json"),
        ("forebay-ticket", "v1.k.p.s"),
        ("x-empty", ""),
        ("accept-encoding", "gzip, deflate"),
        ("x-utf8", "schön"),
    ],
)
def test_every_field_decodes_to_itself_by_another_library(name: str, value: str) -> None:
    # given / when
    decoded = hpack.Decoder().decode(encode_field(name, value), raw=True)
    # then
    assert [tuple(field) for field in decoded] == [(name.encode(), value.encode())]


def test_names_are_sent_in_lower_case() -> None:
    assert encode_field("Content-Type", "a/b") == encode_field("content-type", "a/b")


@pytest.mark.parametrize("name", ["Connection", "transfer-encoding", "Keep-Alive", "upgrade", "te", "proxy-connection"])
def test_fields_of_an_http_1_connection_are_never_sent(name: str) -> None:
    assert encode_field(name, "anything") == b""


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0b"])
def test_a_value_that_would_become_another_field_is_refused(value: str) -> None:
    with pytest.raises(InternalError):
        encode_field("x", value)


@pytest.mark.parametrize("name", ["", "a b", "a\x00", "ä"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(InternalError):
        encode_field(name, "x")


def test_secrets_are_marked_as_never_indexed() -> None:
    for name in ("authorization", "forebay-ticket", "cookie", "set-cookie"):
        assert encode_field(name, "secret")[0] & 0xF0 == 0x10


def test_the_encoder_gives_the_same_bytes_from_its_cache() -> None:
    # given
    encoder, fields = FieldEncoder(), [(":status", "200"), ("Date", "now"), ("x", "")]
    # when
    first = encoder.encode(fields)
    # then
    assert encoder.encode(fields) == first == b"".join(encode_field(*field) for field in fields)


def test_the_encoders_cache_is_bounded() -> None:
    encoder = FieldEncoder()
    for number in range(CACHED_FIELDS_MAX + 100):
        encoder.encode([("x", str(number))])
    assert len(encoder._cache) <= CACHED_FIELDS_MAX


def test_a_block_is_remembered_only_when_no_table_is_involved() -> None:
    # given a memo, and a peer that still has a dynamic table
    memo: Memo[tuple[RawField, ...]] = Memo()
    theirs = hpack.Encoder()
    ours = decoder(memo)
    # when it sends the same fields twice, the second time as one index
    first, second = theirs.encode([("x-a", "1")]), theirs.encode([("x-a", "1")])
    assert ours.head(first) == ours.head(second) == ((b"x-a", b"1"),)
    # then nothing is remembered
    assert first != second
    assert not memo.blocks
    # and when it gives its table up, blocks are
    block = encode_field("x-a", "1")
    ours.head(TABLE_SIZE_ZERO + block)
    ours.head(block)
    assert list(memo.blocks) == [block]


def test_a_remembered_block_is_not_parsed_again() -> None:
    # given
    parsed: list[int] = []
    memo: Memo[int] = Memo()
    ours = HeadDecoder(lambda raw: parsed.append(len(raw)) or len(parsed), memo, 1 << 15)  # type: ignore[func-returns-value]  # append gives None, which is the point
    ours.head(TABLE_SIZE_ZERO)
    block = encode_field("a", "b")
    # when
    results = [ours.head(block) for _ in range(3)]
    # then
    assert results == [2, 2, 2]


def test_the_memo_is_bounded() -> None:
    memo: Memo[int] = Memo()
    for number in range(MEMO_BLOCKS_MAX + 10):
        memo.put(str(number).encode(), number)
    memo.put(b"x" * 10_000, 0)
    assert len(memo.blocks) <= MEMO_BLOCKS_MAX
    assert b"x" * 10_000 not in memo.blocks


def test_after_the_agreement_a_table_is_an_error() -> None:
    ours = decoder()
    ours.size_agreed()
    with pytest.raises(ProtocolError) as caught:
        ours.head(encode_field("a", "b"))
    assert caught.value.error_code is ErrorCode.COMPRESSION_ERROR


def test_a_block_that_is_no_hpack_is_a_compression_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        decoder().head(b"\xff\xff\xff\xff\xff")
    assert caught.value.error_code is ErrorCode.COMPRESSION_ERROR


def test_a_list_above_the_limit_is_refused_before_it_is_inflated() -> None:
    with pytest.raises(ProtocolError) as caught:
        decoder().head(b"\x82" * 4096)
    assert caught.value.error_code is ErrorCode.ENHANCE_YOUR_CALM
