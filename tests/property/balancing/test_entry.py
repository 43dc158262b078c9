"""The five location policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pytest

from forebay.balancing import Surroundings, entry_worker, entry_workers, ranking
from forebay.balancing.entry import LocationPolicy
from forebay.contracts import Member
from forebay.contracts.records import MemberState

BLOCKS = [f"{number:032x}" for number in range(400)]
LOCAL_POLICIES: tuple[LocationPolicy, ...] = ("local-first", "local-first-avoid-eviction")


def worker(name: str, *, state: MemberState = "live", available_bytes: int = 0) -> Member:
    return Member(member_id=name, role="worker", tcp=f"{name}:1", state=state, available_bytes=available_bytes)


MEMBERS = [worker("a", available_bytes=10), worker("b", available_bytes=30), worker("c", available_bytes=20)]


def entry(
    policy: LocationPolicy,
    block: str = BLOCKS[0],
    members: list[Member] = MEMBERS,
    *,
    local: Collection[str] = (),
    turn: int = 0,
    reserved_bytes: int = 0,
) -> str:
    surroundings = Surroundings(local, turn, reserved_bytes)
    found = entry_worker(policy, ranking(block, members, 9), entry_workers(members), surroundings)
    return found.member_id if found is not None else "home"


def test_deterministic_hash_asks_the_home_whoever_is_near() -> None:
    assert {entry("deterministic-hash", block, local={"a", "b"}) for block in BLOCKS} == {"home"}


@pytest.mark.parametrize("policy", LOCAL_POLICIES)
def test_local_first_asks_the_worker_of_this_host_and_without_one_the_home(policy: LocationPolicy) -> None:
    assert {entry(policy, block, local={"b"}) for block in BLOCKS} == {"b"}
    assert {entry(policy, block, local={"elsewhere"}) for block in BLOCKS} == {"home"}


def test_of_two_workers_on_this_host_the_one_that_ranks_higher_is_asked() -> None:
    for block in BLOCKS[:50]:
        first = next(m for m in ranking(block, MEMBERS, 3) if m.member_id in {"a", "c"})
        assert entry("local-first", block, local={"a", "c"}) == first.member_id


def test_avoid_eviction_leaves_a_worker_alone_that_has_no_more_than_the_reserved_bytes_free() -> None:
    policy: LocationPolicy = "local-first-avoid-eviction"
    assert entry(policy, local={"a"}, reserved_bytes=9) == "a"
    assert entry(policy, local={"a"}, reserved_bytes=10) == "home"
    assert entry(policy, local={"a", "b"}, reserved_bytes=15) == "b"
    assert entry("local-first", local={"a"}, reserved_bytes=1000) == "a"


def test_round_robin_gives_each_worker_its_turn() -> None:
    assert Counter(entry("round-robin", turn=turn) for turn in range(300)) == {"a": 100, "b": 100, "c": 100}


def test_most_available_asks_who_has_most_room_and_breaks_ties_by_ranking() -> None:
    assert {entry("most-available", block) for block in BLOCKS} == {"b"}
    equal = [worker(name) for name in "abc"]
    for block in BLOCKS[:50]:
        assert entry("most-available", block, equal) == ranking(block, equal, 1)[0].member_id


@pytest.mark.parametrize("policy", [*LOCAL_POLICIES, "round-robin", "most-available"])
def test_down_and_joining_workers_and_masters_are_no_entry_and_draining_ones_are(policy: LocationPolicy) -> None:
    members = [
        worker("a", state="down", available_bytes=99),
        worker("b", state="joining", available_bytes=99),
        worker("d", state="draining", available_bytes=1),
        Member(member_id="m", role="master", tcp="m:1", available_bytes=99),
    ]
    everyone = {m.member_id for m in members}
    assert {entry(policy, block, members, local=everyone, turn=i) for i, block in enumerate(BLOCKS[:9])} == {"d"}
    assert entry(policy, members=[]) == "home"
