"""Each source has a controller of its own, and what it decides holds for the queue, the log and the metrics."""

from __future__ import annotations

import logging

import pytest

from forebay.telemetry import Metrics
from forebay_worker.extents import ExtentSet, Geometry
from forebay_worker.goodput import Bounds, Plan
from forebay_worker.lanes import LANES_MAX, Lanes
from forebay_worker.observe import WorkerMetrics
from forebay_worker.queue import FillQueue, Run

MIB = 1 << 20
FAST, SLOW = "ufs:fast", "peer:slow"
START = Plan(4, 1)
TICK_S = 0.02


class Parts:
    """Lanes over a queue that always has work for each source; the clock is the test's."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.flying: list[Run] = []
        self.queue = FillQueue(streams_max=64)
        self.metrics = WorkerMetrics(Metrics())
        bounds = Bounds(START, streams_max=32, run_extents_max=4)
        self.lanes = Lanes(self.queue, self.metrics, bounds, tunes=True, clock=lambda: self.now_s, jitter=lambda: 1.0)
        for lane in (FAST, SLOW):
            self.lanes.enter(lane)
            self.queue.open(lane, ExtentSet(Geometry(4096 * 4 * MIB)), run_extents_max=64, lane=lane)
            self.queue.complete(lane)

    def fly(self) -> None:
        """What was under way ends, and all that may be under way now begins."""
        for run in self.flying:
            self.queue.ended(run)
        self.flying = []
        while (begun := self.queue.next_run()) is not None:
            self.flying.append(begun)

    def tune(self, seconds: float) -> None:
        """Bytes come as the sources give them: the fast one more for each stream, the slow one always the same."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += TICK_S
            self.fly()
            self.lanes.came(FAST, int(self.lanes.streams()[FAST,] * 20e6 * TICK_S))
            self.lanes.came(SLOW, int(50e6 * TICK_S))
            self.queue.validate()


def test_a_source_that_more_streams_help_gets_them_and_another_one_does_not() -> None:
    parts = Parts()
    parts.tune(5.0)
    streams = parts.lanes.streams()
    assert (streams[FAST,], streams[SLOW,]) == (32, START.streams)
    assert parts.lanes.goodputs()[FAST,] > 10 * parts.lanes.goodputs()[SLOW,]
    parts.fly()
    in_flight = [run.lane for run in parts.flying]
    assert (in_flight.count(FAST), in_flight.count(SLOW)) == (32, START.streams)


def test_a_source_that_refuses_loses_half_its_streams_and_no_other_source_does() -> None:
    parts = Parts()
    parts.tune(5.0)
    parts.lanes.throttled(FAST)
    assert (parts.lanes.streams()[FAST,], parts.lanes.streams()[SLOW,]) == (16, START.streams)


def test_every_decision_is_logged_and_counted_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    with caplog.at_level(logging.INFO, "forebay.worker.lanes"):
        parts.tune(3.0)
        parts.lanes.throttled(SLOW)
    counted = parts.metrics.fill_decisions.values()
    assert {reason for source, reason in counted if source == FAST} >= {"try_streams_up"}
    assert counted[SLOW, "throttled"] == 1
    assert len([r for r in caplog.records if "fill_plan" in r.getMessage()]) == sum(counted.values())


def test_sources_that_nothing_is_filled_from_are_forgotten_first() -> None:
    parts = Parts()
    for number in range(LANES_MAX + 10):
        parts.lanes.enter(f"ufs:{number}")
    names = {name for (name,) in parts.lanes.streams()}
    assert len(names) == LANES_MAX
    assert {FAST, SLOW, f"ufs:{LANES_MAX + 9}"} <= names
