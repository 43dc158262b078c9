"""What all benches share: paired runs, the median's interval, and one JSON line per figure.

A figure compares two sides measured in turn (A B A B …) in one run. The ratio's median is reported with its 90 %
interval (order statistics, no assumption about the distribution); pairs are added until that interval is narrower than
half its distance to the goal, or `PAIRS_MAX` pairs are done. Side A against itself tells the noise.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

PAIRS_MIN = 5
PAIRS_MAX = 31
NOISE_PAIRS = 3
CONFIDENCE = 0.9

Run = Callable[[], float]
"""One measured run of one side; returns its rate (higher is better)."""


@dataclass(frozen=True)
class Options:
    """``quick``: the short form that keeps a bench working and judges nothing. ``seconds``: how long a figure of
    endurance lasts instead of its own time. ``parts``: a file of what was measured of such a figure before; this run is
    added to it, and the figure is about all of them together."""

    quick: bool = False
    seconds: float | None = None
    parts: Path | None = None


@dataclass(frozen=True)
class Figure:
    """One line of output. ``goal`` is the least (or, with ``lower_is_better``, the most) that is good enough."""

    bench: str
    figure: str
    value: float
    unit: str = "ratio"
    goal: float | None = None
    lower_is_better: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the goal is reached; without one, always."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.lower_is_better else self.value >= self.goal

    def line(self) -> str:
        """The JSON line."""
        return json.dumps(
            {
                "bench": self.bench,
                "figure": self.figure,
                "value": round(self.value, 4),
                "unit": self.unit,
                "goal": self.goal,
                "ok": self.ok,
                "detail": dict(self.detail),
            }
        )


@dataclass(frozen=True)
class Ratio:
    """Ours over theirs: median, its 90 % interval, what was measured, and the spread of a side against itself."""

    value: float
    low: float
    high: float
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    noise: tuple[float, ...]

    def detail(self, unit: str) -> dict[str, Any]:
        """For `Figure.detail`; ``unit`` names the rates (``MBps``)."""
        return {
            f"ours_{unit}": round(median(self.ours), 1),
            f"theirs_{unit}": round(median(self.theirs), 1),
            "interval": [round(self.low, 3), round(self.high, 3)],
            "noise": [round(ratio, 3) for ratio in self.noise],
            "runs": [[round(a, 1), round(b, 1)] for a, b in zip(self.ours, self.theirs, strict=True)],
        }


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bounds between which the true median lies with ``confidence``; infinite for too few values.

    The k-th smallest and k-th largest value enclose it with probability 1 - 2 P(Bin(n, 1/2) < k).
    """
    n, tail, rank = len(values), 0.0, 0
    while rank < n // 2:
        tail += math.comb(n, rank) / 2**n
        if 1 - 2 * tail < confidence:
            break
        rank += 1
    if not rank:
        return -math.inf, math.inf
    ordered = sorted(values)
    return ordered[rank - 1], ordered[n - rank]


def is_settled(ratios: Sequence[float], goal: float) -> bool:
    """Whether the interval is narrower than half its median's distance to the goal."""
    low, high = median_interval(ratios)
    return high - low < abs(median(ratios) - goal) / 2


def compare(
    ours: Run,
    theirs: Run,
    *,
    goal: float,
    options: Options,
    name: str = "",
    pairs_min: int = PAIRS_MIN,
    budget_s: float = math.inf,
) -> Ratio:
    """Pairs of runs until the ratio is settled. One untimed run of each side comes first.

    After ``budget_s`` no pair is begun, if there are ``pairs_min``.
    """
    ours()
    theirs()
    pairs: list[tuple[float, float]] = []
    most, end = 2 if options.quick else PAIRS_MAX, time.monotonic() + budget_s
    while len(pairs) < most:
        pairs.append((ours(), theirs()))
        ratios = [a / b for a, b in pairs]
        say(f"{name} pair {len(pairs)}: {pairs[-1][0]:.1f} / {pairs[-1][1]:.1f} = {ratios[-1]:.3f}")
        if len(pairs) >= pairs_min and (is_settled(ratios, goal) or time.monotonic() > end):
            break
    noise = [] if options.quick else [ours() / ours() for _ in range(NOISE_PAIRS)]
    ratios = [a / b for a, b in pairs]
    low, high = median_interval(ratios)
    if math.isinf(low):
        low, high = min(ratios), max(ratios)
    return Ratio(median(ratios), low, high, tuple(a for a, _ in pairs), tuple(b for _, b in pairs), tuple(noise))


def environment(*packages: str) -> dict[str, str]:
    """Versions that a figure depends on."""
    found = {name: version(name) for name in packages}
    return {"python": platform.python_version(), "kernel": platform.release(), **found}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(figures: Sequence[Figure]) -> str:
    """Figures for people."""
    rows = [("figure", "value", "goal", "ok", "interval")]
    for f in figures:
        interval = f.detail.get("interval")
        shown = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
        goal = "" if f.goal is None else f"{f.goal:g}"
        rows.append((f"{f.bench}.{f.figure}", f"{f.value:.3f} {f.unit}", goal, "yes" if f.ok else "NO", shown))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
