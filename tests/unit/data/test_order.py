"""Shards and records are split and shuffled without overlap and without loss."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.data.order import Part, file_order, shard_order, share, window_order
from forebay.errors import InvalidRequest

NAMES = [f"shard-{n}" for n in range(23)]


@given(world=st.integers(1, 9), workers=st.integers(1, 5), epoch=st.integers(0, 9), count=st.integers(1, 40))
def test_every_shard_is_read_by_exactly_one_worker_of_one_rank(
    world: int, workers: int, epoch: int, count: int
) -> None:
    order = shard_order([f"s{n}" for n in range(count)], seed=1, epoch=epoch)

    parts = [Part(r, world, w, workers) for r in range(world) for w in range(workers)]
    read = Counter(name for part in parts for name in share(order, part))

    assert read == Counter(order)


@given(world=st.integers(1, 9), count=st.integers(0, 60))
def test_every_file_is_read_by_exactly_one_rank(world: int, count: int) -> None:
    read = [n for r in range(world) for n in file_order(count, seed=3, epoch=2, part=Part(r, world))]

    assert sorted(read) == list(range(count))


def test_the_order_depends_on_seed_and_epoch_and_not_on_how_shards_were_listed() -> None:
    first = shard_order(NAMES, seed=1, epoch=0)

    assert first == shard_order(list(reversed(NAMES)), seed=1, epoch=0)
    assert first != shard_order(NAMES, seed=1, epoch=1)
    assert first != shard_order(NAMES, seed=2, epoch=0)
    assert shard_order(NAMES, seed=1, epoch=0, is_shuffled=False) == sorted(NAMES)


def test_the_order_is_the_same_in_every_release() -> None:
    assert shard_order(["a", "b", "c", "d"], seed=7, epoch=3) == ["d", "a", "b", "c"]
    assert window_order(5, seed=7, epoch=3, shard="a", first=0) == [2, 1, 0, 3, 4]


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_its_world_is_refused(rank: int, world: int) -> None:
    with pytest.raises(InvalidRequest, match=f"rank {rank}"):
        Part(rank, world)


def test_a_worker_outside_its_number_and_a_shard_named_twice_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="worker 3"):
        Part(0, 1, 3, 3)
    with pytest.raises(InvalidRequest, match="twice"):
        shard_order(["a", "a"], seed=0, epoch=0)
