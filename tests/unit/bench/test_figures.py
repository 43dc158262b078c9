"""The arithmetic behind every figure, and its one line."""

from __future__ import annotations

import json
import math
import random
from statistics import median

import pytest

from bench.__main__ import measures
from bench.figures import PAIRS_MAX, PAIRS_MIN, Figure, Options, compare, is_settled, median_interval, table


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    # given many samples of a skewed distribution whose median is known
    rng, hits, rounds = random.Random(1), 0, 2000
    for _ in range(rounds):
        low, high = median_interval([rng.expovariate(math.log(2)) for _ in range(15)])
        hits += low <= 1.0 <= high
    # then
    assert 0.89 <= hits / rounds <= 0.98


def test_few_values_bound_nothing() -> None:
    assert median_interval([1.0, 2.0, 3.0]) == (-math.inf, math.inf)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (1.0, 5.0)


def test_clear_pairs_settle_early_and_unclear_ones_go_on() -> None:
    # given
    rng = random.Random(2)
    clear = compare(lambda: rng.uniform(199, 201), lambda: 100.0, goal=1.6, options=Options())
    unclear = compare(lambda: rng.uniform(120, 200), lambda: 100.0, goal=1.6, options=Options())
    # then
    assert len(clear.ours) == PAIRS_MIN
    assert len(unclear.ours) == PAIRS_MAX
    assert clear.low <= clear.value <= clear.high
    assert len(clear.noise) == 3
    assert is_settled([2.0, 2.001, 2.0, 1.999, 2.0], 1.6)


def test_runs_alternate() -> None:
    # given
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return 1.0

    # when
    compare(lambda: side("a"), lambda: side("b"), goal=2.0, options=Options(quick=True))
    # then
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("value", "goal", "lower", "ok"),
    [(1.6, 1.6, False, True), (1.5, 1.6, False, False), (1.5, 1.6, True, True), (9.0, None, False, True)],
)
def test_a_figure_knows_whether_it_reached_its_goal(value: float, goal: float | None, lower: bool, ok: bool) -> None:
    figure = Figure("first", "x", value, goal=goal, lower_is_better=lower)
    assert figure.ok is ok
    assert json.loads(figure.line()) == {
        "bench": "first",
        "figure": "x",
        "value": value,
        "unit": "ratio",
        "goal": goal,
        "ok": ok,
        "detail": {},
    }


def test_the_table_says_no_loudly() -> None:
    shown = table([Figure("first", "x", 1.0, goal=2.0, detail={"interval": [0.9, 1.1]})])
    assert "NO" in shown
    assert "0.90 to 1.10" in shown


def test_a_bench_and_a_figure_are_found_by_name() -> None:
    assert len(list(measures("first"))) >= 3
    assert len(list(measures("first.rpc_vs_h1"))) == 1
    assert list(measures("first.nothing")) == []


def test_a_ratio_is_described_with_its_runs() -> None:
    ratio = compare(lambda: 3.0, lambda: 2.0, goal=1.0, options=Options(quick=True))
    detail = ratio.detail("MBps")
    assert detail["runs"] == [[3.0, 2.0], [3.0, 2.0]]
    assert ratio.value == median([1.5])
