"""What a load decides: its life, what will not fit, when it gives up."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from forebay.contracts import StatusReply
from forebay.contracts.loads import LoadState
from forebay.errors import Detail
from forebay_master.load_plan import Need, Room, TierRoom, refusal, room_of, share
from forebay_master.load_state import NO_PROGRESS_ROUNDS_MAX, PATIENCE_S, TRANSITIONS, Course, Event, Next, after
from forebay_master.loading import WINDOW_BLOCKS, WINDOW_BYTES, Piece, windows

MIB = 1 << 20
OVER = ("planned", "succeeded", "failed", "cancelled")


@pytest.mark.parametrize(("state", "event"), list(product(get_args(LoadState), Event)))
def test_every_pair_of_state_and_event_is_in_the_table_or_a_bug(state: LoadState, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert state not in OVER
        assert after(state, event) in get_args(LoadState)
    else:
        with pytest.raises(ValueError, match=state):
            after(state, event)


def test_only_an_audit_that_agrees_makes_a_load_succeed() -> None:
    assert [pair for pair, state in TRANSITIONS.items() if state == "succeeded"] == [("auditing", Event.AGREED)]


def test_what_a_dead_master_left_is_queued_again_and_anything_that_is_not_over_can_be_cancelled() -> None:
    for state in ("queued", "planning", "filling", "auditing"):
        assert after(state, Event.INTERRUPTED) == "queued"
        assert after(state, Event.CANCELLED) == "cancelled"


def test_a_load_goes_on_while_it_gets_on_and_gives_up_when_rounds_bring_nothing() -> None:
    course, now = Course(progress_at_s=0.0), 10.0
    assert course.audited(0, 0, now)[1] is Next.SUCCEED
    course, what = course.audited(9, 0, now)
    assert what is Next.AGAIN
    course, what = course.audited(5, 0, now)
    assert what is Next.AGAIN
    for _ in range(NO_PROGRESS_ROUNDS_MAX - 1):
        course, what = course.audited(5, 0, now)
        assert what is Next.AGAIN
    assert course.audited(5, 0, now)[1] is Next.GIVE_UP


def test_a_load_waits_for_workers_that_are_away_but_not_for_ever() -> None:
    course, what = Course(progress_at_s=0.0).audited(4, 4, 1.0)
    assert what is Next.WAIT
    for _ in range(20):
        course, what = course.audited(4, 4, PATIENCE_S)
        assert what is Next.WAIT
    assert course.audited(4, 4, PATIENCE_S + 2)[1] is Next.GIVE_UP


def need(*lengths: int, held: int = 0) -> Need:
    found = Need()
    for number, length in enumerate(lengths):
        found.add("m", length, is_held=number < held)
    return found


def room(capacity: int, used: int = 0, *, policy: str = "hold", high: float = 1.0, quota: int | None = None) -> Room:
    return Room((TierRoom("MEM", capacity, used, int(capacity * high)),), policy, {} if quota is None else {"m": quota})


def test_what_fits_has_no_word_against_it() -> None:
    found = share("w", need(MIB, 1, held=1), room(2 * MIB))

    assert (found.blocks, found.bytes, found.held_bytes, found.unfit_bytes, found.reason) == (2, MIB + 4096, MIB, 0, "")
    assert refusal((found,)) == ""


@pytest.mark.parametrize(
    ("wanted", "there", "unfit", "words"),
    [
        (
            need(MIB, MIB, MIB),
            room(2 * MIB),
            MIB,
            "1.0 MiB more than its tiers keep under the policy hold (MEM 2.0 MiB)",
        ),
        (need(MIB, MIB), room(2 * MIB, policy="lru", high=0.5), MIB, "policy lru"),
        (need(4 * MIB), room(2 * MIB), 4 * MIB, "fits into none of its tiers"),
        (need(MIB, MIB), room(8 * MIB, quota=MIB), MIB, "quota of the mount m"),
        (need(MIB), Room(), MIB, "none in service"),
        (need(MIB, MIB), room(2 * MIB, MIB), 0, "1.0 MiB of other datasets have to leave first, if nobody reads them"),
        (need(MIB), Room(answers=False), 0, "does not answer"),
    ],
)
def test_what_does_not_fit_is_told_with_tier_and_policy(wanted: Need, there: Room, unfit: int, words: str) -> None:
    found = share("w", wanted, there)

    assert found.unfit_bytes == unfit
    assert words in found.reason
    assert (words in refusal((found,))) == bool(unfit)


def test_room_is_what_a_worker_says_of_itself() -> None:
    tier: dict[str, Detail] = {"tier": "SSD", "capacity_bytes": 100, "used_bytes": 40, "in_service": True}
    running: dict[str, Detail] = {
        "policy": "lru",
        "high_watermark": 0.9,
        "tiers.SSD.high_watermark": 0.5,
        "mounts.m1.quota_bytes": 7,
    }
    status = StatusReply(
        service="forebay-worker",
        member_id="w",
        version="0",
        wire_version=1,
        started_at_s=0.0,
        ready=True,
        detail={"tier0": tier, "tier1": {**tier, "in_service": False}, "running_settings": running},
    )

    found = room_of(status)

    assert found.tiers == (TierRoom("SSD", 100, 40, 50),)
    assert (found.policy, found.limit, found.used, found.quotas) == ("lru", 50, 40, {"m1": 7})


def piece(length: int) -> Piece:
    return Piece("/x", "0" * 32, None, None, length)  # type: ignore[arg-type]  # only the length counts here


def test_a_worker_is_asked_for_a_bounded_window_at_a_time() -> None:
    many, large = windows([piece(1)] * (WINDOW_BLOCKS + 1)), windows([piece(WINDOW_BYTES)] * 3)

    assert [len(w) for w in many] == [WINDOW_BLOCKS, 1]
    assert [len(w) for w in large] == [1, 1, 1]
    assert windows([]) == []
