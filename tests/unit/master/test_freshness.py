"""How old an answer may be."""

from __future__ import annotations

import math

from forebay_master.freshness import (
    CLOCK_STEP_S,
    NEGATIVE_VALID_S,
    PAGING_S,
    is_good,
    needed_since,
    needed_to_continue,
    negative_valid_s,
    valid_s,
)


def test_an_immutable_mount_takes_any_answer() -> None:
    assert needed_since(100.0, None) == -math.inf
    assert is_good(1.0, needed_since(100.0, None), 100.0)


def test_a_mount_that_always_asks_needs_an_answer_from_after_the_request() -> None:
    since = needed_since(100.0, 0.0)
    assert not is_good(99.999, since, 100.0)
    assert is_good(100.0, since, 100.0)


def test_an_answer_is_good_for_max_age_and_no_longer() -> None:
    assert is_good(40.0, needed_since(100.0, 60.0), 100.0)
    assert not is_good(39.9, needed_since(100.0, 60.0), 100.0)


def test_an_answer_from_the_future_is_not_believed() -> None:
    assert is_good(100.0 + CLOCK_STEP_S, needed_since(100.0, 60.0), 100.0)
    assert not is_good(100.1 + CLOCK_STEP_S, needed_since(100.0, 60.0), 100.0)


def test_a_listing_goes_on_with_its_own_sync_though_max_age_is_over() -> None:
    since = needed_to_continue(200.0, 0.0, 100.0)
    assert is_good(100.0, since, 200.0)


def test_a_listing_never_goes_on_with_something_older() -> None:
    for max_age_s in (None, 0.0, 60.0, 1e6):
        assert needed_to_continue(200.0, max_age_s, 100.0) >= 100.0


def test_a_listing_that_dawdles_is_taken_up_from_a_new_sync() -> None:
    now = 100.0 + PAGING_S + 1
    assert needed_to_continue(now, 60.0, 100.0) == now - 60.0
    assert needed_to_continue(now, PAGING_S + 10, 100.0) == 100.0
    assert needed_to_continue(now, None, 100.0) == 100.0


def test_a_listing_begun_under_a_clock_ahead_of_ours_needs_nothing_from_the_future() -> None:
    assert needed_to_continue(200.0, 60.0, 1e12) == 200.0


def test_what_is_left_of_max_age_is_what_clients_may_keep() -> None:
    assert valid_s(90.0, 60.0, 100.0) == 50.0
    assert valid_s(10.0, 60.0, 100.0) == 0.0
    assert valid_s(101.0, 60.0, 100.0) == 60.0
    assert valid_s(90.0, None, 100.0) is None


def test_what_is_not_there_is_kept_for_a_short_time_even_on_immutable_mounts() -> None:
    assert negative_valid_s(90.0, None, 100.0) == NEGATIVE_VALID_S
    assert negative_valid_s(90.0, 15.0, 100.0) == 5.0
    assert negative_valid_s(90.0, 0.0, 100.0) == 0.0
