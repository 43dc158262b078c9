"""Where reads go, and who is home."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from forebay.balancing import ranking
from forebay.contracts import ClusterMap, Member
from forebay.contracts.records import MemberState
from forebay_worker.routing import SUSPECT_S, Homes, ReadOptions, Route, SecondReads, Upstream, route

BLOCKS = [f"{number:032x}" for number in range(200)]


def a_map(*members: Member, epoch: int = 1) -> ClusterMap:
    return ClusterMap(cluster_id="c", epoch=epoch, revision=epoch, members=members)


def worker(name: str, state: MemberState = "live") -> Member:
    return Member(member_id=name, role="worker", tcp=f"{name}:1", state=state)


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


def homes_of(name: str, cluster_map: ClusterMap, *history: ClusterMap) -> Homes:
    homes = Homes(name, lambda: 0.0)
    homes.see(cluster_map, history)
    return homes


def names(members: Sequence[Member]) -> list[str]:
    return [member.member_id for member in members]


def test_each_block_has_one_home_among_the_workers() -> None:
    cluster_map = a_map(worker("a"), worker("b"), worker("c"))
    seen = {name: homes_of(name, cluster_map) for name in "abc"}
    for block in BLOCKS:
        found = {name: homes.upstream(block).home for name, homes in seen.items()}
        home = next(name for name, member in found.items() if member is None)
        assert {member.member_id for member in found.values() if member is not None} == {home}


def test_without_a_map_nobody_else_is_asked() -> None:
    assert Homes("a", lambda: 0.0).upstream(BLOCKS[0]) == Upstream()


def test_a_home_that_is_down_or_failed_lately_is_skipped() -> None:
    now = 0.0
    homes = Homes("a", lambda: now)
    homes.see(a_map(worker("a"), worker("b")))
    block = next(block for block in BLOCKS if homes.upstream(block).home is not None)
    homes.failed("b")
    assert homes.upstream(block).home is None
    now = SUSPECT_S
    assert homes.upstream(block).home is not None
    homes.see(a_map(worker("a"), worker("b", "down")))
    assert homes.upstream(block).home is None


def test_the_next_in_ranking_stands_in_for_a_home_that_is_down() -> None:
    homes = homes_of("a", a_map(worker("a"), worker("b", "down"), worker("c")))
    stand_ins = {member.member_id if (member := homes.upstream(block).home) else "a" for block in BLOCKS}
    assert stand_ins == {"a", "c"}


def test_a_home_probes_who_was_home_before_and_then_the_next_in_ranking() -> None:
    # given: "d" joined, and took its blocks from the three that were there
    before, now = a_map(*map(worker, "abc")), a_map(*map(worker, "abcd"), epoch=2)
    newcomer = homes_of("d", now, before)
    taken = [block for block in BLOCKS if newcomer.upstream(block).home is None]
    assert taken
    for block in taken:
        ranked, earlier = names(ranking(block, now.members, 4)), names(ranking(block, before.members, 1))
        # then: the former home first; it is the next in ranking as well
        assert names(newcomer.upstream(block).probes) == earlier == ranked[1:2]


def test_a_former_home_that_is_not_next_in_ranking_is_probed_too() -> None:
    # given: "d" was home, then drained; it still holds its blocks
    before, now = a_map(*map(worker, "abcd")), a_map(*map(worker, "abc"), worker("d", "draining"), epoch=2)
    probes = {
        tuple(names(homes_of(name, now, before).upstream(block).probes))
        for block in BLOCKS
        if ranking(block, before.members, 1)[0].member_id == "d"
        for name in names(ranking(block, now.members, 1))
    }
    assert probes
    assert all(len(found) == 2 and found[0] == "d" for found in probes)


def test_a_former_home_is_found_over_several_maps_and_a_gone_one_is_left() -> None:
    third = a_map(*map(worker, "ab"), epoch=3)
    first, second = a_map(*map(worker, "abz")), a_map(*map(worker, "ab"), epoch=2)
    block = next(b for b in BLOCKS if ranking(b, first.members, 1)[0].member_id == "z")
    home = ranking(block, third.members, 1)[0].member_id
    # "z" is in no map any more, so only the next in ranking is left
    assert (
        names(homes_of(home, third, second, first).upstream(block).probes)
        == names(ranking(block, third.members, 2))[1:]
    )
    back = a_map(*map(worker, "ab"), worker("z", "draining"), epoch=3)
    assert names(homes_of(home, back, second, first).upstream(block).probes)[0] == "z"


def test_a_probe_in_vain_is_remembered_until_the_map_changes() -> None:
    cluster_map = a_map(worker("a"), worker("b"))
    homes = homes_of("a", cluster_map)
    homes.upstream(BLOCKS[0])
    homes.lacks("b", BLOCKS[0])
    assert homes.is_known_to_lack("b", BLOCKS[0])
    assert not homes.is_known_to_lack("b", BLOCKS[1])
    homes.see(cluster_map)
    assert not homes.is_known_to_lack("b", BLOCKS[0])


def test_a_stand_in_probes_the_home_in_whose_place_it_is_asked_before_anybody_else() -> None:
    cluster_map = a_map(*map(worker, "abc"))
    for block in BLOCKS[:20]:
        first, second, third = names(ranking(block, cluster_map.members, 3))
        stand_in = homes_of(second, cluster_map)
        way = stand_in.upstream(block, is_hop=True)
        assert (names(way.probes), way.ahead) == ([first, third], way.probes[0])
        # a home is ahead of nobody, and one that failed is left alone
        assert homes_of(first, cluster_map).upstream(block, is_hop=True).ahead is None
        stand_in.failed(first)
        assert names(stand_in.upstream(block, is_hop=True).probes) == [third]


def test_only_a_home_that_is_asked_directly_may_offer_the_block_to_the_second() -> None:
    cluster_map = a_map(*map(worker, "abc"))
    for block in BLOCKS[:20]:
        first, second, third = names(ranking(block, cluster_map.members, 3))
        offered = homes_of(first, cluster_map).upstream(block).second
        assert offered is not None
        assert offered.member_id == second
        assert homes_of(first, cluster_map).upstream(block, is_hop=True).second is None
        for other in (second, third):
            for is_hop in (False, True):
                assert homes_of(other, cluster_map).upstream(block, is_hop=is_hop).second is None


def test_a_replica_owns_the_block_and_reads_it_through_its_home() -> None:
    cluster_map = a_map(*map(worker, "abc"))
    for block in BLOCKS[:20]:
        first, second, third = names(ranking(block, cluster_map.members, 3))
        way = homes_of(second, cluster_map).upstream(block, replicas=2)
        assert way.home is not None
        assert (way.home.member_id, way.is_owner) == (first, True)
        assert not homes_of(third, cluster_map).upstream(block, replicas=2).is_owner
        assert homes_of(first, cluster_map).upstream(block, replicas=2).is_owner


def test_a_second_read_is_one_of_an_extent_that_was_read_before() -> None:
    reads = SecondReads(blocks_max=2)
    assert not reads.is_second("a", range(0, 2))
    assert not reads.is_second("a", range(2, 4))
    assert reads.is_second("a", range(3, 5))
    assert reads.is_second("a", range(4, 5))
    assert not reads.is_second("b", range(1))
    assert not reads.is_second("c", range(1))
    assert not reads.is_second("a", range(1))  # forgotten: two blocks are remembered
