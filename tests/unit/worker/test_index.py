"""The store index: states, capacity, eviction order."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from forebay_worker.block import CHARGE_UNIT, TRANSITIONS, Block, Event, State
from forebay_worker.extents import Geometry
from forebay_worker.index import Refused, Reserved, StoreIndex
from forebay_worker.policies import Hold, Lru
from forebay_worker.policies.rules import TierRules

MIB = 1 << 20


def index_of(*capacities: int) -> StoreIndex:
    return StoreIndex([(capacity, Lru()) for capacity in capacities])


def filled(index: StoreIndex, block_id: str, length: int = MIB) -> Block:
    outcome = index.reserve(block_id, Geometry(length))
    assert isinstance(outcome, Reserved), outcome
    for extent in range(outcome.block.extents.geometry.count):
        index.landed(outcome.block, extent)
    index.sealed(outcome.block)
    return outcome.block


def state_of(block: Block) -> State:
    return block.state


def test_a_block_goes_from_filling_to_sealed_by_its_last_extent() -> None:
    index = index_of(64 * MIB)
    outcome = index.reserve("a", Geometry(9 * MIB))
    assert isinstance(outcome, Reserved)
    assert [index.landed(outcome.block, extent) for extent in (2, 0, 0, 1)] == [False, False, False, True]
    assert state_of(outcome.block) is State.SEALING
    index.sealed(outcome.block)
    assert state_of(outcome.block) is State.SEALED
    index.validate()


def test_capacity_is_reserved_for_the_whole_block_in_whole_pages() -> None:
    index = index_of(2 * CHARGE_UNIT)
    index.reserve("a", Geometry(1))
    assert index.used(0) == CHARGE_UNIT
    index.reserve("b", Geometry(CHARGE_UNIT))
    assert index.reserve("c", Geometry(1)) == Refused("full")
    index.validate()


def test_the_block_read_longest_ago_leaves_first() -> None:
    index = index_of(3 * MIB)
    for name in "abc":
        filled(index, name)
    index.read("a")
    assert index.reserve("d", Geometry(2 * MIB)) == Refused("full")
    assert index.is_pressed(0)
    assert index.excess(0) == 2 * MIB
    assert [block.block_id for block in index.victims(0, 2 * MIB)] == ["b", "c"]


def test_a_leased_or_busy_block_is_never_a_victim() -> None:
    index = index_of(2 * MIB)
    leased, busy = filled(index, "a"), filled(index, "b")
    index.lease(leased)
    busy.busy += 1
    assert index.reserve("c", Geometry(MIB)) == Refused("full")
    assert index.victims(0, MIB) == ()
    index.release(leased)
    assert index.victims(0, MIB) == (leased,)


def test_a_block_larger_than_every_tier_is_refused_and_evicts_nobody() -> None:
    index = index_of(2 * MIB)
    filled(index, "a")
    assert index.reserve("b", Geometry(3 * MIB)) == Refused("full")


def test_the_next_tier_with_room_is_used_before_anything_is_evicted() -> None:
    index = index_of(MIB, MIB)
    assert filled(index, "a").tier == 0
    assert filled(index, "b").tier == 1
    assert index.reserve("c", Geometry(MIB)) == Refused("full")
    assert [index.is_pressed(tier) for tier in range(2)] == [True, True]
    assert [index.excess(tier) for tier in range(2)] == [MIB - int(MIB * 0.9), MIB]


def test_a_faster_tier_lets_go_of_an_idle_dataset_even_while_another_tier_has_room() -> None:
    index = StoreIndex([(4 * MIB, Hold(4 * MIB, ttl_s=10.0)), (8 * MIB, Hold(8 * MIB, ttl_s=10.0))])
    for name in "abcd":
        index.reserve(name, Geometry(MIB), "old", 0.0)
    outcome = index.reserve("e", Geometry(MIB), "new", 11.0)
    assert isinstance(outcome, Reserved)
    assert outcome.block.tier == 1
    assert [index.is_pressed(tier) for tier in range(2)] == [True, False]
    assert index.excess(0) == MIB


def test_bytes_of_a_leaving_block_count_until_its_last_lease_ends() -> None:
    index = index_of(MIB)
    block = filled(index, "a")
    index.lease(block)
    index.leave(block)
    index.left(block)
    assert index.get("a") is None
    assert index.used(0) == MIB
    assert index.reserve("a", Geometry(MIB)) == Refused("leaving")
    index.validate()
    index.release(block)
    assert index.used(0) == 0
    assert isinstance(index.reserve("a", Geometry(MIB)), Reserved)


def test_a_tier_out_of_service_takes_nothing_until_it_returns() -> None:
    index = index_of(MIB)
    index.retire(0)
    assert index.reserve("a", Geometry(1)) == Refused("full")
    index.return_to_service(0)
    assert isinstance(index.reserve("a", Geometry(1)), Reserved)


def test_what_does_not_fit_is_not_restored() -> None:
    index = index_of(MIB)
    assert index.restore("a", MIB, 0) is not None
    assert index.restore("b", 1, 0) is None
    assert index.restore("a", 1, 0) is None
    assert index.counts()[State.SEALED] == 1
    index.validate()


def test_above_the_high_watermark_the_excess_reaches_down_to_the_low_one() -> None:
    index = index_of(10 * MIB)
    index.set_rules(0, TierRules(high=0.9, low=0.5))
    for number in range(9):
        filled(index, str(number))
    assert not index.is_pressed(0)
    assert index.excess(0) == 0
    filled(index, "9")
    assert index.is_pressed(0)
    assert index.excess(0) == 5 * MIB
    assert [b.block_id for b in index.victims(0, 5 * MIB)] == ["0", "1", "2", "3", "4"]


def test_a_spare_copy_takes_only_room_beyond_the_reserved_bytes_and_presses_nobody() -> None:
    index = index_of(10 * MIB)
    index.set_rules(0, TierRules(reserved_bytes=8 * MIB))
    assert isinstance(index.reserve("a", Geometry(2 * MIB), is_spare=True), Reserved)
    assert index.reserve("b", Geometry(1), is_spare=True) == Refused("reserved")
    assert not index.is_pressed(0)
    assert isinstance(index.reserve("c", Geometry(MIB)), Reserved)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_of_state_and_event_is_a_move_or_an_error(state: State, event: Event) -> None:
    index = index_of(MIB)
    block = filled(index, "a")
    block.state = state
    acts: dict[Event, Callable[[], object]] = {
        Event.COMPLETE: lambda: index.landed(block, 0),
        Event.SEAL: lambda: index.sealed(block),
        Event.LEAVE: lambda: index.leave(block),
    }
    act = acts[event]
    if (state, event) in TRANSITIONS:
        act()
        assert block.state is TRANSITIONS[state, event]
    elif event is Event.COMPLETE:
        assert act() is False
        assert block.state is state
    else:
        with pytest.raises(ValueError, match="while"):
            act()


@pytest.mark.parametrize("crcs", [(), (0xFFFFFFFF, 0, 7)])
def test_a_sealed_block_that_nobody_holds_is_known_by_all_that_matters(crcs: tuple[int, ...]) -> None:
    index = index_of(1 << 44, 1 << 44)
    index.restore("a", 9 * MIB + 1, 1, dataset="m1", crcs=crcs)
    again = index.get("a")
    assert again is not None
    found = (again.block_id, again.length, again.tier, again.dataset, again.state, again.crcs)
    assert found == ("a", 9 * MIB + 1, 1, "m1", State.SEALED, crcs)
    assert again.extents.is_full
    assert index.get("a") is again
    index.validate()


def test_checksums_of_large_blocks_are_left_to_their_sidecars() -> None:
    index = index_of(1 << 44)
    index.restore("a", 64 * MIB, 0, crcs=tuple(range(16)))
    again = index.get("a")
    assert again is not None
    assert again.crcs == ()


def test_bytes_and_blocks_are_counted_by_mount() -> None:
    index = index_of(64 * MIB)
    for name, dataset in (("a", "m1"), ("b", "m1"), ("c", "m2")):
        index.restore(name, MIB, 0, dataset=dataset)
    gone = index.get("a")
    assert gone is not None
    index.leave(gone)
    assert {name: (held.blocks, held.used_bytes) for name, held in index.mounts(0).items()} == {
        "m1": (1, MIB),
        "m2": (1, MIB),
    }


def test_a_moved_block_counts_in_both_tiers_until_the_old_file_is_gone() -> None:
    index = index_of(2 * MIB, 2 * MIB)
    block = filled(index, "a")
    assert index.begin_move(block, 1)
    assert (index.used(0), index.used(1)) == (MIB, MIB)
    ghost = index.end_move(block)
    assert (block.tier, index.used(0), index.used(1)) == (1, MIB, MIB)
    index.leave(block)
    index.left(block)
    assert index.reserve("a", Geometry(MIB)) == Refused("leaving")
    index.left(ghost)
    assert (index.used(0), index.used(1)) == (0, 0)
    assert isinstance(index.reserve("a", Geometry(MIB)), Reserved)
    index.validate()


def test_a_block_is_not_moved_where_there_is_no_room() -> None:
    index = index_of(2 * MIB, MIB // 2)
    block = filled(index, "a")
    assert not index.begin_move(block, 1)
    assert not index.begin_move(block, 0)
    assert block.is_evictable


def test_room_for_what_is_about_to_come_is_asked_of_the_slowest_tier_if_none_has_it() -> None:
    index = index_of(2 * MIB, 4 * MIB)
    for name in "abcdef":
        filled(index, name)
    leaving = index.get("c")
    assert leaving is not None
    assert leaving.tier == 1
    index.leave(leaving)

    assert not index.ask_room(0)
    assert not index.ask_room(MIB)  # what leaves gives as much
    assert index.ask_room(3 * MIB)

    assert index.excess(1) == 2 * MIB
    index.left(leaving)
    assert index.ask_room(9 * MIB)
    assert index.excess(1) == 3 * MIB
    index.validate()
