"""TFRecord framing: any pieces give the same records, and broken ones are named by file and offset."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.data.errors import BrokenRecord
from forebay.data.tfrecord import HEADER, Splitter, frame

RECORDS = [b"", b"a", b"bc" * 500, b"d" * 33]
SHARD = b"".join(map(frame, RECORDS))


def split(data: bytes, cuts: list[int], *, checks: bool = True) -> list[tuple[int, bytes]]:
    splitter = Splitter("x.tfrecord", checks=checks)
    edges = [0, *sorted(cuts), len(data)]
    found = [r for a, b in pairwise(edges) for r in splitter.feed(memoryview(data)[a:b])]
    splitter.finish()
    return found


@given(st.lists(st.integers(0, len(SHARD)), max_size=40))
def test_however_a_shard_is_cut_its_records_come_out_with_their_offsets(cuts: list[int]) -> None:
    found = split(SHARD, cuts)

    assert [data for _, data in found] == RECORDS
    assert all(SHARD[offset:].startswith(frame(data)) for offset, data in found)


def test_the_framing_is_that_of_tensorflow() -> None:
    # computed by hand from the format's description: length 1, and CRC32C("a") = 0xc1d04330
    assert frame(b"a")[:8] == b"\x01" + bytes(7)
    assert frame(b"a")[-4:] == ((((0xC1D04330 >> 15) | (0xC1D04330 << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(
        4, "little"
    )


@given(st.integers(0, len(SHARD) - 1), st.integers(0, 7), st.lists(st.integers(0, len(SHARD)), max_size=5))
def test_a_flipped_bit_is_never_taken_for_data(place: int, bit: int, cuts: list[int]) -> None:
    broken = bytearray(SHARD)
    broken[place] ^= 1 << bit

    with pytest.raises(BrokenRecord, match=r"x\.tfrecord: .* at byte \d+") as caught:
        split(bytes(broken), cuts)

    assert int(str(caught.value.details["offset"])) <= place


@given(st.integers(1, len(SHARD) - 1))
def test_a_shard_that_is_cut_off_is_broken_unless_it_ends_with_a_record(length: int) -> None:
    ends = {sum(len(frame(r)) for r in RECORDS[:n]) for n in range(len(RECORDS) + 1)}

    if length in ends:
        split(SHARD[:length], [])
    else:
        with pytest.raises(BrokenRecord, match="ends inside"):
            split(SHARD[:length], [])


def test_without_checks_only_the_framing_is_looked_at() -> None:
    broken = bytearray(SHARD)
    broken[len(frame(b"")) + HEADER.size] ^= 1

    assert len(split(bytes(broken), [], checks=False)) == len(RECORDS)
    with pytest.raises(BrokenRecord, match="checksum of the record"):
        split(bytes(broken), [])


def test_a_length_that_no_record_has_is_refused_before_memory_is_taken_for_it() -> None:
    huge = frame(b"").replace(bytes(8), (1 << 40).to_bytes(8, "little"), 1)

    with pytest.raises(BrokenRecord, match="at byte 0"):
        split(huge, [])


def test_a_record_that_lies_in_many_pieces_is_not_copied_anew_with_each_of_them() -> None:
    piece, data = 2000, frame(b"x" * 40_000_000)  # with a copy for each piece that would be 400 GB
    splitter, began = Splitter("x.tfrecord"), time.monotonic()

    found = [r for at in range(0, len(data), piece) for r in splitter.feed(memoryview(data)[at : at + piece])]

    assert [len(record) for _, record in found] == [40_000_000]
    assert time.monotonic() - began < 15
