"""Long bodies are parsed another way than short ones, with the same results."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forebay.contracts import Entry, Layout, ListReply
from forebay.contracts.codec import LONG, decode, encode
from forebay.errors import InvalidRequest


def listing(count: int) -> ListReply:
    def entry(number: int) -> Entry:
        name = f"ümläut-{number}"
        layout = Layout(key=name, size=number, fingerprint="f", version_id=f"{number:032x}", block_size=1 << 62)
        return Entry(name=name, kind="file", inode=number + 1, mode=0o444, mtime_ns=-number, size=number, layout=layout)

    entries = tuple(entry(number) for number in range(count))
    return ListReply(entries=entries, mount_id="m", next_page_token="t", synced_at_s=1.5, valid_s=None)


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_a_listing_comes_out_as_it_went_in_whatever_its_length(count: int) -> None:
    data = encode(listing(count))
    assert (len(data) > LONG) == (count == 1000)
    assert decode(ListReply, data) == listing(count)
    assert decode(ListReply, memoryview(bytearray(data))) == listing(count)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data.replace(b'"inode":1,', b'"inode":0,'),
        lambda data: data.replace(b'"inode":1,', b'"inode":"1",'),
        lambda data: data.replace(b'"inode":1,', b'"node":1,'),
        lambda data: data.replace(b"\xc3", b"\xff", 1),
        lambda data: b"[" * len(data),
        lambda data: data + b"x",
    ],
)
def test_a_bad_body_is_refused_whatever_its_length(change: Callable[[bytes], bytes]) -> None:
    for count in (3, 1000):
        with pytest.raises(InvalidRequest):
            decode(ListReply, change(encode(listing(count))))
