"""2,000 files of 100 KiB, each opened, read and closed once: the mount, native, and the peers, by the same opener.

*Cold*: everything was read before and the folder was just listed, so each side's own caches are warm; then the kernel's
names, inodes and pages are dropped. *Warm*: the same again at once. One run is cold then warm; figures are of eight
readers, and of the worse of the two.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Options, environment, median_interval, say
from bench.first_gateway import wait_for_blocks
from bench.gateway_peers import peers
from bench.gateway_readers import opener
from bench.gateway_side import OurMount, memory_folder, our_mount, read_whole, write_files
from bench.memory import drop_caches

FILES, QUICK_FILES = 2000, 200
FILE_BYTES = 100 << 10
READERS = (8, 1)
ROUNDS, ROUNDS_MIN, QUICK_ROUNDS = 9, 5, 2
BUDGET_S = 90.0
QUALIFYING_ROUNDS = 2
CASES = tuple((state, count) for count in READERS for state in ("cold", "warm"))


@dataclass
class Side:
    """A folder of small files. ``rates``: files a second of each run, by case; ``slowest_ms``: the slowest file."""

    name: str
    folder: Path
    names: Sequence[str]
    told: str = ""
    rates: dict[tuple[str, int], list[float]] = field(default_factory=lambda: {case: [] for case in CASES})
    slowest_ms: dict[tuple[str, int], list[float]] = field(default_factory=lambda: {case: [] for case in CASES})

    def run(self, *, keep: bool = True) -> None:
        """Each case once, behind a listing: whoever keeps names for a time of its own has them."""
        for readers in READERS:
            self.list_names()
            drop_caches(3)
            for state in ("cold", "warm"):
                done = opener("read", self.folder, self.names, processes=readers, expected=len(self.names) * FILE_BYTES)
                if keep:
                    self.rates[state, readers].append(done.rate)
                    self.slowest_ms[state, readers].append(done.longest_s * 1e3)

    def list_names(self) -> None:
        """One bulk listing with attributes."""
        for folder in {(self.folder / name).parent for name in self.names}:
            with os.scandir(folder) as entries:
                for entry in entries:
                    entry.stat()

    def warm(self) -> None:
        """Every file read once."""
        self.list_names()
        read_whole([self.folder / name for name in self.names])

    def middle(self) -> dict[str, int]:
        """Median rates, for people."""
        return {shown(case): round(median(rates)) for case, rates in self.rates.items() if rates}


@dataclass(frozen=True)
class Small:
    """What one run of everything gave; ``best``: for each case the peer that was fastest."""

    ours: Side
    native: Side
    best: dict[tuple[str, int], Side]
    detail: dict[str, Any]


def shown(case: tuple[str, int]) -> str:
    """``cold8``."""
    return f"{case[0]}{case[1]}"


@cache
def measured(options: Options) -> Small:
    """All sides, in turn."""
    count = QUICK_FILES if options.quick else FILES
    with ExitStack() as stack:
        source, work = stack.enter_context(memory_folder()), stack.enter_context(memory_folder())
        write_files(source, count, FILE_BYTES)
        mount = stack.enter_context(our_mount(source))
        there = stack.enter_context(peers(source, work))
        names = sorted(os.listdir(source))
        ours = Side("ours", mount.folder, names)
        theirs = [Side(peer.name, peer.folder, names, peer.told) for peer in there]
        for side in (ours, *theirs):
            side.warm()
        native = native_side(mount, count)
        final = qualify(theirs, 1 if options.quick else QUALIFYING_ROUNDS)
        qualified = {side.name: side.middle() for side in theirs}
        told = {side.name: side.told for side in theirs}
        before, cpu = mount.reads(), mount.cpu_s()
        rounds([ours, native, *final], QUICK_ROUNDS if options.quick else ROUNDS)
        reads, cpu = mount.reads() - before, mount.cpu_s() - cpu
        opened = count * (1 + len(ours.rates[CASES[0]])) * len(CASES)
    detail = {
        "files": count,
        "file_bytes": FILE_BYTES,
        "reads_at_gateway_a_file": round(reads / opened, 3),
        "gateway_cpu_us_a_file": round(cpu / opened * 1e6),
        "peers_files_per_s": qualified,
        "told": told,
        "versions": environment("forebay", "uvloop"),
    }
    return Small(ours, native, {case: best_of(final, case) for case in CASES}, detail)


def native_side(mount: OurMount, count: int) -> Side:
    """The worker's block files."""
    tier = mount.cluster.places.tier(0)
    blocks = wait_for_blocks(tier, count)
    return Side("native", tier, [str(path.relative_to(tier)) for path in blocks])


def qualify(theirs: list[Side], rounds: int) -> list[Side]:
    """The peers that are best in a case with eight readers. These runs don't count later."""
    for side in theirs:
        side.run(keep=False)
        for _ in range(rounds):
            side.run()
        say(f"  {side.name}: {side.middle()}")
    finals = {best_of(theirs, case).name for case in CASES if case[1] == 8}
    return [Side(side.name, side.folder, side.names, side.told) for side in theirs if side.name in finals]


def best_of(sides: list[Side], case: tuple[str, int]) -> Side:
    """The fastest in a case."""
    return max(sides, key=lambda side: median(side.rates[case]))


def rounds(sides: list[Side], count: int) -> None:
    """A B C A B C …"""
    for side in sides:
        side.run(keep=False)
    end = time.monotonic() + BUDGET_S
    for number in range(count):
        if number >= ROUNDS_MIN and time.monotonic() > end:
            break
        for side in sides:
            side.run()
        say(f"gateway.small8 round {number + 1}: " + str({side.name: side.middle() for side in sides}))


def figure(options: Options, name: str, other: str, goal: float | None) -> Figure:
    """Ours over native, or over the best peer of each case: the worse of cold and warm, eight readers."""
    found = measured(options)
    theirs = found.best if other == "best" else dict.fromkeys(CASES, found.native)
    ratios = {case: paired(found.ours.rates[case], theirs[case].rates[case]) for case in CASES}
    worse = min((case for case in CASES if case[1] == 8), key=lambda case: median(ratios[case]))
    low, high = interval(ratios[worse])
    sides = [found.ours, *{side.name: side for side in theirs.values()}.values()]
    detail = {
        "judged": shown(worse),
        "interval": [round(low, 3), round(high, 3)],
        "noise": noise(found.ours.rates[worse]),
        "ratios": {shown(case): round(median(ratios[case]), 3) for case in CASES},
        "against": {shown(case): theirs[case].name for case in CASES},
        "runs": [
            [round(a), round(b)] for a, b in zip(found.ours.rates[worse], theirs[worse].rates[worse], strict=True)
        ],
        "files_per_s": {side.name: side.middle() for side in sides},
        "slowest_file_ms": {
            side.name: {shown(case): round(median(ms), 1) for case, ms in side.slowest_ms.items()} for side in sides
        },
        **found.detail,
    }
    return Figure("gateway", name, median(ratios[worse]), goal=goal, detail=detail)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios of runs made in turn."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The median's interval, or all there is when runs are few."""
    low, high = median_interval(ratios)
    return (low, high) if low > 0 and high < float("inf") else (min(ratios), max(ratios))


def noise(rates: Sequence[float]) -> list[float]:
    """A side against its own next run."""
    return [round(a / b, 3) for a, b in itertools.pairwise(rates)]


def small8_vs_best_peer(options: Options) -> Figure:
    """Against the best peer."""
    return figure(options, "small8_vs_best_peer", "best", 1.5)


def small8_vs_native(options: Options) -> Figure:
    """Against native: stated, not judged."""
    return figure(options, "small8_vs_native", "native", None)


FIGURES = {"small8_vs_best_peer": small8_vs_best_peer, "small8_vs_native": small8_vs_native}
