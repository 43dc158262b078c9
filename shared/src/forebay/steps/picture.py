"""The report as a picture: per epoch a bar of images/s and a timeline, as SVG and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

from forebay.steps.attribution import CAUSES, Stretch, attribute
from forebay.steps.report import EpochReport, Report
from forebay.telemetry.waits import Span

WIDTH, LEFT, RIGHT = 1200, 110, 20
BAR, LINE, LANE, GAP = 26, 120, 14, 12
LANES_MAX = 40
COLOURS = {
    "compute": "#b7d7b0",
    "metadata": "#9467bd",
    "local": "#1f77b4",
    "remote": "#17becf",
    "ufs": "#d62728",
    "queueing": "#ff7f0e",
    "fuse": "#8c564b",
    "processing": "#bcbd22",
    "starting": "#7f7f7f",
    "unknown": "#000000",
    "mount": "#8c564b",
}
Columns = list[dict[str, float]]


def picture(found: Report, spans: Sequence[Span]) -> str:
    """The SVG document."""
    stretches, parts, y = attribute(spans), list[str](), 10.0
    for x, name in _legend():
        parts += [_box(x, y, 12, 12, COLOURS[name], name), _text(x + 16, y + 10, name)]
    y += 26
    for epoch in found.epochs:
        drawn, y = _epoch(epoch, spans, [s for s in stretches if s.epoch == epoch.epoch], y)
        parts += drawn
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0f}" font-family="sans-serif"'
    return "\n".join(
        [f'{head} font-size="11">', f'<rect width="{WIDTH}" height="{y:.0f}" fill="#fff"/>', *parts, "</svg>\n"]
    )


def _legend() -> Iterator[tuple[float, str]]:
    for number, name in enumerate(("compute", *CAUSES)):
        yield LEFT + number * 105, name


def _epoch(
    epoch: EpochReport, spans: Sequence[Span], stretches: Sequence[Stretch], y: float
) -> tuple[list[str], float]:
    title = (
        f"epoch {epoch.epoch}: {epoch.images_per_s:,.0f} of {epoch.images_per_s_without_waits:,.0f} images/s,"
        f" {epoch.waited_s:.2f} s of {epoch.seconds:.2f} s waited, {epoch.explained:.0%} explained"
    )
    parts = [_text(LEFT, y + 12, title)]
    parts += _bar(epoch, y + 20)
    y += 20 + BAR + GAP
    steps = [s for s in spans if s.kind in ("wait", "compute") and s.epoch == epoch.epoch]
    if not steps:
        return parts, y
    from_s, to_s = min(s.began_s for s in steps), max(s.ended_s for s in steps)
    scale = _Scale(from_s, max(to_s, from_s + 1e-6))
    parts += [_text(5, y + LINE / 2, "accelerator"), *_stacked(_timeline(scale, steps, stretches), y)]
    y += LINE + GAP / 2
    for name, held in _lanes(spans, from_s, to_s):
        parts += [_text(5, y + 10, name), *_lane(scale, held, y)]
        y += LANE + 2
    parts += [_text(LEFT, y + 12, "0 s"), _text(WIDTH - RIGHT - 50, y + 12, f"{to_s - from_s:.2f} s")]
    return parts, y + 12 + 2 * GAP


def _bar(epoch: EpochReport, y: float) -> list[str]:
    """Images/s reached, then those that were lost to each cause."""
    whole, x, parts = max(epoch.images_per_s_without_waits, 1e-9), float(LEFT), list[str]()
    for name, rate in [("compute", epoch.images_per_s), *((lost.cause, lost.images_per_s) for lost in epoch.lost)]:
        width = (WIDTH - LEFT - RIGHT) * rate / whole
        if width > 0:
            parts.append(_box(x, y, width, BAR, COLOURS[name], f"{name}: {rate:,.1f} images/s"))
        x += width
    return [_text(5, y + 16, "images/s"), *parts]


class _Scale:
    """Seconds to columns of one pixel."""

    def __init__(self, from_s: float, to_s: float) -> None:
        self.from_s, self.count = from_s, WIDTH - LEFT - RIGHT
        self.column_s = (to_s - from_s) / self.count

    def spread(self, began_s: float, ended_s: float) -> Iterator[tuple[int, float]]:
        """Columns that a time lies in, and the share of each that it takes."""
        first, last = (began_s - self.from_s) / self.column_s, (ended_s - self.from_s) / self.column_s
        for column in range(max(0, int(first)), min(self.count, int(last) + 1)):
            share = min(last, column + 1) - max(first, column)
            if share > 0:
                yield column, share


def _timeline(scale: _Scale, steps: Iterable[Span], stretches: Iterable[Stretch]) -> Columns:
    columns: Columns = [defaultdict(float) for _ in range(scale.count)]
    for step in steps:
        if step.kind == "compute":
            for column, share in scale.spread(step.began_s, step.ended_s):
                columns[column]["compute"] += share
    for stretch in stretches:
        took_s = stretch.ended_s - stretch.began_s
        for cause, seconds in stretch.parts.items():
            for column, share in scale.spread(stretch.began_s, stretch.ended_s):
                columns[column][cause.name] += share * seconds / took_s
    return columns


def _stacked(columns: Columns, y: float) -> list[str]:
    """Equal neighbours are one box."""
    rounded = [tuple((n, round(c.get(n, 0.0), 2)) for n in COLOURS if c.get(n, 0.0) >= 0.01) for c in columns]
    parts, column = list[str](), 0
    while column < len(rounded):
        end = column + 1
        while end < len(rounded) and rounded[end] == rounded[column]:
            end += 1
        bottom = y + LINE
        for name, share in rounded[column]:
            height = share * LINE
            bottom -= height
            parts.append(_box(LEFT + column, bottom, end - column, height, COLOURS[name]))
        column = end
    return parts


def _lanes(spans: Sequence[Span], from_s: float, to_s: float) -> list[tuple[str, list[Span]]]:
    """What was under way: a lane for each worker, and for what is not a worker's."""
    lanes: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if (
            span.kind in ("remote", "ufs", "metadata", "local", "mount")
            and span.ended_s > from_s
            and span.began_s < to_s
        ):
            lanes[span.member or span.kind].append(span)
    return sorted(lanes.items())[:LANES_MAX]


def _lane(scale: _Scale, spans: Iterable[Span], y: float) -> list[str]:
    columns: list[str | None] = [None] * scale.count
    for span in spans:
        for column, _ in scale.spread(span.began_s, span.ended_s):
            if columns[column] != "ufs":
                columns[column] = span.kind
    parts, column = list[str](), 0
    while column < len(columns):
        end, kind = column + 1, columns[column]
        while end < len(columns) and columns[end] == kind:
            end += 1
        if kind is not None:
            parts.append(_box(LEFT + column, y, end - column, LANE, COLOURS[kind]))
        column = end
    return parts


def _box(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    place = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"'
    return f"{place}><title>{escape(title)}</title></rect>" if title else f"{place}/>"


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text[:120])}</text>'
