"""``hold``: what it keeps, what it lets go, and how it finds out."""

from __future__ import annotations

import random

import pytest

from bench.simulator import Access, belady, nobody, simulate
from bench.traces import epochs, in_turn, zipf
from forebay_worker.policies import POLICIES, Hold
from forebay_worker.policies.bets import Bets
from forebay_worker.policies.sketch import Sketch

SIZE = 4096
RATE = 1000.0
"""Reads a second of the traces."""

FIRST, SECOND = [f"a{number}" for number in range(200)], [f"b{number}" for number in range(200)]


def trace_of(names: list[str]) -> list[Access]:
    return [Access(number / RATE, name, name[0], SIZE) for number, name in enumerate(names)]


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def by_others(trace: list[Access], blocks: int) -> float:
    """The best of the other policies."""
    others = set(POLICIES) - {"hold"}
    return max(share(simulate(POLICIES[name](blocks * SIZE), trace, blocks * SIZE)) for name in others)


def holding(blocks: int, ttl_s: float) -> Hold:
    return Hold(blocks * SIZE, ttl_s=ttl_s)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 0.835, 1.0])
def test_in_shuffled_epochs_it_hits_as_much_as_it_holds(fraction: float) -> None:
    trace, blocks = trace_of(epochs(FIRST, 5, random.Random(1))), int(200 * fraction)
    hits = simulate(holding(blocks, 600.0), trace, blocks * SIZE)
    assert share(hits[200:]) >= blocks / 200 - 0.005
    assert share(belady(trace, blocks * SIZE)[200:]) <= blocks / 200 + 0.03


@pytest.mark.parametrize("exponent", [0.7, 1.0])
def test_under_a_zipf_popularity_it_is_as_good_as_the_best(exponent: float) -> None:
    trace = trace_of(zipf(FIRST, 4000, exponent, random.Random(1)))
    assert share(simulate(holding(40, 600.0), trace, 40 * SIZE)) >= by_others(trace, 40) - 0.03


def test_when_the_popular_blocks_change_it_follows() -> None:
    names = [name for seed in range(3) for name in zipf(FIRST, 2000, 1.0, random.Random(seed))]
    trace = trace_of(names)
    assert share(simulate(holding(40, 600.0), trace, 40 * SIZE)) >= by_others(trace, 40) - 0.03


@pytest.mark.parametrize("run", [1, 2, 3])
def test_with_two_datasets_in_turn_it_is_better_than_the_others(run: int) -> None:
    trace = trace_of(in_turn(FIRST, SECOND, run=run, turns=12 // run, rng=random.Random(1)))
    assert share(simulate(holding(150, 0.02), trace, 150 * SIZE)) >= by_others(trace, 150)


def test_a_dataset_read_in_passing_does_not_cost_the_one_in_use() -> None:
    training, scan = epochs(FIRST, 6, random.Random(1)), [f"b{number}" for number in range(2000)]
    mixed = [name for number, one in enumerate(training) for name in ([one, scan[number]] if number > 300 else [one])]
    trace = trace_of(mixed)
    hits = simulate(holding(150, 600.0), trace, 150 * SIZE)
    late = [hit for access, hit in list(zip(trace, hits, strict=True))[-400:] if access.dataset == "a"]
    assert share(late) >= 0.74


def test_ranges_of_one_block_are_one_read() -> None:
    order, names = epochs(FIRST, 4, random.Random(1)), []
    for start in range(0, len(order), 8):  # eight readers, each in 16 steps
        names += order[start : start + 8] * 16
    hits = simulate(holding(150, 600.0), trace_of(names), 150 * SIZE)
    assert share(hits[200 * 16 :]) >= 0.74


def filled(policy: Hold, dataset: str, count: int, now_s: float) -> None:
    for number in range(count):
        name = f"{dataset}{number}"
        assert policy.admit(name, SIZE, dataset, now_s).is_admitted
        policy.inserted(name, SIZE, dataset, now_s)


def test_a_full_tier_holds_on_to_a_dataset_that_is_awake() -> None:
    policy = holding(100, 600.0)
    filled(policy, "a", 100, 0.0)
    for number in range(300):
        admission = policy.admit(f"b{number}", SIZE, "b", 599.0)
        assert (admission.is_admitted, admission.reason, admission.evict_bytes) == (False, "held", 0)


def test_a_dataset_idle_for_longer_than_its_ttl_makes_room_for_another() -> None:
    policy = holding(100, 600.0)
    filled(policy, "a", 50, 0.0)
    filled(policy, "c", 50, 300.0)
    admission = policy.admit("b0", SIZE, "b", 700.0)
    assert admission.is_admitted
    assert admission.evict_bytes >= SIZE
    victims = policy.victims(60 * SIZE, 901.0, busy=nobody)
    assert {name[0] for name in victims[:50]} == {"a"}
    assert {name[0] for name in victims[50:]} == {"c"}


def test_reads_that_are_only_reported_keep_a_dataset_awake() -> None:
    policy = holding(100, 600.0)
    filled(policy, "a", 100, 0.0)
    for now_s in range(0, 3000, 300):
        policy.touched("a7", float(now_s))
    assert not policy.admit("b0", SIZE, "b", 3000.0).is_admitted


def test_a_dataset_known_to_come_back_is_waited_for_and_not_for_ever() -> None:
    policy = holding(150, 0.02)
    trace = trace_of(in_turn(FIRST, SECOND, run=1, turns=6, rng=random.Random(1)))
    simulate(policy, trace, 150 * SIZE)
    now_s, before = trace[-1].at_s, {name for name, _, _ in policy}
    for number in range(50):  # the second set goes on, the first is silent for longer than its time
        admission = policy.admit(f"b9{number}", SIZE, "b", now_s + 0.05)
        assert admission.evict_bytes == 0
    assert any(name.startswith("a") for name in before)
    policy.touched(next(name for name in before if name.startswith("b")), now_s + 1.0)
    assert policy.admit("b999", SIZE, "b", now_s + 1.0).evict_bytes > 0


def test_what_was_found_at_start_belongs_to_whom_reads_it_and_is_not_idle_meanwhile() -> None:
    policy = holding(100, 600.0)
    for number in range(100):
        policy.inserted(f"a{number}", SIZE, "", 0.0)
    for number in range(50):
        policy.touched(f"a{number}", number * 100.0, "a")
    assert not policy.admit("a200", SIZE, "a", 5000.0).is_admitted
    assert {name for name, _, dataset in policy if dataset == "a"} == {f"a{number}" for number in range(50)}


def test_a_bet_is_settled_by_whichever_is_read_first() -> None:
    bets = Bets({"x": 0.5})
    bets.open("new", "old", "x", tick=1, age_max=10)
    bets.open("new", "other", "x", tick=2, age_max=10)
    assert len(bets) == 1
    bets.read("stranger")
    bets.read("new")
    assert bets.chance("x") > 0.5
    for number in range(100):
        bets.open(f"n{number}", f"o{number}", "x", tick=number, age_max=10)
        bets.read(f"o{number}")
    assert bets.chance("x") < 0.1
    assert len(bets) == 0


def test_the_number_of_open_bets_is_bounded_and_old_ones_make_way() -> None:
    bets = Bets({"x": 0.5})
    for number in range(1000):
        bets.open(f"n{number}", f"o{number}", "x", tick=0, age_max=10)
    assert len(bets) == 256
    bets.open("late", "later", "x", tick=11, age_max=10)
    bets.read("n0")
    bets.read("late")
    assert len(bets) == 255


def test_a_sketch_never_counts_too_little_until_it_halves() -> None:
    sketch = Sketch()
    sketch.make_room(500)
    for count in range(1, 4):
        for number in range(1000):
            assert sketch.add(f"n{number}") >= count
    assert sum(sketch.estimate(f"n{number}") == 3 for number in range(1000)) > 900
    for number in range(5000):
        sketch.add(f"n{number % 10}")
    assert sketch.estimate("n500") < 3
