"""The fill controller on simulated sources."""

from __future__ import annotations

from collections.abc import Callable

from forebay_worker.goodput import WATCH_MAX_S, Bounds, Controller, Decision, Plan

START = Plan(8, 4)
BOUNDS = Bounds(START, streams_max=64, run_extents_max=16)
TICK_S = 0.02

Source = Callable[[Plan], float]
"""Bytes per second under a plan."""


def far(plan: Plan) -> float:
    """50 ms each way, 40 MB/s a connection, 600 MB/s in all."""
    size = plan.run_extents * 4.2e6
    return min(600e6, plan.streams * size / (0.1 + size / 40e6))


def near(plan: Plan) -> float:
    """A server on this host: more streams than 8 cost it a little."""
    return 900e6 * (1 - 0.01 * abs(plan.streams - 8))


class Simulation:
    """Feeds a controller what a source would give; the clock is the test's."""

    def __init__(self, source: Source, bounds: Bounds = BOUNDS) -> None:
        self.controller = Controller(bounds)
        self.source = source
        self.now_s = 0.0
        self.decisions: list[tuple[float, Decision]] = []

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += TICK_S
            decision = self.controller.came(int(self.source(self.controller.plan) * TICK_S), self.now_s)
            if decision is not None:
                self.decisions.append((self.now_s, decision))
            self.controller.validate()


def best(source: Source) -> float:
    """Of all fixed settings."""
    return max(source(Plan(streams, size)) for streams in range(1, 65) for size in range(1, 17))


def test_a_far_source_is_settled_within_five_seconds_at_the_best_setting() -> None:
    simulation = Simulation(far)
    simulation.run(5)
    assert simulation.controller.is_settled
    assert far(simulation.controller.plan) >= 0.95 * best(far)


def test_a_near_source_keeps_what_it_began_with() -> None:
    simulation = Simulation(near)
    simulation.run(5)
    assert simulation.controller.plan == START
    assert near(START) >= 0.95 * best(near)


def test_outside_of_trials_goodput_never_falls() -> None:
    simulation = Simulation(far)
    kept = 0.0
    for _ in range(3000):
        simulation.run(TICK_S)
        if simulation.controller.plan == simulation.controller.best:
            assert far(simulation.controller.plan) >= kept * 0.999
            kept = far(simulation.controller.plan)


def test_the_watch_slows_down_while_nothing_changes() -> None:
    simulation = Simulation(far)
    simulation.run(600)
    trials = [at_s for at_s, decision in simulation.decisions if decision.reason.startswith("try") and at_s > 300]
    assert len(trials) <= 300 / WATCH_MAX_S + 1


def test_a_source_that_becomes_another_one_is_climbed_anew() -> None:
    simulation = Simulation(near)
    simulation.run(10)
    simulation.source = far
    simulation.run(10)
    assert far(simulation.controller.plan) >= 0.95 * best(far)


def test_a_demand_below_the_source_teaches_nothing() -> None:
    simulation = Simulation(far)
    for _ in range(200):
        simulation.run(0.1)
        simulation.controller.starved()
    assert simulation.decisions == []


def test_a_refusal_halves_the_streams_once_however_many_requests_hear_it() -> None:
    simulation = Simulation(near)
    simulation.run(5)
    first = simulation.controller.throttled(simulation.now_s, 1.0)
    assert first is not None
    assert first.plan == Plan(4, 4)
    for _ in range(30):
        assert simulation.controller.throttled(simulation.now_s + 0.1, 1.0) is None
    simulation.controller.validate()


def test_refusals_one_after_the_other_go_down_to_one_stream_and_no_further() -> None:
    simulation = Simulation(near)
    for _ in range(12):
        simulation.run(1)
        simulation.controller.throttled(simulation.now_s, 0.5)
        simulation.controller.validate()
    assert simulation.controller.plan.streams == 1


def test_after_a_refusal_the_streams_grow_again_to_what_the_source_gives() -> None:
    simulation = Simulation(far)
    simulation.run(10)
    before = simulation.controller.plan.streams
    simulation.controller.throttled(simulation.now_s, 1.0)
    assert simulation.controller.plan.streams == before // 2
    simulation.run(300)
    assert far(simulation.controller.plan) >= 0.95 * best(far)


def test_a_server_that_refuses_above_a_number_of_streams_is_kept_busy_below_it() -> None:
    limit = 20
    simulation = Simulation(far)
    refusals = 0
    for _ in range(3000):
        simulation.run(0.1)
        if simulation.controller.plan.streams > limit:
            refusals += simulation.controller.throttled(simulation.now_s, 1.0) is not None
    assert simulation.controller.plan.streams <= limit
    assert simulation.controller.best.streams >= limit // 3
    assert refusals < 30
