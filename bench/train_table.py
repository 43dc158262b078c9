"""A table and a plot: images/s and accelerator utilisation by number of accelerators, for each way of reading.

    python -m bench.train_table --profile v100 --accelerators 1,4,8 --modes synthetic,mount,sdk --plot train.svg

``direct-s3`` reads objects of an S3 server on this host, without a cache. ``--knobs untuned`` sets the switches as the
starting point had them. ``--decode`` decodes the JPEGs, which takes pillow and costs far more than reading them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.demo_data import SHARD_BYTES
from bench.figures import Options, say
from bench.memory import drop_caches
from bench.train_cliff import BUCKET, PREFIX, served
from bench.train_cluster import UNTUNED, mounted
from bench.train_job import BATCH, ONE_THREAD, TUNED_INPUT, Decode, Job, Ran, batches, job, synthetic, train
from bench.train_profiles import PROFILES
from forebay.data import ByteSource, Files, FolderFiles
from forebay.data.places import Shape
from forebay.errors import ConfigError
from forebay.testing.s3 import S3Admin
from forebay.testing.tools import tools_dir

MODES = ("synthetic", "direct-s3", "local-disk", "mount", "sdk")
COLOURS = dict(zip(MODES, ("#7f7f7f", "#d62728", "#1f77b4", "#2ca02c", "#ff7f0e"), strict=True))
WIDTH, HEIGHT, EDGE = 420, 280, 50


@dataclass(frozen=True)
class Row:
    """One point."""

    mode: str
    accelerators: int
    images_per_s: float
    utilisation: float
    MBps: float


class Objects:
    """Objects of a bucket as files, each fetched whole when it is opened."""

    def __init__(self, admin: S3Admin) -> None:
        self._admin = admin

    @property
    def shape(self) -> Shape:
        """How they are best read."""
        return Shape(piece_bytes=SHARD_BYTES, buffers=2, streams_max=2)

    def open(self, path: str) -> ByteSource:
        """One GET."""
        return _Held(self._admin.get(BUCKET, f"{PREFIX}/{path}"))

    def names(self, folder: str = "") -> list[str]:
        """Not needed: the job knows its shards."""
        raise NotImplementedError

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int) -> None:
        """Nobody can make use of it."""


class _Held:
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = memoryview(self._data)[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._data = b""


def jpeg_decoder() -> Decode:
    """Decodes the image of a record.

    Raises:
        ConfigError: there is no pillow, neither here nor among the tools.
    """
    sys.path += [str(path) for path in (tools_dir() / "parts").glob("lib/python3*/site-packages")]
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError as e:
        raise ConfigError("--decode", f"takes pillow: {e}") from e

    def decode(record: Any) -> Any:
        data = bytes(record)
        return image.open(io.BytesIO(data[data.index(b"\xff\xd8") :])).convert("RGB").resize((224, 224)).tobytes()

    return decode


@contextmanager
def places(made: Job, modes: Sequence[str], *, untuned: bool) -> Iterator[dict[str, Files]]:
    """Where each mode reads."""
    with ExitStack() as stack:
        found: dict[str, Files] = {"local-disk": FolderFiles(made.folder)}
        if {"mount", "sdk"} & set(modes):
            mount = stack.enter_context(mounted(made, switches=tuple(UNTUNED) if untuned else ()))
            mount.spread()
            mount.warm()
            sdk = mount.sdk()
            stack.callback(sdk.close)
            found |= {"mount": mount.files(), "sdk": sdk}
        if "direct-s3" in modes:
            s3, _ = stack.enter_context(served(made))
            found["direct-s3"] = Objects(s3.admin)
        yield found


def rows(made: Job, args: argparse.Namespace, decode: Decode | None) -> Iterator[Row]:
    """All points."""
    profile, untuned = PROFILES[args.profile], args.knobs == "untuned"
    with places(made, args.modes, untuned=untuned) as files:
        for mode in args.modes:
            for count in args.accelerators:
                step_s = BATCH / (profile.images_per_s * count)
                drop_caches()
                if mode == "synthetic":
                    ran = synthetic(made.steps(), step_s)
                else:
                    how = ONE_THREAD if untuned else TUNED_INPUT
                    ran = train(batches(files[mode], made.names, how, decode=decode), step_s=step_s)
                say(f"train: {mode}, {count} accelerators: {ran.images_per_s:.0f} images/s, {ran.utilisation:.1%}")
                yield _row(mode, count, ran, made)


def _row(mode: str, count: int, ran: Ran, made: Job) -> Row:
    return Row(mode, count, round(ran.images_per_s, 1), round(ran.utilisation, 4), round(made.mbps(ran), 1))


def plot(found: Sequence[Row]) -> str:
    """Two panels as SVG: images/s and utilisation by number of accelerators."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{HEIGHT + 40}" font-size="11">']
    parts.append(f'<rect width="{2 * WIDTH}" height="{HEIGHT + 40}" fill="#fff"/>')
    parts += _panel(found, 0, "images/s", lambda row: row.images_per_s)
    parts += _panel(found, WIDTH, "utilisation", lambda row: row.utilisation)
    for number, mode in enumerate(dict.fromkeys(row.mode for row in found)):
        parts.append(f'<text x="{EDGE + number * 110}" y="{HEIGHT + 30}" fill="{COLOURS[mode]}">{mode}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(found: Sequence[Row], left: int, title: str, value: Callable[[Row], float]) -> list[str]:
    most_x, most_y = max(row.accelerators for row in found), max(map(value, found)) or 1.0
    wide, high = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
    parts = [
        f'<text x="{left + EDGE}" y="20">{title}, at most {most_y:g}; 0 to {most_x} accelerators</text>',
        f'<rect x="{left + EDGE}" y="{EDGE}" width="{wide}" height="{high}" fill="none" stroke="#999"/>',
    ]
    for mode in dict.fromkeys(row.mode for row in found):
        points = [
            (left + EDGE + wide * row.accelerators / most_x, EDGE + high * (1 - value(row) / most_y))
            for row in found
            if row.mode == mode
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[mode]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[mode]}"/>' for x, y in points]
    return parts


def modes_of(text: str) -> list[str]:
    """``--modes``."""
    given = text.split(",")
    if unknown := [mode for mode in given if mode not in MODES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(MODES)}")
    return given


def counts_of(text: str) -> list[int]:
    """``--accelerators``."""
    given = [int(part) for part in text.split(",")]
    if min(given) < 1:
        raise argparse.ArgumentTypeError("at least one")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_table", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="v100")
    parser.add_argument("--accelerators", type=counts_of, default=[1, 2, 4, 8])
    parser.add_argument("--modes", type=modes_of, default=list(MODES))
    parser.add_argument("--knobs", choices=("tuned", "untuned"), default="tuned")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    decode = jpeg_decoder() if args.decode else None
    with job(Options(quick=args.quick), shards=8) as made:
        found = list(rows(made, args, decode))
    if args.plot is not None:
        args.plot.write_text(plot(found))
    for row in found:
        told = asdict(row)
        sys.stdout.write((json.dumps(told) if args.json else "  ".join(f"{v!s:>12}" for v in told.values())) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
