"""Measures what the serving weight is made of, once a second: CPU time of the control group, queue, tiers, health.

Health checks are plug-ins: functions named by the setting ``health_checks`` as ``module:function``, which return a
score from 0 (do not ask me) to 1, or a bool. They run on a thread; one that raises, takes too long or returns anything
else scores 0, which takes the worker out of selection (it is still asked where nobody else can answer).
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Mapping, Sequence

from forebay.errors import ConfigError
from forebay.runtime import logs
from forebay.runtime.cgroup import cpu_quota, cpu_used_s
from forebay_worker.serving import Vitals, base_weight

PERIOD_S = 1.0
CHECK_TIMEOUT_S = 2.0
SETTING = "health_checks"

HealthCheck = Callable[[], object]


def load_checks(names: Sequence[str]) -> dict[str, HealthCheck]:
    """The functions by name.

    Raises:
        ConfigError: one cannot be imported, or is no function.
    """
    return {name: _load(name) for name in names}


def _load(name: str) -> HealthCheck:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:
        raise ConfigError(SETTING, f"{name!r} cannot be loaded: {e}") from e
    if not callable(found):
        raise ConfigError(SETTING, f"{name!r} is no function")
    check: HealthCheck = found
    return check


def score_of(answer: object) -> float:
    """What a check's answer means; anything but a number from 0 to 1 is ill health."""
    if isinstance(answer, int | float) and 0.0 <= answer <= 1.0:
        return float(answer)
    return 0.0


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
        checks: Mapping[str, HealthCheck],
        *,
        meter: CpuMeter,
        fills_per_stream: Callable[[], float],
        leaving: Callable[[], float],
        in_service: Callable[[], float],
        check_timeout_s: float = CHECK_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = dict(checks)
        self._meter = meter
        self._fills_per_stream = fills_per_stream
        self._leaving = leaving
        self._in_service = in_service
        self._check_timeout_s = check_timeout_s
        self._clock = clock
        self._began_s = clock()
        self._running: dict[str, asyncio.Future[object]] = {}
        self._scores: dict[str, float] = {}
        self._log = logs.get("forebay_worker.vitals")
        self.vitals = Vitals(age_s=0.0)
        self.base = base_weight(self.vitals)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """One look at everything."""
        scores = await asyncio.gather(*(self._score(name, check) for name, check in self._checks.items()))
        self.vitals = Vitals(
            cpu_used=self._meter.share(),
            fills_per_stream=self._fills_per_stream(),
            leaving=self._leaving(),
            health=min((self._in_service(), *scores)),
            age_s=self._clock() - self._began_s,
        )
        self.base = base_weight(self.vitals)

    async def _score(self, name: str, check: HealthCheck) -> float:
        """The check's score. One that hangs keeps its one thread and is not begun again before it ends."""
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.get_running_loop().run_in_executor(None, check)
        done, _ = await asyncio.wait((running,), timeout=self._check_timeout_s)
        if not done:
            return self._noted(name, 0.0, "took too long")
        del self._running[name]
        error = running.exception()
        if error is not None:
            return self._noted(name, 0.0, repr(error))
        score = score_of(running.result())
        return self._noted(name, score, "" if score else "says that this worker should not be asked")

    def _noted(self, name: str, score: float, why: str) -> float:
        """Logs when a check's verdict changes between zero and more."""
        if bool(score) != bool(self._scores.get(name, 1.0)):
            self._log.warning("health_check", check=name, score=score, reason=why)
        self._scores[name] = score
        return score
