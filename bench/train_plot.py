"""Images/s and utilisation by number of accelerators, as SVG: a row of two panels for each profile.

Lines of one panel often lie on each other, so the first are the widest. Untuned ones are dashed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from bench.train_places import MODES

COLOURS = dict(zip(MODES, ("#bbbbbb", "#d62728", "#1f77b4", "#2ca02c", "#ff7f0e"), strict=True))
WIDE = dict(zip(MODES, (9, 6.5, 4.5, 3, 1.5), strict=True))
PANEL, HIGH, LEFT, GAP, TOP = 480, 240, 60, 60, 64
TICKS = 4
ROUND = (1, 2, 2.5, 5, 10)


class Point(Protocol):
    """What is drawn of a row."""

    @property
    def profile(self) -> str:
        """Whose accelerators."""

    @property
    def knobs(self) -> str:
        """tuned or untuned."""

    @property
    def mode(self) -> str:
        """Where it read."""

    @property
    def accelerators(self) -> int:
        """How many."""

    @property
    def images_per_s(self) -> float:
        """Reached."""

    @property
    def utilisation(self) -> float:
        """Of the accelerators."""

    @property
    def is_decoded(self) -> bool:
        """Whether images were decoded."""


def plot(found: Sequence[Point]) -> str:
    """The document."""
    kinds = list(dict.fromkeys((point.profile, point.is_decoded) for point in found))
    width, height = 2 * (LEFT + PANEL) + 40, TOP + len(kinds) * (HIGH + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"']
    parts = [f'{parts[0]} font-size="12">', f'<rect width="{width}" height="{height}" fill="#fff"/>', *_legend(found)]
    for number, (profile, is_decoded) in enumerate(kinds):
        of = [point for point in found if (point.profile, point.is_decoded) == (profile, is_decoded)]
        y, name = TOP + number * (HIGH + GAP), f"{profile}, decoded" if is_decoded else profile
        most = max(point.images_per_s for point in of) or 1.0
        parts += _panel(of, LEFT, y, f"{name}: images/s", (most, ",.0f"), lambda point: point.images_per_s)
        x = 2 * LEFT + PANEL
        parts += _panel(of, x, y, f"{name}: accelerator utilisation", (1.0, ".0%"), lambda point: point.utilisation)
    return "\n".join([*parts, "</svg>\n"])


def _legend(found: Sequence[Point]) -> list[str]:
    parts = list[str]()
    for number, (mode, knobs) in enumerate(_lines(found)):
        x = LEFT + number % 5 * 200
        y = 14 + number // 5 * 16
        parts += [_line([(x, y - 4), (x + 30, y - 4)], mode, knobs), _text(x + 36, y, f"{mode}, {knobs}")]
    return parts


def _lines(found: Sequence[Point]) -> list[tuple[str, str]]:
    there = {(point.mode, point.knobs) for point in found}
    return [(mode, knobs) for knobs in ("tuned", "untuned") for mode in MODES if (mode, knobs) in there]


def _panel(
    found: Sequence[Point],
    left: int,
    top: int,
    title: str,
    scale: tuple[float, str],
    value: Callable[[Point], float],
) -> list[str]:
    (most, form), widest = scale, max(point.accelerators for point in found)
    parts = [_text(left, top - 12, f"{title} by number of accelerators")]
    for tick in ticks(most):
        y = top + HIGH * (1 - tick / most)
        parts += [_rule(left, y, left + PANEL, y), _text(left - 6, y + 4, format(tick, form), "end")]
    for count in sorted({point.accelerators for point in found}):
        x = left + PANEL * count / widest
        parts += [_rule(x, top, x, top + HIGH), _text(x, top + HIGH + 16, str(count), "middle")]
    for mode, knobs in sorted(_lines(found), key=lambda line: MODES.index(line[0])):  # the widest lie below
        places = sorted(
            (left + PANEL * point.accelerators / widest, top + HIGH * (1 - value(point) / most))
            for point in found
            if (point.mode, point.knobs) == (mode, knobs)
        )
        parts += [_line(places, mode, knobs), *(_dot(x, y, mode) for x, y in places)]
    return parts


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to at most ``most``, about ``TICKS`` beside 0."""
    least = most / TICKS
    unit = 10.0 ** math.floor(math.log10(least))
    step = next(unit * by for by in ROUND if unit * by >= least * 0.8)
    return [step * number for number in range(int(most / step + 1e-9) + 1)]


def _line(places: Sequence[tuple[float, float]], mode: str, knobs: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="7 5"' if knobs == "untuned" else ""
    return f'<polyline points="{points}" fill="none" stroke="{COLOURS[mode]}" stroke-width="{WIDE[mode]}"{dashes}/>'


def _dot(x: float, y: float, mode: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{WIDE[mode] / 2 + 2:.1f}" fill="{COLOURS[mode]}"/>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
