"""Selection: two choices on load, and the table behind it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.balancing import Load, LoadTable, choose, pressure
from forebay.balancing.selection import FAILURE_LATENCY_S, FORGET_HALF_LIFE_S, LATENCY_PRIOR_S
from forebay.contracts import Member
from forebay.contracts.records import MemberState
from forebay.errors import PeerUnavailable


def worker(name: str, *, state: MemberState = "live", serving_weight: float = 1.0) -> Member:
    return Member(member_id=name, role="worker", tcp=f"{name}:7000", state=state, serving_weight=serving_weight)


LOADS = st.builds(
    Load,
    in_flight=st.integers(min_value=0, max_value=1000),
    latency_s=st.floats(min_value=1e-6, max_value=10),
    serving_weight=st.floats(min_value=0, max_value=1),
)


@given(st.dictionaries(st.sampled_from([f"w{i}" for i in range(8)]), LOADS, min_size=1), st.integers())
def test_the_choice_is_never_the_worst_of_three_or_more(loads: dict[str, Load], seed: int) -> None:
    members = [worker(name) for name in loads]
    chosen = choose(members, loads, random.Random(seed))
    able = [m for m in members if loads[m.member_id].serving_weight > 0]
    if able:
        assert chosen in able
        distinct = {pressure(loads[m.member_id]) for m in able}
        if len(distinct) == len(able) >= 2:
            assert pressure(loads[chosen.member_id]) < max(distinct)


def test_the_less_loaded_of_two_always_wins() -> None:
    members = [worker("busy"), worker("idle")]
    loads = {"busy": Load(in_flight=9, latency_s=0.01), "idle": Load(in_flight=1, latency_s=0.01)}
    for seed in range(100):
        assert choose(members, loads, random.Random(seed)).member_id == "idle"


def test_equal_members_get_equal_parts_whatever_their_order() -> None:
    members = [worker(f"w{i}") for i in range(4)]
    rng = random.Random(1)
    chosen = Counter(choose(members, {}, rng).member_id for _ in range(8000))
    # 8000 draws at p = 1/4: the standard deviation is 39.
    assert all(abs(n - 2000) < 5 * 39 for n in chosen.values()), chosen


def test_a_closed_loop_splits_work_by_serving_weight() -> None:
    # given: two members, one half as able; each request stays in flight until 20 newer ones were sent
    members = [worker("half"), worker("full")]
    rng, table = random.Random(2), LoadTable()
    table.heard_weight("half", 0.5, 0.0)
    table.heard_weight("full", 1.0, 0.0)
    sent: list[str] = []
    # when
    for _ in range(4000):
        chosen = choose(members, table.loads(members, 0.0), rng).member_id
        table.start(chosen, 0.0)
        sent.append(chosen)
        if len(sent) > 20:
            table.cancelled(sent[-21])
    # then
    share = sent.count("full") / len(sent)
    assert 0.6 < share < 0.73
    for name in sent[-20:]:
        table.cancelled(name)
    assert table.in_flight == 0
    table.validate()


def test_down_members_and_weight_zero_are_the_last_resort() -> None:
    down, zero, good = worker("down", state="down"), worker("zero", serving_weight=0.0), worker("good")
    for seed in range(50):
        assert choose([down, zero, good], {}, random.Random(seed)) == good
        assert choose([down, zero], {}, random.Random(seed)) in (down, zero)


def test_nobody_to_choose_is_an_error_of_the_cluster() -> None:
    with pytest.raises(PeerUnavailable):
        choose([], {}, random.Random(0))


def test_a_member_never_asked_counts_with_the_weight_of_the_map() -> None:
    members = [worker("weak", serving_weight=0.1), worker("strong")]
    for seed in range(50):
        assert choose(members, {}, random.Random(seed)).member_id == "strong"


def test_a_quick_refusal_does_not_look_like_a_fast_member() -> None:
    table, members = LoadTable(), [worker("refusing"), worker("slow")]
    for _ in range(20):
        table.start("refusing", 0.0)
        table.finish("refusing", 0.0, latency_s=0.0001, ok=False)
        table.start("slow", 0.0)
        table.finish("slow", 0.0, latency_s=0.1)
    loads = table.loads(members, 0.0)
    assert loads["refusing"].latency_s > 0.9 * FAILURE_LATENCY_S
    assert choose(members, loads, random.Random(0)).member_id == "slow"


def test_a_slow_member_is_given_another_chance() -> None:
    table, members = LoadTable(), [worker("was-slow")]
    for _ in range(40):
        table.start("was-slow", 0.0)
        table.finish("was-slow", 0.0, latency_s=5.0)
    now = table.loads(members, 0.0)["was-slow"].latency_s
    later = table.loads(members, FORGET_HALF_LIFE_S)["was-slow"].latency_s
    much_later = table.loads(members, 60 * FORGET_HALF_LIFE_S)["was-slow"].latency_s
    assert later == pytest.approx((now + LATENCY_PRIOR_S) / 2)
    assert much_later == pytest.approx(LATENCY_PRIOR_S)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["start", "finish", "fail", "cancel", "weight", "retain"]),
        st.sampled_from([f"w{i}" for i in range(6)]),
        st.floats(min_value=0, max_value=100),
    ),
    max_size=80,
)


@given(MOVES)
def test_in_flight_returns_to_zero_whatever_happens(moves: list[tuple[str, str, float]]) -> None:
    table, now_s = LoadTable(members_max=3), 0.0
    flying: Counter[str] = Counter()
    for what, name, number in moves:
        now_s += number
        if what == "start":
            table.start(name, now_s)
            flying[name] += 1
        elif what in ("finish", "fail", "cancel") and flying[name]:
            flying[name] -= 1
            if what == "cancel":
                table.cancelled(name)
            else:
                table.finish(name, now_s, latency_s=number, ok=what == "finish")
        elif what == "weight":
            table.heard_weight(name, number, now_s)
        elif what == "retain":
            table.retain([])
        assert table.in_flight == flying.total()
        assert all(load.latency_s > 0 and 0 <= load.serving_weight <= 1 for load in loads_of(table, now_s))
        table.validate()
    for name, count in flying.items():
        for _ in range(count):
            table.cancelled(name)
    assert table.in_flight == 0


def loads_of(table: LoadTable, now_s: float) -> list[Load]:
    return list(table.loads([worker(f"w{i}") for i in range(6)], now_s).values())
