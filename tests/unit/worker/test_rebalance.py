"""Who is handed what."""

from __future__ import annotations

from forebay.contracts import Member
from forebay.contracts.records import MemberState
from forebay.testing.ufs import MemoryUfs
from forebay_worker.rebalance import Handover, Targets, handover
from tests.unit.worker.kit import asked_for, content


def worker(name: str, state: MemberState = "live") -> Member:
    return Member(member_id=name, role="worker", tcp=f"{name}:1", state=state)


A, B, C = worker("a"), worker("b"), worker("c")


def test_a_block_of_another_home_goes_there() -> None:
    assert handover("me", "x", [A]) == Handover("x", (A,), leaves=True)
    assert handover("me", "x", [A, B]) == Handover("x", (A,), leaves=True)


def test_a_home_hands_replicas_out_and_keeps_its_own() -> None:
    assert handover("a", "x", [A, B, C]) == Handover("x", (B, C), leaves=False)
    assert handover("a", "x", [A]) is None


def test_a_replica_leaves_the_handing_out_to_the_home() -> None:
    assert handover("b", "x", [A, B]) is None


def test_nobody_is_handed_anything_while_down() -> None:
    assert handover("me", "x", [worker("a", "down"), B]) is None
    assert handover("a", "x", [A, worker("b", "down")]) is None
    assert handover("me", "x", []) is None


def test_targets_are_bounded() -> None:
    ufs, targets = MemoryUfs(), Targets(targets_max=2)
    asked = [asked_for(ufs.put(name, content(10))) for name in "abc"]
    for one in (*asked, *asked[1:]):
        targets.note(one)
    assert targets.get(asked[0].block_id) is None
    assert all(targets.get(one.block_id) == (one.mounted, one.target) for one in asked[1:])
