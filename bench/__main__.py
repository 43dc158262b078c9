"""``python -m bench NAME [--json] [--quick]``: the figures of one bench, of all, or one figure (``first.rpc_vs_h1``).

With ``--json`` each figure is one JSON line on standard output, without it a row of a table; progress goes to standard
error. Exit status 1 when a figure misses its goal (never with ``--quick``, which judges nothing).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.figures import Figure, Options, table

MODULES = {
    "first": ("bench.first_transport", "bench.first_gateway"),
    "store": ("bench.store",),
    "gateway": ("bench.gateway_warm", "bench.gateway_small", "bench.gateway_names", "bench.gateway_killed"),
    "moving": ("bench.moving_fill", "bench.moving_transport", "bench.moving_balance", "bench.moving_faults"),
    "metadata": ("bench.metadata", "bench.metadata_failover"),
    "hit_ratio": ("bench.hit_ratio",),
    "train": ("bench.train", "bench.train_gain", "bench.train_cliff", "bench.train_killed", "bench.train_table"),
    "operations": ("bench.operations",),
}
"""Bench names and the modules with their figures, each as ``FIGURES: dict[str, Callable[[Options], Figure]]``."""

Measure = Callable[[Options], Figure]


def measures(name: str) -> Iterator[Measure]:
    """The functions behind a bench's or a figure's name."""
    bench, _, figure = name.partition(".")
    for module in MODULES[bench]:
        if importlib.util.find_spec(module) is None:
            continue
        for known, measure in importlib.import_module(module).FIGURES.items():
            if figure in ("", known):
                yield measure


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", help=f"{', '.join(MODULES)}, all, or one figure as bench.figure")
    parser.add_argument("--json", action="store_true", help="one JSON line per figure, nothing else")
    parser.add_argument("--quick", action="store_true", help="short runs that keep the bench working; judges nothing")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="length of a run of kills (gateway.killed_*); what is begun in a run (train.tuned_vs_untuned)",
    )
    parser.add_argument(
        "--parts", type=Path, metavar="FILE", help="add that run to those in FILE, and tell of all of them together"
    )
    args = parser.parse_args()
    names = list(MODULES) if args.name == "all" else [args.name]
    if any(name.partition(".")[0] not in MODULES for name in names):
        parser.error(f"no bench {args.name!r}; there are {', '.join(MODULES)}")
    wanted = [measure for name in names for measure in measures(name)]
    if not wanted:
        parser.error(f"no figure {args.name!r}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    options, figures = Options(quick=args.quick, seconds=args.seconds, parts=args.parts), []
    for measure in wanted:
        figures.append(measure(options))
        if args.json:
            print(figures[-1].line(), flush=True)
    if not args.json:
        print(table(figures))
    return 0 if args.quick or all(figure.ok for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
