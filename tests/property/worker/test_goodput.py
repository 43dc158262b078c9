"""The fill controller on sources of any shape, with noise, hunger and refusals in any order."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_worker.goodput import Bounds, Controller, Plan

PLANS = st.builds(Plan, st.integers(1, 64), st.integers(1, 16))


@settings(max_examples=60, deadline=None)
@given(
    rtt_s=st.floats(0.0005, 0.2),
    each=st.floats(5e6, 400e6),
    whole=st.floats(50e6, 2e9),
    start=PLANS,
    seed=st.integers(0, 1000),
)
def test_it_ends_near_the_best_of_any_source_that_streams_help(
    rtt_s: float, each: float, whole: float, start: Plan, seed: int
) -> None:
    def rate(plan: Plan) -> float:
        size = plan.run_extents * 4.2e6
        return min(whole, plan.streams * size / (rtt_s + size / each))

    # given a source whose goodput is measured within 2 %
    rng, controller, now_s = random.Random(seed), Controller(Bounds(start, 64, 16)), 0.0
    # when it is filled from for four minutes
    while now_s < 240:
        now_s += 0.05
        controller.came(int(rate(controller.plan) * 0.05 * rng.uniform(0.98, 1.02)), now_s)
        controller.validate()
    # then it is near the best that there is, and not below where it began
    best = max(rate(Plan(streams, size)) for streams in range(1, 65) for size in range(1, 17))
    assert rate(controller.best) >= 0.85 * best
    assert rate(controller.best) >= 0.95 * rate(start)


@settings(max_examples=100, deadline=None)
@given(
    start=PLANS,
    events=st.lists(
        st.tuples(st.sampled_from(["came", "starved", "throttled"]), st.floats(0, 3), st.integers(0, 10**9)),
        max_size=200,
    ),
)
def test_no_order_of_events_leads_out_of_its_bounds(start: Plan, events: list[tuple[str, float, int]]) -> None:
    controller, now_s = Controller(Bounds(start, 32, 8)), 0.0
    for kind, later_s, count in events:
        now_s += later_s
        before = controller.plan
        if kind == "came":
            controller.came(count, now_s)
        elif kind == "starved":
            controller.starved()
            assert controller.plan == before
        else:
            controller.throttled(now_s, 0.5 + later_s / 3)
            assert controller.plan.streams <= before.streams
        controller.validate()
