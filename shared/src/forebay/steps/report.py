"""Per epoch: images/s, images/s without waiting, and what the difference was lost to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from forebay.errors import InvalidRequest
from forebay.steps.attribution import CAUSES, Cause, Stretch, attribute
from forebay.telemetry.waits import SPANS_MAX, SUFFIX, Span

SLOW_NAMED = 10


@dataclass(frozen=True)
class Lost:
    """To one cause: seconds of waiting, and the images/s they cost."""

    cause: str
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class Slow:
    """A block that was waited for while a worker fetched it from the under store."""

    path: str
    block: str
    worker: str
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class EpochReport:
    """``lost`` has every cause, ``unknown`` last; together they are ``images_per_s_without_waits - images_per_s``.
    ``explained`` is the part of the measured wait that is not ``unknown``."""

    epoch: int
    steps: int
    images: int
    seconds: float
    waited_s: float
    images_per_s: float
    images_per_s_without_waits: float
    explained: float
    lost: tuple[Lost, ...]
    slow: tuple[Slow, ...]


@dataclass(frozen=True)
class Report:
    """``is_whole``: no process had more to say than is kept."""

    epochs: tuple[EpochReport, ...]
    is_whole: bool = True

    def json(self) -> bytes:
        """As the command prints it."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_spans(folder: Path) -> tuple[list[Span], bool]:
    """All spans of a run, and whether they are all there were. A line that was cut off by a kill is left out.

    Raises:
        InvalidRequest: there are none, or the folder is something else.
    """
    spans, is_whole = list[Span](), True
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        lines = path.read_bytes().split(b"\n")[:-1]
        is_whole = is_whole and len(lines) < SPANS_MAX
        try:
            spans += [_span(line, path.name.removesuffix(SUFFIX)) for line in lines]
        except (orjson.JSONDecodeError, TypeError) as e:
            raise InvalidRequest(f"{path} has something else than spans: {e}", path=str(path)) from e
    if not any(span.kind == "wait" for span in spans):
        raise InvalidRequest(f"there are no steps in {folder}", path=str(folder))
    return spans, is_whole


def _span(line: bytes, process: str) -> Span:
    said = orjson.loads(line)
    return Span(**{**said, "by": said["by"] or process})


def report(spans: Sequence[Span], *, is_whole: bool = True) -> Report:
    """Of all epochs."""
    stretches = attribute(spans)
    epochs = sorted({span.epoch for span in spans if span.kind == "wait"})
    return Report(tuple(_epoch(epoch, spans, stretches) for epoch in epochs), is_whole)


def _epoch(epoch: int, spans: Sequence[Span], stretches: Sequence[Stretch]) -> EpochReport:
    waits = [s for s in spans if s.kind == "wait" and s.epoch == epoch]
    computed_s = sum(s.ended_s - s.began_s for s in spans if s.kind == "compute" and s.epoch == epoch)
    waited_s, images = sum(s.ended_s - s.began_s for s in waits), sum(s.count for s in waits)
    took: dict[Cause, float] = defaultdict(float)
    for stretch in stretches:
        if stretch.epoch == epoch:
            for cause, seconds in stretch.parts.items():
                took[cause] += seconds
    whole_s = computed_s + waited_s
    rate = images / whole_s if whole_s else 0.0
    ideal = images / computed_s if computed_s else rate
    per_s = (ideal - rate) / waited_s if waited_s else 0.0
    lost = [Lost(name, s := sum(v for c, v in took.items() if c.name == name), s * per_s) for name in CAUSES]
    cold = sorted(((c, s) for c, s in took.items() if c.name == "ufs"), key=lambda item: -item[1])
    return EpochReport(
        epoch,
        steps=len(waits),
        images=images,
        seconds=whole_s,
        waited_s=waited_s,
        images_per_s=rate,
        images_per_s_without_waits=ideal,
        explained=1 - lost[-1].seconds / waited_s if waited_s else 1.0,
        lost=tuple(lost),
        slow=tuple(Slow(c.path, c.block, c.member, s, s * per_s) for c, s in cold[:SLOW_NAMED]),
    )
