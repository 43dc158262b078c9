"""Measures what the serving weight is made of, once a second: CPU time of the control group, queue, tiers, health.

``health`` is the least score of the health checks that operators bring (``checking``); 0 takes the worker out of
selection (it is still asked where nobody else can answer).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from forebay.runtime.cgroup import cpu_quota, cpu_used_s
from forebay_worker.serving import Vitals, base_weight

PERIOD_S = 1.0


class CpuMeter:
    """Share of the granted CPU time that was used since the last look."""

    def __init__(
        self,
        *,
        used_s: Callable[[], float] = cpu_used_s,
        quota: Callable[[], float] = cpu_quota,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._used_s, self._quota, self._clock = used_s, quota, clock
        self._last = used_s(), clock()

    def share(self) -> float:
        """From 0 to 1."""
        used_s, now_s = self._used_s(), self._clock()
        before_s, then_s = self._last
        if now_s <= then_s:
            return 0.0
        self._last = used_s, now_s
        return min(1.0, max(0.0, (used_s - before_s) / (now_s - then_s) / self._quota()))


class VitalSigns:
    """Keeps ``base`` up to date. The callables say how things stand now."""

    def __init__(
        self,
        *,
        meter: CpuMeter,
        health: Callable[[], float],
        fills_per_stream: Callable[[], float],
        leaving: Callable[[], float],
        in_service: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = meter
        self._health = health
        self._fills_per_stream = fills_per_stream
        self._leaving = leaving
        self._in_service = in_service
        self._clock = clock
        self._began_s = clock()
        self.vitals = Vitals(age_s=0.0)
        self.base = base_weight(self.vitals)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(PERIOD_S)

    def look(self) -> None:
        """One look at everything."""
        self.vitals = Vitals(
            cpu_used=self._meter.share(),
            fills_per_stream=self._fills_per_stream(),
            leaving=self._leaving(),
            health=min(self._in_service(), self._health()),
            age_s=self._clock() - self._began_s,
        )
        self.base = base_weight(self.vitals)
