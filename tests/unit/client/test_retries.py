"""Second tries: how many, and after how long."""

import random

from forebay.client.hedges import ANSWERS_MIN, DELAY_S_MIN, FRESH, KEPT, Delays
from forebay.client.retries import PER_S, SHARE, TOKENS_MAX, RetryBudget

MIB = 1 << 20


def drained() -> RetryBudget:
    budget = RetryBudget(0.0)
    assert sum(budget.take(0.0) for _ in range(1000)) == TOKENS_MAX
    return budget


def test_retries_are_a_share_of_the_reads_in_the_long_run() -> None:
    budget, taken = drained(), 0
    for _ in range(10_000):
        budget.earn()
        taken += budget.take(0.0)
    assert abs(taken - SHARE * 10_000) <= 1


def test_time_alone_brings_some_and_says_how_long_it_takes() -> None:
    budget = drained()
    wait_s = budget.wait_s(0.0)
    assert abs(wait_s - 1 / PER_S) < 1e-9
    assert not budget.take(wait_s / 2)
    assert budget.take(wait_s + 1e-9)
    assert sum(budget.take(wait_s + 10.0) for _ in range(1000)) <= min(TOKENS_MAX, 10 * PER_S) + 1


def test_a_clock_that_stands_still_brings_nothing_and_no_more_is_saved_than_named() -> None:
    budget = RetryBudget(100.0)
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.take(100.0) for _ in range(1000)) == TOKENS_MAX


def test_nothing_is_known_before_enough_answers_came() -> None:
    delays = Delays()
    for _ in range(ANSWERS_MIN - 1):
        delays.answered(4 * MIB, 0.1)
    assert delays.delay_s(4 * MIB) is None
    delays.answered(4 * MIB, 0.1)
    assert delays.delay_s(4 * MIB) == 0.1
    assert delays.delay_s(4 * MIB + 1) is None  # another class


def test_the_delay_is_the_95th_percentile_of_the_last_answers() -> None:
    delays, rng = Delays(), random.Random(1)
    for _ in range(KEPT):
        delays.answered(MIB, 5.0)  # long ago
    for _ in range(KEPT + FRESH):
        delays.answered(MIB, rng.uniform(0.0, 1.0))
    assert 0.85 < (delays.delay_s(MIB) or 0.0) < 1.0


def test_fast_answers_cause_no_hasty_second_request() -> None:
    delays = Delays()
    for _ in range(KEPT):
        delays.answered(1, 0.0001)
    assert delays.delay_s(1) == DELAY_S_MIN
