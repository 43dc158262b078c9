"""How many streams fill from one source, and how long their requests are: tuned by measured goodput. Pure.

Phases: *climb* doubles the streams, then the request size, while each step brings `CLIMB_GAIN` more; *watch* measures
now and then what there is and one neighbour, and takes the neighbour if it brought `WATCH_GAIN` more. A step that did
not is taken back, so outside of a trial the plan is the best that was measured. Goodput counts only while the source
is the bound: whoever has no work for a free stream says so (``starved``), and the window begins anew. An answer like
503, or none in time, halves the streams (``throttled``), and they grow again only after a pause that doubles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

WARM_UP_S = 0.25
"""After a change: what comes then is still the old plan's."""

WINDOW_S = 0.5
"""One measurement."""

CLIMB_GAIN = 1.08
WATCH_GAIN = 1.05
WATCH_MIN_S = 4.0
WATCH_MAX_S = 60.0
"""Between two trials of the watch; doubles while nothing changes."""

COLLAPSE = 0.5
COLLAPSED_WINDOWS = 3
"""So many windows in a row below that share of the best: the source is another one now, and the climb begins anew."""

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 60.0
SAME_EVENT_S = 0.5
"""Refusals so close together are one: all requests under way hear it."""


@dataclass(frozen=True)
class Plan:
    """Requests at the same time, and neighbouring extents in one of them."""

    streams: int
    run_extents: int


@dataclass(frozen=True)
class Bounds:
    """Where tuning begins, and how far it may go."""

    start: Plan
    streams_max: int
    run_extents_max: int


@dataclass(frozen=True)
class Decision:
    """What was decided and why; ``goodput`` in bytes per second is what was measured under the plan before."""

    plan: Plan
    reason: str
    goodput: float


class Controller:
    """Tunes one source. ``plan`` holds now.

    Invariants (``validate``): the plan is within the bounds; without a trial it is ``best``.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.best = self.plan = bounds.start
        self.goodput = 0.0
        """Of ``best``, as it was measured last."""
        self._ceiling = bounds.streams_max
        self._steps: list[str] = ["streams_up", "size_up"]
        self._trial: str | None = None
        self._watches = False
        self._since_s: float | None = None
        self._since_bytes = 0
        self._next_trial_s = 0.0
        self._watch_s = WATCH_MIN_S
        self._watched = 0
        self._low_windows = 0
        self._pause_s = PAUSE_MIN_S
        self._refused_s: float | None = None
        self._paused_until_s = 0.0
        self._total = 0

    @property
    def is_settled(self) -> bool:
        """Whether the climb is over."""
        return self._watches

    # -- what happens

    def starved(self) -> None:
        """A stream found no work: what is measured now is the demand, not the source."""
        self._since_s = None

    def came(self, count: int, now_s: float) -> Decision | None:
        """Bytes arrived while all streams had work."""
        self._total += count
        if self._since_s is None or now_s < self._since_s:
            if self._since_s is None:
                self._since_s = now_s + (WARM_UP_S if self._trial or not self.goodput else 0.0)
            self._since_bytes = self._total
            return None
        if now_s - self._since_s < WINDOW_S:
            return None
        rate = (self._total - self._since_bytes) / (now_s - self._since_s)
        self._since_s, self._since_bytes = now_s, self._total
        return self._measured(rate, now_s)

    def throttled(self, now_s: float, jitter: float) -> Decision | None:
        """The source refused or did not answer in time; ``jitter`` (0.5 to 1.5) spreads the pause."""
        if self._refused_s is not None and now_s - self._refused_s < SAME_EVENT_S:
            return None
        if self._refused_s is not None and now_s - self._refused_s > 4 * self._pause_s:
            self._pause_s = PAUSE_MIN_S
        self._refused_s = now_s
        self._paused_until_s = now_s + self._pause_s * jitter
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        self._ceiling = max(1, self.plan.streams // 2)
        self.best = replace(self.best, streams=self._ceiling)
        self._trial, self._watch_s = None, WATCH_MIN_S
        self._next_trial_s = self._paused_until_s
        return self._go(self.best, "throttled", self.goodput)

    # -- decisions

    def _measured(self, rate: float, now_s: float) -> Decision | None:
        if self._trial is not None:
            return self._judge(self._trial, rate, now_s)
        self._low_windows = self._low_windows + 1 if rate < COLLAPSE * self.goodput else 0
        if self._low_windows >= COLLAPSED_WINDOWS:
            self._low_windows, self._watches, self._steps = 0, False, ["streams_up", "size_up"]
        if now_s < self._paused_until_s:
            return None
        if not self._watches:
            self.goodput = rate
            return self._climb(rate)
        if now_s < self._next_trial_s:
            return None
        self.goodput = rate
        return self._watch(rate, now_s)

    def _judge(self, step: str, rate: float, now_s: float) -> Decision | None:
        """A trial's window is over: keep it, or go back."""
        gain = WATCH_GAIN if self._watches else CLIMB_GAIN
        before, self._trial = self.goodput, None
        if rate > before * gain:
            self.best, self.goodput = self.plan, rate
            self._watch_s = WATCH_MIN_S
            further = None if self._watches else self._climb(rate)
            return further or self._stay(f"kept_{step}", rate, now_s)
        if not self._watches:
            self._steps.pop(0)
            further = self._climb(rate)
            if further is not None:
                return further
        self._watch_s = min(2 * self._watch_s, WATCH_MAX_S)
        return self._stay(f"reverted_{step}", rate, now_s)

    def _climb(self, rate: float) -> Decision | None:
        """The next step of the climb from the best; ``None`` when there is none."""
        while self._steps:
            wanted = self._neighbour(self._steps[0])
            if wanted is not None:
                self._trial = self._steps[0]
                return self._go(wanted, f"try_{self._steps[0]}", rate)
            self._steps.pop(0)
        self._watches = True
        return None

    def _stay(self, reason: str, rate: float, now_s: float) -> Decision:
        self._next_trial_s = now_s + self._watch_s
        return self._go(self.best, reason, rate)

    def _watch(self, rate: float, now_s: float) -> Decision | None:
        """One neighbour in turn; a source that refused gets a quarter more streams each time until it refuses again."""
        if self._ceiling < self._bounds.streams_max:
            self._ceiling = min(self._bounds.streams_max, self._ceiling + max(1, self._ceiling // 4))
            self._watched = 0
        for _ in WATCHED:
            step = WATCHED[self._watched % len(WATCHED)]
            self._watched += 1
            wanted = self._neighbour(step)
            if wanted is not None:
                self._trial = step
                return self._go(wanted, f"try_{step}", rate)
        self._next_trial_s = now_s + self._watch_s
        return None

    def _neighbour(self, step: str) -> Plan | None:
        streams, size = self.best.streams, self.best.run_extents
        if step.startswith("streams"):
            streams = min(2 * streams, self._ceiling) if step == "streams_up" else max(1, streams // 2)
        else:
            size = min(2 * size, self._bounds.run_extents_max) if step == "size_up" else max(1, size // 2)
        wanted = Plan(streams, size)
        is_up = wanted.streams >= self.best.streams and wanted.run_extents >= self.best.run_extents
        return None if wanted == self.best or (step.endswith("up") and not is_up) else wanted

    def _go(self, plan: Plan, reason: str, rate: float) -> Decision:
        self._since_s = None
        self.plan = plan
        return Decision(plan, reason, rate)

    def validate(self) -> None:
        """Raises ``AssertionError`` if an invariant is broken."""
        bounds = self._bounds
        assert 1 <= self.plan.streams <= max(bounds.streams_max, bounds.start.streams), self.plan
        assert 1 <= self.plan.run_extents <= max(bounds.run_extents_max, bounds.start.run_extents), self.plan
        assert self._trial is not None or self.plan == self.best, (self._trial, self.plan, self.best)


WATCHED: Sequence[str] = ("streams_up", "size_up", "streams_down", "size_down")
"""What the watch tries, in turn."""
