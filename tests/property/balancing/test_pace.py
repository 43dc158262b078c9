"""Slow members are found by latency alone, fast ones are left alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from forebay.balancing import Paces
from forebay.balancing.pace import ANSWERS, AVOIDED_S_MIN, FRESH_S, S_PER_MIB_MIN, SLOW_FOR_S

MIB = 1 << 20
FAST, SLOW = 0.004, 0.4
"""Seconds for 4 MiB: 1 GB/s, and 10 MB/s."""


def fast_cluster(paces: Paces, names: str = "abc", *, now_s: float = 0.0) -> None:
    for name in names:
        for _ in range(ANSWERS):
            paces.answered(name, 4 * MIB, FAST, now_s)


def be_slow(paces: Paces, name: str, until_s: float, *, latency_s: float = SLOW, came_mib: float = 4) -> None:
    """Slow answers that came for long enough, the last at ``until_s``."""
    for _ in range(ANSWERS):
        paces.answered(name, 4 * MIB, latency_s, until_s - SLOW_FOR_S, came_mib)
    paces.answered(name, 4 * MIB, latency_s, until_s, came_mib)


def slowed(name: str = "a") -> Paces:
    """Slow since moment 0."""
    paces = Paces()
    fast_cluster(paces, now_s=-SLOW_FOR_S)
    be_slow(paces, name, 0.0)
    return paces


def test_a_member_that_is_slowed_to_a_twentieth_for_a_while_is_avoided() -> None:
    paces = Paces()
    fast_cluster(paces)
    for _ in range(ANSWERS):
        paces.answered("a", 4 * MIB, SLOW, 1.0)
        assert not paces.slow(1.0)
    paces.answered("a", 4 * MIB, SLOW, 1.0 + SLOW_FOR_S)
    assert list(paces.slow(1.0 + SLOW_FOR_S)) == ["a"]
    paces.validate()


@given(st.integers(ANSWERS, 100))
def test_a_stall_accuses_nobody_however_many_answers_it_held_up(held_up: int) -> None:
    paces = Paces()
    fast_cluster(paces)
    for stall in range(3):
        came_s = 1.0 + stall * SLOW_FOR_S
        for _ in range(held_up):
            paces.answered("a", 4 * MIB, SLOW, came_s)
        paces.answered("a", 4 * MIB, FAST, came_s + 0.1)
        assert not paces.slow(came_s + 0.1)


@given(st.lists(st.sampled_from([FAST, FAST, SLOW]), min_size=1, max_size=60))
def test_hiccups_between_good_answers_accuse_nobody(latencies: list[float]) -> None:
    paces = Paces()
    fast_cluster(paces)
    for i, latency in enumerate(latencies):
        paces.answered("a", 4 * MIB, latency if i % ANSWERS else FAST, 1.0)
    assert not paces.slow(1.0)


def test_a_slow_day_of_all_accuses_nobody() -> None:
    paces, rng, now_s = Paces(), random.Random(1), 0.0
    for _ in range(300):
        now_s += 0.02
        paces.answered(rng.choice("abc"), 4 * MIB, SLOW * rng.uniform(0.7, 1.4), now_s)
        assert not paces.slow(now_s)


def test_nobody_is_slow_alone_or_beside_members_not_heard_for_long() -> None:
    paces = Paces()
    be_slow(paces, "a", 5.0)
    assert not paces.slow(5.0)
    paces = Paces()
    fast_cluster(paces, "bc", now_s=0.0)
    be_slow(paces, "a", FRESH_S + SLOW_FOR_S)
    assert not paces.slow(FRESH_S + SLOW_FOR_S)


def test_above_the_named_pace_nobody_is_slow_however_fast_the_others_are() -> None:
    paces = Paces()
    for name in "bc":
        for _ in range(ANSWERS):
            paces.answered(name, 4 * MIB, FAST / 10, 0.0)
    be_slow(paces, "a", 2.0, latency_s=4 * S_PER_MIB_MIN * 0.99)
    assert not paces.slow(2.0)
    be_slow(paces, "a", 4.0, latency_s=4 * S_PER_MIB_MIN * 1.01)
    assert list(paces.slow(4.0)) == ["a"]


def test_a_queue_of_our_own_making_accuses_nobody_and_hides_nobody() -> None:
    paces = Paces()
    fast_cluster(paces)
    be_slow(paces, "a", 2.0, latency_s=20 * FAST, came_mib=20 * 4)
    assert not paces.slow(2.0)
    be_slow(paces, "a", 4.0, latency_s=6 * SLOW, came_mib=6 * 4)
    assert list(paces.slow(4.0)) == ["a"]


def test_at_most_half_of_the_members_are_slow_at_a_time() -> None:
    paces = Paces()
    fast_cluster(paces)
    for name in "ab":
        be_slow(paces, name, 2.0)
    assert list(paces.slow(2.0)) == ["a"]
    paces.validate()


def test_after_a_while_one_request_at_a_time_tries_whether_it_is_well_again() -> None:
    paces = slowed()
    paces.asked("a", 1.0)  # as the last resort: no trial
    paces.answered("a", 4 * MIB, FAST, 1.1)
    assert list(paces.slow(1.1)) == ["a"]
    # when: its time has come
    now = AVOIDED_S_MIN + 0.1
    assert not paces.slow(now)
    paces.asked("a", now)
    assert list(paces.slow(now)) == ["a"]
    # then: a good answer clears it
    paces.answered("a", 4 * MIB, FAST, now + 0.1)
    assert not paces.slow(now + 0.1)
    paces.validate()


def test_a_trial_that_is_slow_again_doubles_the_time() -> None:
    paces = slowed()
    now = AVOIDED_S_MIN + 0.1
    paces.asked("a", now)
    fast_cluster(paces, "bc", now_s=now)
    paces.answered("a", 4 * MIB, SLOW, now)
    assert list(paces.slow(now + 1.9 * AVOIDED_S_MIN)) == ["a"]
    assert not paces.slow(now + 2.1 * AVOIDED_S_MIN)


def test_a_trial_that_came_to_nothing_leaves_the_next_request_to_try() -> None:
    paces = slowed()
    now = AVOIDED_S_MIN + 0.1
    paces.asked("a", now)
    assert list(paces.slow(now)) == ["a"]
    paces.unanswered("a")
    assert not paces.slow(now)


def test_members_that_left_are_forgotten() -> None:
    paces = slowed()
    paces.retain({"b", "c"})
    assert not paces.slow(0.0)
    paces.validate()


def test_acquittal_does_not_end_the_doubt_of_a_member_that_had_to_fetch_what_it_held() -> None:
    paces = Paces()
    for n in range(40):
        for name, took_s in (("a", 4.0), ("b", 0.01), ("c", 0.01)):
            paces.answered(name, 1 << 20, took_s, n / 10)
    was_slow = paces.is_avoided("a", 4.0)
    paces.fetched("a", 4.0)
    paces.asked("a", 20.0)
    paces.answered("b", 1 << 20, 0.01, 20.0)

    paces.answered("a", 1 << 20, 0.01, 20.0)

    assert was_slow
    assert not paces.slow(20.0)
    assert paces.is_doubted("a", 20.0)
    paces.validate()
