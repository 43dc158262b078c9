"""What the page shows, made of what workers answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forebay.contracts import Member, StatusReply
from forebay_master.gathering import Answer, answer_of, held_bytes, sample_of, troubles, worker_view

MEMBER = Member(member_id="w1", role="worker", tcp="127.0.0.1:1")
WELL: dict[str, Any] = {
    "tier0": {"tier": "MEM", "capacity_bytes": 100, "used_bytes": 50, "in_service": True},
    "serving_weight": 0.5,
    "reads_in_flight": 2,
    "reads": {"mem": 10, "ufs": 5, "local": 1},
    "held_bytes": {"m1": 50},
}


def status(member_id: str = "w1", *, started_at_s: float = 1.0, **detail: Any) -> StatusReply:
    return StatusReply(
        service="forebay-worker",
        member_id=member_id,
        version="1",
        wire_version=1,
        started_at_s=started_at_s,
        ready=True,
        detail=WELL | detail,
    )


def answer(*, took_s: float = 0.001, started_at_s: float = 1.0, **detail: Any) -> Answer:
    return answer_of(status(started_at_s=started_at_s, **detail), 100.0, took_s)


def faults(of: Answer, *others: Answer, member: Member = MEMBER, now_s: float = 101.0) -> str:
    return "; ".join(worker_view(member, of, [of, *others], now_s).slow_because)


def test_a_worker_that_is_well_is_shown_with_its_tiers() -> None:
    view = worker_view(MEMBER, answer(), [answer()], 101.0)

    assert (view.age_s, view.serving_weight, view.reads_in_flight, view.slow_because) == (1.0, 0.5, 2, ())
    assert [(tier.tier, tier.used_bytes) for tier in view.tiers] == [("MEM", 50)]


def test_each_thing_that_is_wrong_is_named() -> None:
    peers = [answer(), answer(), answer()]

    assert worker_view(MEMBER, None, peers, 0.0).slow_because == ("it has not answered",)
    assert faults(answer(), now_s=200.0) == "it has not answered for 100 s"
    assert faults(answer(took_s=0.5), *peers) == "it took 500 ms to answer"
    assert faults(answer(serving_weight=0.05), *peers) == "its serving weight is 0.05"
    ill: dict[str, Any] = {"health exec:/x": {"score": 0.5, "reason": "hot"}}
    assert faults(answer(**ill), *peers) == "exec:/x gives 0.50: hot"
    assert faults(answer(tier0=WELL["tier0"] | {"in_service": False})) == "a tier directory errs"
    draining = Member(member_id="w1", role="worker", tcp="127.0.0.1:1", state="draining")
    assert faults(answer(), member=draining) == "it is draining"


def test_all_workers_slow_together_are_none_slow() -> None:
    assert faults(answer(took_s=0.5), answer(took_s=0.5), answer(took_s=0.4)) == ""


def test_reads_are_the_difference_of_two_rounds_and_a_restarted_worker_counts_from_zero() -> None:
    before = {"w1": answer(), "w2": answer()}
    after = {
        "w1": answer(reads={"mem": 14, "ufs": 5, "local": 1}),
        "w2": answer(started_at_s=9.0, reads={"mem": 3}),
        "w3": answer(reads={"mem": 1000}),
    }

    sample = sample_of(before, after, 100.0, 2.0)

    assert (sample.mem, sample.ufs, sample.local) == (7, 0, 0)


def test_bytes_of_a_mount_are_summed_over_the_workers() -> None:
    assert held_bytes([answer(), answer(held_bytes={"m1": 1, "m2": 2})]) == {"m1": 51, "m2": 2}


def test_troubles_come_newest_first_and_bounded() -> None:
    lines: dict[str, Any] = {
        f"recent {n}": {"at_s": float(n), "level": "error", "event": f"e{n}", "reason": None} for n in range(80)
    }

    found = troubles([answer(**lines)])

    assert [trouble.event for trouble in found[:2]] == ["e79", "e78"]
    assert len(found) == 50


def test_what_a_strange_worker_says_is_taken_for_nothing() -> None:
    strange = replace(answer(), status=status(reads=3, held_bytes="x", serving_weight="a", tier0=7, reads_in_flight=-1))

    view = worker_view(MEMBER, strange, [strange], 101.0)

    assert (view.serving_weight, view.reads_in_flight, view.tiers) == (0.0, 0, ())
    assert held_bytes([strange]) == {}
