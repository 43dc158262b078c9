"""Identities: fixed for ever by their inputs, and different when any input differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts.identity import block_count, block_id, block_length, inode_number, ufs_id, version_id

UFS = ufs_id("s3", "http://127.0.0.1:9000", "bucket")
VERSION = version_id(UFS, "train/ä b.tfrecord", '"etag-1"')


def test_identities_never_change() -> None:
    """A restarted cluster finds its cache by these: a change here makes every cache cold."""
    assert UFS == "3f6a6dc79e46b7624e0646589ac37832"
    assert VERSION == "b3af80d43121fbaba7afa184fd1aa1bc"
    assert block_id(VERSION, 256 << 20, 0) == "b75e295b657916717b13bb412be9652d"
    assert block_id(VERSION, 256 << 20, 1) == "fcd2e5ab2c12d07580159c35c7de623d"
    assert inode_number("/imagenet", "train/ä b.tfrecord") == 4829513396502013963


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3))
def test_moving_text_from_one_part_to_the_next_makes_another_identity(parts: list[str]) -> None:
    a, b, c = parts
    moved = (a + b[:1], b[1:], c)

    assert (ufs_id(*moved) == ufs_id(a, b, c)) == (moved == (a, b, c))


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_each_block_has_an_id_of_its_own(i: int, j: int) -> None:
    assert (block_id(VERSION, 4 << 20, i) == block_id(VERSION, 4 << 20, j)) == (i == j)


def test_the_block_size_is_part_of_the_identity() -> None:
    assert block_id(VERSION, 4 << 20, 0) != block_id(VERSION, 8 << 20, 0)


def test_kinds_do_not_share_ids() -> None:
    assert version_id(UFS, "", "") != block_id(UFS, 0, 0)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_an_inode_is_a_positive_63_bit_number_above_the_root(path: str, key: str) -> None:
    assert 2 <= inode_number(path, key) < 1 << 63


@given(st.integers(0, 1 << 44), st.integers(1, 1 << 34))
def test_blocks_cover_a_file_exactly(size: int, block_size: int) -> None:
    count = block_count(size, block_size)

    assert (count == 0) == (size == 0)
    if count:
        assert block_length(size, block_size, 0) == min(size, block_size)
        assert (count - 1) * block_size + block_length(size, block_size, count - 1) == size
        assert block_length(size, block_size, count - 1) > 0
    assert block_length(size, block_size, count) == 0


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_the_last_block_may_be_short(size: int, count: int) -> None:
    assert block_count(size, 4) == count
