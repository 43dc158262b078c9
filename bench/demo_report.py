"""The demo's numbers: what each row of the table says, and the figure of its last line. Pure."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.table import Table

from bench.demo_readers import Pass
from bench.demo_source import Source

GOAL = 5.0
MB = 1e6


@dataclass(frozen=True)
class Sources:
    """Bytes so far, by where they came from. The first three were given to the kernel (or fetched for it ahead) by the
    gateway: from block files on this host, from workers' tiers, through workers that fetched them just then. The last
    came from the under store into the workers."""

    local: float = 0.0
    workers: float = 0.0
    through: float = 0.0
    under_store: float = 0.0

    @staticmethod
    def of(samples: Mapping[str, Mapping[str, float]]) -> Sources:
        """From the samples of gateways and workers, by service name."""
        read = "forebay_client_read_bytes_total"
        gateways = [s for name, s in samples.items() if name.startswith("gateway")]
        workers = [s for name, s in samples.items() if name.startswith("worker")]

        def total(of: Sequence[Mapping[str, float]], metric: str, *sources: str) -> float:
            return sum(s.get(f'{metric}{{source="{source}"}}', 0.0) for s in of for source in sources)

        return Sources(
            total(gateways, read, "local"),
            total(gateways, read, "mem", "ssd"),
            total(gateways, read, "ufs", "peer", "unknown"),
            total(workers, "forebay_worker_filled_bytes_total", "ufs"),
        )


def sources_between(before: Sources, after: Sources) -> Sources:
    """What came in between."""
    return Sources(*(getattr(after, f.name) - getattr(before, f.name) for f in fields(Sources)))


@dataclass(frozen=True)
class Row:
    """A line of the table: the average pass. ``sources`` is ``None`` where we had no part in it."""

    name: str
    passes: int
    seconds: float
    mb_s: float
    images_s: float
    sources: Sources | None = None

    @staticmethod
    def of(name: str, passes: Sequence[Pass], sources: Sources | None = None) -> Row:
        """From all passes together; bytes by source are those of the average pass."""
        seconds, n = sum(p.seconds for p in passes), len(passes)
        mean = Sources(*(getattr(sources, f.name) / n for f in fields(Sources))) if sources else None
        size, images = sum(p.size for p in passes), sum(p.images for p in passes)
        return Row(name, n, seconds / n, size / seconds / MB, images / seconds, mean)


def table(rows: Sequence[Row], source: Source) -> Table:
    """The rows for people."""
    shards = sum(f.is_shard for f in source.files)
    cut = ", the first of more" if source.cut else ""
    title = f"{source.uri}: {source.size / MB:.0f} MB, {shards} shards, {len(source.files) - shards} other files{cut}"
    caption = (
        "seconds, MB/s and images/s are of the average pass. Bytes a pass by source: block files of workers on this"
        " host, from workers' memory, from workers that were just filling; and what workers took from the source."
    )
    out = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    heads = ("passes", "seconds", "MB/s", "images/s", "block file", "worker", "filling", "source")
    out.add_column("4 readers")
    for head in heads:
        out.add_column(head, justify="right")
    for row in rows:
        s = row.sources
        shown = [f"{v / MB:.0f} MB" for v in (s.local, s.workers, s.through, s.under_store)] if s else ["-"] * 4
        numbers = (str(row.passes), f"{row.seconds:.2f}", f"{row.mb_s:.0f}", f"{row.images_s:.0f}")
        out.add_row(row.name, *numbers, *shown)
    return out


def figure(rows: Sequence[Row], right: bool, source: Source, *, small: bool) -> dict[str, Any]:
    """The last line. Without S3 to compare with there is no goal, only what was measured."""
    by_name = {row.name: row for row in rows}
    straight = by_name.get("straight from S3")
    detail: dict[str, Any] = {
        "checksums_right": right,
        "files": len(source.files),
        "bytes": source.size,
        "MBps": {row.name: round(row.mb_s, 1) for row in rows},
        "images_per_s": {row.name: round(row.images_s, 1) for row in rows},
        "bytes_by_source": {
            r.name: {f.name: int(getattr(r.sources, f.name)) for f in fields(Sources)} for r in rows if r.sources
        },
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    if straight is not None and not small:
        value = round(by_name["epoch 2"].mb_s / straight.mb_s, 2)
        return _line("epoch2_vs_s3", value, "ratio", GOAL, right and value >= GOAL, detail)
    if small:
        return _line("small_cold_MBps", round(rows[0].mb_s, 1), "MB/s", None, right, detail)
    other = by_name["straight from the folder"]
    return _line("epoch2_vs_source", round(by_name["epoch 2"].mb_s / other.mb_s, 2), "ratio", None, right, detail)


def _line(name: str, value: float, unit: str, goal: float | None, ok: bool, detail: dict[str, Any]) -> dict[str, Any]:
    return {"bench": "demo", "figure": name, "value": value, "unit": unit, "goal": goal, "ok": ok, "detail": detail}
