"""The data route's path, query, range and header forms."""

from __future__ import annotations

import pytest

from forebay.contracts import BlockTarget
from forebay.contracts.blocks import (
    QUERY_LENGTH_MAX,
    ByteRange,
    block_path,
    block_query,
    format_content_range,
    format_crcs,
    format_range,
    is_block_id,
    parse_block_query,
    parse_content_range,
    parse_crcs,
    parse_range,
    parse_read_type,
)
from forebay.errors import InvalidRequest, PeerMisbehaved, RangeNotSatisfiable

TARGET = BlockTarget(mount_id="m1", key="train/a b+ü&=?#.tfrecord", size=10, fingerprint='W/"x-1"', index=0)
GOOD = "mount_id=m&key=a/b&size=10&fingerprint=f&index=0"


def test_a_path_holds_the_id_and_a_query_that_reads_back() -> None:
    path = block_path("0" * 32, TARGET)
    head, query = path.split("?")
    assert head == "/v1/blocks/" + "0" * 32
    assert query.isascii()
    assert parse_block_query(query) == TARGET


def test_the_longest_key_fits_the_query_limit() -> None:
    wide = BlockTarget(
        mount_id="\U0001f4be" * 255, key="\U0001f4be" * 4096, size=2**63 - 1, fingerprint="\U0001f4be" * 255, index=0
    )
    query = block_query(wide)
    assert len(query) <= QUERY_LENGTH_MAX
    assert parse_block_query(query) == wide


def test_a_key_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        block_query(BlockTarget(mount_id="m", key="a\udcff", size=1, fingerprint="f", index=0))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "mount_id=m",
        GOOD + "&index=1",
        GOOD + "&more=1",
        GOOD.replace("size=10", "size=-1"),
        GOOD.replace("size=10", "size=+1"),
        GOOD.replace("size=10", "size=010"),
        GOOD.replace("size=10", "size=1e3"),
        GOOD.replace("size=10", "size=%D9%A1"),
        GOOD.replace("size=10", "size=" + "9" * 30),
        GOOD.replace("index=0", "index="),
        GOOD.replace("key=a/b", "key="),
        GOOD.replace("key=a/b", "key=%FF"),
        GOOD.replace("key=a/b", "key=" + "a" * 4097),
        GOOD.replace("key=a/b", "key=" + "a" * QUERY_LENGTH_MAX),
        GOOD.replace("mount_id=m", "mount_id=" + "m" * 256),
        GOOD.replace("mount_id=", "mountid="),
        "&".join(["a"] * 1000),
    ],
)
def test_a_query_of_another_form_is_refused(query: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_block_query(query)


def test_only_32_lower_hex_digits_are_a_block_id() -> None:
    assert is_block_id("0123456789abcdef" * 2)
    for wrong in ("", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n", "../" + "0" * 29):
        assert not is_block_id(wrong)


def test_a_range_is_read_as_it_was_written() -> None:
    assert parse_range(format_range(3, 7), 10) == ByteRange(3, 7)
    assert parse_range(None, 10) == ByteRange(0, 10)
    assert parse_range("bytes=9-9", 10).length == 1


@pytest.mark.parametrize(
    "text", ["", "bytes=", "bytes=1-", "bytes=-1", "bytes=1-2,4-5", "bytes = 1-2", "items=1-2", "bytes=01-2"]
)
def test_another_form_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_range(text, 10)


@pytest.mark.parametrize("text", ["bytes=10-10", "bytes=0-10", "bytes=5-4", "bytes=99-100"])
def test_a_range_outside_the_block_is_not_satisfiable(text: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(text, 10)
    assert caught.value.details == {"length": 10}


def test_a_content_range_is_read_as_it_was_written() -> None:
    assert parse_content_range(format_content_range(ByteRange(2, 5), 9)) == (ByteRange(2, 5), 9)


@pytest.mark.parametrize(
    "text", [None, "", "bytes 0-1/*", "bytes 5-4/10", "bytes 0-10/10", "bytes */10", "bytes=0-1/3"]
)
def test_a_peer_with_an_impossible_content_range_misbehaves(text: str | None) -> None:
    with pytest.raises(PeerMisbehaved):
        parse_content_range(text)


def test_a_read_type_is_one_of_three_names() -> None:
    assert parse_read_type(None, "CACHE") == "CACHE"
    assert parse_read_type("NO_CACHE", "CACHE") == "NO_CACHE"
    with pytest.raises(InvalidRequest):
        parse_read_type("no_cache", "CACHE")


def test_checksums_read_back_and_garbage_is_the_peers_fault() -> None:
    assert parse_crcs(format_crcs([0, 0xDEADBEEF, 0xFFFFFFFF])) == (0, 0xDEADBEEF, 0xFFFFFFFF)
    assert parse_crcs(None) == ()
    for wrong in ("", "1", "0000000g", "00000000,", "00000000;11111111", ",".join(["00000000"] * 5000)):
        with pytest.raises(PeerMisbehaved):
            parse_crcs(wrong)
