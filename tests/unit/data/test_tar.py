"""Tar shards: grouped by name, and never silently short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forebay.data.errors import BrokenRecord
from forebay.data.tar import KEY, Sample, samples
from tests.unit.data.kit import tar_bytes


def read(data: bytes, piece: int = 1000) -> list[Sample]:
    def pieces() -> Iterator[memoryview]:
        for at in range(0, len(data), piece):
            yield memoryview(data)[at : at + piece]

    return list(samples("x.tar", pieces()))


@pytest.mark.parametrize("piece", [1, 511, 512, 100_000])
def test_files_that_share_a_name_are_one_sample(piece: int) -> None:
    found = read(tar_bytes(9), piece)

    assert [s[KEY] for s in found] == [f"train/{n:04}" for n in range(9)]
    assert found[8] == {KEY: "train/0008", "jpg": b"\x08" * 808, "cls.txt": b"8"}


def test_names_longer_than_a_header_are_whole() -> None:
    assert read(tar_bytes(2, long_names=True))[1][KEY] == "train/" + "long-" * 40 + "0001"


@pytest.mark.parametrize("length", [100, 512, 5 * 512, 4000])
def test_a_shard_that_is_cut_off_is_broken(length: int) -> None:
    with pytest.raises(BrokenRecord, match=r"x\.tar: the shard is cut off at byte"):
        read(tar_bytes(9)[:length])


def test_a_flipped_bit_in_a_header_is_named_by_its_offset() -> None:
    data = bytearray(tar_bytes(9))
    data[3 * 512 + 3] ^= 1  # the third header: two headers and one block before it

    with pytest.raises(BrokenRecord, match=r"no tar header .* at byte 1536"):
        read(bytes(data))
