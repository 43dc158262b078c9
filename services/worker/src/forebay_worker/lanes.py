"""One lane of the fill queue for each source (a mount's under store, a peer), each with a controller of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from forebay.runtime import logs
from forebay_worker.goodput import Bounds, Controller, Decision, Plan
from forebay_worker.observe import WorkerMetrics
from forebay_worker.queue import FillQueue

LANES_MAX = 256
"""Sources remembered; idle ones are forgotten first, and begin anew when they come again."""


class Lanes:
    """Controllers by source, what they decide applied to the queue. Without ``tunes`` the plan stays as it starts."""

    def __init__(
        self,
        queue: FillQueue,
        metrics: WorkerMetrics,
        bounds: Bounds,
        *,
        tunes: bool,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.5),
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._bounds = bounds
        self._tunes = tunes
        self._clock = clock
        self._jitter = jitter
        self._controllers: dict[str, Controller] = {}
        self._log = logs.get("forebay_worker.lanes")

    def enter(self, lane: str) -> None:
        """A block of this source is about to be filled."""
        if lane in self._controllers:
            return
        for name in list(self._controllers):
            if len(self._controllers) < LANES_MAX:
                break
            if self._queue.drop_lane(name):
                del self._controllers[name]
        self._controllers[lane] = controller = Controller(self._bounds)
        self._apply(lane, controller.plan)

    def came(self, lane: str, count: int) -> bool:
        """Bytes arrived from a source; whether its plan changed."""
        controller = self._controllers.get(lane)
        if not self._tunes or controller is None:
            return False
        if not self._queue.is_saturated(lane):
            controller.starved()
            return False
        return self._take(lane, controller.came(count, self._clock()))

    def throttled(self, lane: str) -> None:
        """A source refused, or did not answer."""
        controller = self._controllers.get(lane)
        if self._tunes and controller is not None:
            self._take(lane, controller.throttled(self._clock(), self._jitter()))

    def jitter(self) -> float:
        """A factor for a wait."""
        return self._jitter()

    def streams(self) -> dict[tuple[str, ...], float]:
        """Streams of each source, for the metrics."""
        return {(name,): controller.plan.streams for name, controller in self._controllers.items()}

    def request_extents(self) -> dict[tuple[str, ...], float]:
        """Extents of a request to each source."""
        return {(name,): controller.plan.run_extents for name, controller in self._controllers.items()}

    def goodputs(self) -> dict[tuple[str, ...], float]:
        """Measured bytes per second of each source, under its best plan."""
        return {(name,): controller.goodput for name, controller in self._controllers.items()}

    def _take(self, lane: str, decision: Decision | None) -> bool:
        if decision is None:
            return False
        self._apply(lane, decision.plan)
        self._metrics.fill_decisions.add(1, lane, decision.reason)
        self._log.info(
            "fill_plan",
            source=lane,
            reason=decision.reason,
            streams=decision.plan.streams,
            request_extents=decision.plan.run_extents,
            goodput_bytes_per_s=round(decision.goodput),
        )
        return True

    def _apply(self, lane: str, plan: Plan) -> None:
        self._queue.set_lane(lane, streams=plan.streams, run_extents_max=plan.run_extents)
