"""Pins, times to live, quotas, and what goes first: rules of mounts over any policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench.simulator import nobody
from forebay_worker.policies import POLICIES, Hold, Lru, PolicyName
from forebay_worker.policies.governed import Governed
from forebay_worker.policies.ledger import Ledger, MountRules
from forebay_worker.policies.protocol import Admission
from forebay_worker.policies.versions import Versions

SIZE = 4096
ALL = 1 << 40


def governed(policy: PolicyName = "lru", blocks: int = 10, **rules: MountRules) -> tuple[Governed, Ledger]:
    ledger = Ledger()
    ledger.set_rules({"a": MountRules(), "b": MountRules()} | rules)
    made = Governed(POLICIES[policy](blocks * SIZE), ledger)
    made.rules_changed()
    return made, ledger


def fill(policy: Governed, dataset: str, count: int, now_s: float = 0.0) -> None:
    for number in range(count):
        policy.inserted(f"{dataset}{number}", SIZE, dataset, now_s)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_pinned_blocks_are_never_victims(name: PolicyName) -> None:
    policy, _ = governed(name, a=MountRules(is_pinned=True))
    fill(policy, "a", 5)
    fill(policy, "b", 5)
    assert sorted(policy.victims(ALL, 1e6, busy=nobody)) == [f"b{number}" for number in range(5)]
    assert policy.sweep(1e6, busy=nobody) == []


def test_a_pinned_mount_gets_in_whatever_the_policy_says() -> None:
    policy, _ = governed("hold", a=MountRules(is_pinned=True))
    fill(policy, "b", 10)
    assert policy.admit("b99", SIZE, "b", 1.0) == Admission(False, "held")
    assert policy.admit("a0", SIZE, "a", 1.0) == Admission(True, evict_bytes=SIZE)


def test_an_idle_pinned_mount_makes_nobody_else_leave() -> None:
    policy, _ = governed("hold", a=MountRules(is_pinned=True))
    fill(policy, "a", 9)
    policy.inserted("b0", SIZE, "b", 10_000.0)
    assert policy.admit("b1", SIZE, "b", 10_000.0) == Admission(False, "held")


def test_a_mount_that_lost_its_pin_goes_first() -> None:
    policy, ledger = governed("lru", a=MountRules(is_pinned=True))
    fill(policy, "b", 5)
    fill(policy, "a", 5)
    ledger.set_rules({"a": MountRules(), "b": MountRules()})
    assert policy.sweep(1.0, busy=nobody) == []
    policy.touched("a3", 2.0)
    assert policy.victims(4 * SIZE, 2.0, busy=nobody) == ["a0", "a1", "a2", "a4"]


def test_blocks_of_a_mount_that_is_gone_go_first() -> None:
    policy, ledger = governed("lru")
    fill(policy, "b", 2)
    fill(policy, "a", 2)
    ledger.set_rules({"b": MountRules()})
    policy.sweep(1.0, busy=nobody)
    assert policy.victims(2 * SIZE, 2.0, busy=nobody) == ["a0", "a1"]


def test_a_block_not_read_for_the_ttl_of_its_mount_leaves() -> None:
    policy, _ = governed(a=MountRules(ttl_s=100.0))
    fill(policy, "a", 3)
    fill(policy, "b", 3)
    policy.touched("a1", 50.0)
    assert policy.sweep(100.0, busy=nobody) == []
    assert policy.sweep(101.0, busy=lambda block: block == "a2") == [("a0", "ttl")]
    assert policy.sweep(151.0, busy=nobody) == [("a0", "ttl"), ("a1", "ttl"), ("a2", "ttl")]


def test_a_mount_at_its_quota_takes_no_more_and_what_is_over_it_leaves() -> None:
    policy, ledger = governed(a=MountRules(quota_bytes=3 * SIZE))
    fill(policy, "a", 2)
    assert policy.admit("a2", SIZE, "a", 0.0).is_admitted
    policy.inserted("a2", SIZE, "a", 0.0)
    assert policy.admit("a3", SIZE, "a", 0.0) == Admission(False, "quota")
    assert policy.admit("b0", SIZE, "b", 0.0).is_admitted
    assert policy.sweep(0.0, busy=nobody) == []
    ledger.set_rules({"a": MountRules(quota_bytes=SIZE), "b": MountRules()})
    assert policy.sweep(0.0, busy=nobody) == [("a0", "quota"), ("a1", "quota")]


def test_a_quota_holds_over_all_tier_directories_together() -> None:
    first, ledger = governed(a=MountRules(quota_bytes=2 * SIZE))
    second = Governed(Lru(), ledger)
    first.inserted("a0", SIZE, "a", 0.0)
    second.inserted("a1", SIZE, "a", 0.0)
    assert second.admit("a2", SIZE, "a", 0.0) == Admission(False, "quota")
    first.removed("a0")
    assert second.admit("a2", SIZE, "a", 0.0).is_admitted
    assert ledger.held("a") == SIZE


def test_a_block_without_a_mount_counts_for_the_one_that_reads_it() -> None:
    policy, ledger = governed()
    policy.inserted("x", SIZE, "", 0.0)
    assert (ledger.held(""), ledger.held("a")) == (SIZE, 0)
    policy.touched("x", 1.0, "a")
    assert (ledger.held(""), ledger.held("a")) == (0, SIZE)
    policy.removed("x")
    assert ledger.held("a") == 0


def test_what_is_to_go_first_leaves_before_the_policy_is_asked_and_makes_room_under_hold() -> None:
    policy, _ = governed("hold")
    fill(policy, "a", 10)
    assert not policy.admit("a10", SIZE, "a", 1.0).is_admitted
    policy.goes_first("a7")
    policy.goes_first("stranger")
    assert policy.admit("a11", SIZE, "a", 1.0) == Admission(True, evict_bytes=SIZE)
    assert policy.victims(SIZE, 1.0, busy=nobody) == ["a7"]
    policy.removed("a7")
    assert policy.victims(SIZE, 1.0, busy=nobody) != ["a7"]


@dataclass
class Said:
    """An order by hand."""

    awaited: set[str]
    done: list[str]
    next: str = ""

    def awaits(self, block_id: str) -> bool:
        return block_id in self.awaited

    def behind(self) -> Iterator[str]:
        return iter(self.done)

    def __contains__(self, block_id: object) -> bool:
        return block_id == self.next


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_what_was_read_makes_room_and_what_is_awaited_never_does(name: PolicyName) -> None:
    said = Said(awaited={f"a{n}" for n in range(5)}, done=["a3", "a7", "gone", "a9"])
    policy = Governed(POLICIES[name](10 * SIZE), Ledger(), said)
    fill(policy, "a", 10)

    some, all_ = (policy.victims(wanted, 1.0, busy=lambda block: block == "a8") for wanted in (2 * SIZE, ALL))

    assert some == ["a7", "a9"]
    assert sorted(all_) == ["a5", "a6", "a7", "a9"]


def test_what_is_read_next_gets_in_under_hold_and_an_idle_dataset_goes_before_what_was_read() -> None:
    said = Said(awaited={"a0", "a1", "a2", "a3"}, done=["a4"], next="a5")
    policy = Governed(Hold(10 * SIZE), Ledger(), said)
    fill(policy, "a", 5)
    fill(policy, "b", 5)

    assert not policy.admit("a6", SIZE, "a", 1.0).is_admitted
    assert policy.admit("a5", SIZE, "a", 1.0) == Admission(True)  # its room was made before, or is made when it lacks
    assert policy.victims(SIZE, 1.0, busy=nobody) == ["a4"]
    policy.touched("a0", 5000.0)
    assert set(policy.victims(5 * SIZE, 5000.0, busy=nobody)) == {f"b{n}" for n in range(5)}


def test_a_change_of_policy_carries_over_blocks_mounts_and_times() -> None:
    policy, ledger = governed("lru", a=MountRules(ttl_s=100.0))
    fill(policy, "a", 3)
    fill(policy, "b", 3)
    policy.touched("a0", 60.0)
    before = sorted(policy)
    policy.change(Hold(10 * SIZE))
    assert (policy.name, policy.keeps_full) == ("hold", True)
    assert sorted(policy) == before
    assert policy.sweep(120.0, busy=nobody) == [("a1", "ttl"), ("a2", "ttl")]
    assert (ledger.held("a"), ledger.held("b")) == (3 * SIZE, 3 * SIZE)


def test_a_new_version_of_a_file_names_the_block_of_the_old_one() -> None:
    versions = Versions(1000)
    assert versions.seen("m", "k", 0, "old") is None
    assert versions.seen("m", "k", 0, "old") is None
    assert versions.seen("m", "k", 1, "other") is None
    assert versions.seen("m", "k", 0, "new") == "old"
    assert versions.seen("m", "k", 0, "new") is None
    for number in range(5000):
        wrong = versions.seen("m", f"file {number}", 0, f"b{number}")
        assert wrong is None
