"""Where reads go, and who is home."""

from __future__ import annotations

import itertools

import pytest

from forebay.contracts import ClusterMap, Member
from forebay_worker.handlers import serving_weight
from forebay_worker.routing import SUSPECT_S, Homes, ReadOptions, Route, route

BLOCKS = [f"{number:032x}" for number in range(200)]


def a_map(*members: Member) -> ClusterMap:
    return ClusterMap(cluster_id="c", epoch=1, revision=1, members=members)


def worker(name: str, state: str = "live") -> Member:
    return Member(member_id=name, role="worker", tcp=f"{name}:1", state=state)  # type: ignore[arg-type]  # a literal


@pytest.mark.parametrize(
    ("here", "fitting", "elsewhere", "passive", "cached", "no_cache"), list(itertools.product([False, True], repeat=6))
)
def test_every_combination_has_its_route(
    here: bool, fitting: bool, elsewhere: bool, passive: bool, cached: bool, no_cache: bool
) -> None:
    options = ReadOptions("NO_CACHE" if no_cache else "CACHE", only_if_cached=cached)
    way = route(options, is_here=here, is_fitting=fitting, has_home_elsewhere=elsewhere, passive=passive)
    if here and fitting:
        assert way is Route.TIER
    elif cached:
        assert way is Route.NOT_CACHED
    elif no_cache or not fitting or (elsewhere and not passive):
        assert way is Route.THROUGH
    else:
        assert way is Route.FILL


def test_each_block_has_one_home_among_the_workers() -> None:
    cluster_map = a_map(worker("a"), worker("b"), worker("c"))
    seen = {name: Homes(name, lambda: 0.0) for name in "abc"}
    for homes in seen.values():
        homes.see(cluster_map)
    for block in BLOCKS:
        found = {name: homes.elsewhere(block) for name, homes in seen.items()}
        home = next(name for name, member in found.items() if member is None)
        assert {member.member_id for member in found.values() if member is not None} == {home}


def test_without_a_map_nobody_else_is_home() -> None:
    assert Homes("a", lambda: 0.0).elsewhere(BLOCKS[0]) is None


def test_a_home_that_is_down_or_failed_lately_is_skipped() -> None:
    now = 0.0
    homes = Homes("a", lambda: now)
    homes.see(a_map(worker("a"), worker("b")))
    block = next(block for block in BLOCKS if homes.elsewhere(block) is not None)
    homes.suspect("b")
    assert homes.elsewhere(block) is None
    now = SUSPECT_S
    assert homes.elsewhere(block) is not None
    homes.see(a_map(worker("a"), worker("b", "down")))
    assert homes.elsewhere(block) is None


def test_the_next_in_ranking_stands_in_for_a_home_that_is_down() -> None:
    homes = Homes("a", lambda: 0.0)
    homes.see(a_map(worker("a"), worker("b", "down"), worker("c")))
    stand_ins = {member.member_id if (member := homes.elsewhere(block)) else "a" for block in BLOCKS}
    assert stand_ins == {"a", "c"}


def test_the_serving_weight_falls_with_the_reads_in_flight() -> None:
    weights = [serving_weight(count) for count in (0, 1, 16, 1000)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 1.0
    assert all(0 < weight <= 1 for weight in weights)
