"""A table and a plot: images/s and accelerator utilisation by number of accelerators, for each way of reading.

    python -m bench.train_table --profiles resnet50-v100 --parts train.jsonl --plot train.svg
    python -m bench.train_table --profiles resnet50-h100 --knobs untuned --parts train.jsonl --plot train.svg

runs part by part; ``--parts FILE`` keeps what was measured before, and table and plot are of all of it. A profile's
step is scaled to the dataset (`bench.train_profiles.step_of`), at the same pace: ``asked_mbps`` is what accelerators
take at that benchmark's record size. ``--decode`` decodes each JPEG: that takes pillow, and far more time than reading.
``loopback``, ``device`` and ``sent`` are counters of the kernel and the workers, over the bytes of the dataset.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.memory import drop_caches, kept_memory
from bench.train_job import SHARD_BYTES, Decode, Job, Ran, batches, job, synthetic, train
from bench.train_places import MODES, Places, check, places
from bench.train_plot import plot
from bench.train_profiles import PROFILES, RECORD_BYTES, Profile, Step, step_of
from forebay.errors import ConfigError
from forebay.testing.tools import tools_dir

AHEAD = 2
"""Steps that are read before they are asked for, as there."""

FRAME_BYTES = 150
"""About what a record has beside its image."""

KEPT_BYTES = 5 << 29
DATASET_MB = 300
IMAGE_START, PIXELS = b"\xff\xd8\xff", (224, 224)


@dataclass(frozen=True)
class Row:
    """One point."""

    profile: str
    knobs: str
    mode: str
    accelerators: int
    batch: int
    images: int
    images_per_s: float
    asked: float
    utilisation: float
    mbps: float
    asked_mbps: float
    loopback: float = 0.0
    device: float = 0.0
    sent: float = 0.0
    dataset_mb: int = 0
    is_decoded: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Which point of the table."""
        return (self.profile, self.knobs, self.mode, self.accelerators, self.is_decoded)


def jpeg_decoder() -> Decode:
    """Makes of a record (a ``tf.train.Example``) the pixels of its image, scaled.

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
        found = image.open(io.BytesIO(data[data.index(IMAGE_START) :]))
        return found.convert("RGB").resize(PIXELS).tobytes()

    return decode


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    profiles: Sequence[Profile]
    accelerators: Sequence[int]
    modes: Sequence[str]
    knobs: Sequence[str]
    loaders: int = 1
    decode: Decode | None = None


def rows(made: Job, plan: Plan, *, quick: bool) -> Iterator[Row]:
    """All points, each as soon as it is measured."""
    for knobs in plan.knobs:
        with places(made, plan.modes, untuned=knobs == "untuned") as where:
            for mode in where.files:  # connections, lookups and the first use of memory are not timed
                made.run(where.files[mode], 0.0, options=where.inputs[mode])
            for profile in plan.profiles:
                for count in plan.accelerators:
                    step = step_of(profile, count, made.records)
                    for mode in plan.modes:
                        yield _row(made, plan, where, step, mode, knobs, quick=quick)


def _row(made: Job, plan: Plan, where: Places, step: Step, mode: str, knobs: str, *, quick: bool) -> Row:
    drop_caches()
    before = where.came()
    ran = _ran(made, plan, where, step, mode)
    came = where.came().since(before, made.bytes)
    if not quick:
        check(mode, came)
    say(f"train: {step.profile.name}, {step.accelerators} times, {knobs}, {mode}: {ran.images_per_s:.0f} images/s")
    return Row(
        step.profile.name,
        knobs,
        mode,
        step.accelerators,
        step.batch,
        ran.images,
        round(ran.images_per_s, 1),
        round(step.images_per_s, 1),
        round(ran.utilisation, 4),
        round(made.mbps(ran), 1),
        round(step.images_per_s * RECORD_BYTES / 1e6, 1),
        came.loopback,
        came.device,
        came.sent,
        round(made.bytes / 1e6),
        plan.decode is not None,
    )


def _ran(made: Job, plan: Plan, where: Places, step: Step, mode: str) -> Ran:
    if mode == "synthetic":
        return synthetic(made.records // step.images, step.seconds, step.images)
    loaders, how = plan.loaders, where.inputs[mode]
    given = batches(
        where.files[mode], made.names, how, loaders=loaders, decode=plan.decode, size=step.images, ahead=AHEAD
    )
    return train(given, step_s=step.seconds)


def merged(before: Iterable[Row], found: Iterable[Row]) -> list[Row]:
    """Points measured anew take the place of those measured before."""
    all_of = {row.key: row for row in (*before, *found)}
    order = {name: number for number, name in enumerate((*PROFILES, *MODES, "tuned", "untuned"))}
    return sorted(
        all_of.values(),
        key=lambda row: (row.is_decoded, order[row.profile], order[row.knobs], order[row.mode], row.accelerators),
    )


def read_parts(path: Path) -> list[Row]:
    """What ``--parts`` kept."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def lines(found: Iterable[Row]) -> str:
    """One JSON object a row."""
    return "".join(json.dumps(asdict(row)) + "\n" for row in found)


def table(found: Sequence[Row]) -> str:
    """As text, under the names of the columns."""
    cells = [[field.name for field in fields(Row)], *([str(v) for v in asdict(row).values()] for row in found)]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join("  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) + "\n" for row in cells)


def some_of(known: Iterable[str]) -> Any:
    """A reader of lists of names."""
    names = tuple(known)

    def read(text: str) -> list[str]:
        given = text.split(",")
        if unknown := [name for name in given if name not in names]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(names)}")
        return given

    return read


def counts_of(text: str) -> list[int]:
    """``--accelerators``."""
    given = [int(part) for part in text.split(",")]
    if min(given) < 1:
        raise argparse.ArgumentTypeError("at least one")
    return given


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.train_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profiles", type=some_of(PROFILES), default=["resnet50-v100"], help=", ".join(PROFILES))
    parser.add_argument("--accelerators", type=counts_of, default=[1, 2, 4, 8], help="how many: 1,2,4,8")
    parser.add_argument("--modes", type=some_of(MODES), default=list(MODES), help=", ".join(MODES))
    parser.add_argument("--knobs", type=some_of(("tuned", "untuned")), default=["tuned"], help="tuned, untuned or both")
    parser.add_argument("--dataset", type=int, default=DATASET_MB, metavar="MB", help=f"its size ({DATASET_MB})")
    parser.add_argument("--loaders", type=int, default=1, help="threads that read (and decode)")
    parser.add_argument("--decode", action="store_true", help="decode the JPEGs")
    parser.add_argument("--parts", type=Path, metavar="FILE", help="add the points to those in FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, as SVG")
    parser.add_argument("--json", action="store_true", help="one JSON object a point instead of the table")
    parser.add_argument("--quick", action="store_true", help="a small dataset; proves nothing")
    return parser


@contextmanager
def dataset(size_mb: int, *, quick: bool) -> Iterator[Job]:
    """Of that benchmark's records; free memory stays ours meanwhile."""
    shards, own = max(1, round(size_mb * 1e6 / SHARD_BYTES)), RECORD_BYTES - FRAME_BYTES
    with job(Options(quick=quick), shards=shards, record_bytes=own) as made, kept_memory(KEPT_BYTES):
        yield made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, keep, draw, tell."""
    args = arguments().parse_args(argv)
    decode = jpeg_decoder() if args.decode else None
    profiles = [PROFILES[name] for name in args.profiles]
    plan = Plan(profiles, args.accelerators, args.modes, args.knobs, args.loaders, decode)
    found = read_parts(args.parts) if args.parts is not None else []
    with dataset(args.dataset, quick=args.quick) as made:
        for row in rows(made, plan, quick=args.quick):
            found = merged(found, [row])
            if args.parts is not None:
                args.parts.write_text(lines(found))
    if args.plot is not None:
        args.plot.write_text(plot(found))
    sys.stdout.write(lines(found) if args.json else table(found))
    return 0


def table_utilisation(options: Options) -> Figure:
    """Of eight A100 that read the mount, tuned; all modes, tuned and not, are in the detail. Quick: one cluster, and
    images are decoded."""
    profile, counts, knobs = PROFILES["resnet50-a100"], [8], ["untuned"] if options.quick else ["tuned", "untuned"]
    plan = Plan([profile], counts, MODES, knobs, decode=jpeg_decoder() if options.quick else None)
    with dataset(DATASET_MB, quick=options.quick) as made:
        found = list(rows(made, plan, quick=options.quick))
    ours = next(row for row in found if row.mode == "mount")
    detail = {"asked_MBps": ours.asked_mbps, "table": [asdict(row) for row in found], **environment()}
    return Figure("train", "table_utilisation", ours.utilisation, detail=detail)


FIGURES = {"table_utilisation": table_utilisation}


if __name__ == "__main__":
    raise SystemExit(main())
