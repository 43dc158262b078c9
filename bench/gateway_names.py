"""Names: cold ``stat``, a listing of 10,000 entries, and the memory that 100,000 inodes take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Options, compare, environment, median_interval, say
from bench.gateway_readers import opener
from bench.gateway_side import MIB, OurMount, memory_folder, our_mount
from bench.memory import drop_caches, kept_memory
from forebay.cli.cluster import GATEWAY

STAT_FILES, QUICK_STAT_FILES = 10_000, 1000
LIST_FILES = 10_000
LIST_RUNS, QUICK_LIST_RUNS = 9, 2
INODES, QUICK_INODES = 100_000, 5000
FOLDERS = 20
SETTLE_TIMEOUT_S = 60.0
BUDGET_S = 40.0
ROUND_TRIPS = 10_000
ECHO = "import os\nwhile data := os.read(0, 1): os.write(1, data)"
KEPT_BYTES = 512 * MIB
"""Room for what is made anew in each run, kept from the host of a virtual machine."""


def make_names(folder: Path, count: int) -> list[str]:
    """Empty files."""
    names = [f"name-{number:06d}" for number in range(count)]
    for name in names:
        (folder / name).touch()
    return names


# -- stat


def stat_cold_vs_native(options: Options) -> Figure:
    """One program asks for the attributes of names that the kernel does not have."""
    name, goal, count = "stat_cold_vs_native", 0.1, QUICK_STAT_FILES if options.quick else STAT_FILES
    with memory_folder() as source:
        names = make_names(source, count)
        with our_mount(source) as mount:
            spent: list[float] = []

            def cold(processes: int = 1) -> float:
                opener("list", mount.folder, (), processes=1, expected=count)
                drop_caches(2)
                before, cpu = lookups(mount), mount.cpu_s()
                done = opener("stat", mount.folder, names, processes=processes, expected=count)
                spent.append((mount.cpu_s() - cpu) / count * 1e6)
                if (seen := lookups(mount) - before) < count:
                    raise RuntimeError(f"only {seen:.0f} of {count} LOOKUPs reached the gateway")
                return done.rate

            def native(processes: int = 1) -> float:
                return opener("stat", source, names, processes=processes, expected=count).rate

            with kept_memory(KEPT_BYTES):
                ratio = compare(cold, native, goal=goal, options=options, name=f"gateway.{name}", budget_s=BUDGET_S)
                many = [] if options.quick else [cold(8) / native(8) for _ in range(5)]
                together = one_cpu(mount, lambda: [cold() / native() for _ in range(1 if options.quick else 5)])
    detail = ratio.detail("names_per_s") | {
        "names": count,
        "gateway_cpu_us_a_name": round(median(spent), 1),
        "with_8_programs": round(median(many), 3) if many else None,
        "with_all_on_one_cpu": round(median(together), 3),
        "round_trips_per_s": round_trips(),
        "before": "before each run listed in bulk, then the kernel's names and inodes dropped",
        "theirs": "the same names on tmpfs",
        "versions": environment("forebay", "uvloop"),
    }
    return Figure("gateway", name, ratio.value, goal=goal, detail=detail)


def one_cpu(mount: OurMount, work: Callable[[], list[float]]) -> list[float]:
    """``work`` with the gateway and what is started meanwhile on one CPU: nobody has to be woken on another."""
    every = os.sched_getaffinity(0)
    threads = [int(path.name) for pid in mount.processes() for path in Path(f"/proc/{pid}/task").iterdir()]
    try:
        for thread in (0, *threads):
            os.sched_setaffinity(thread, {min(every)})
        return work()
    finally:
        for thread in (0, *threads):
            os.sched_setaffinity(thread, every)


def round_trips() -> dict[str, int]:
    """How often a second a byte goes to another process and comes back, by pipes: what waking costs on this machine,
    and what no server that is asked for one name after the other can beat."""
    found, every = {}, os.sched_getaffinity(0)
    for where, cpus in (("free", every), ("on_one_cpu", {min(every)})):
        os.sched_setaffinity(0, cpus)
        with subprocess.Popen([sys.executable, "-Ic", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            there, back = other.stdin.fileno(), other.stdout.fileno()
            echo(there, back)
            began = time.perf_counter()
            for _ in range(ROUND_TRIPS):
                echo(there, back)
            found[where] = round(ROUND_TRIPS / (time.perf_counter() - began))
            other.stdin.close()
    os.sched_setaffinity(0, every)
    return found


def echo(there: int, back: int) -> None:
    """One byte and back."""
    os.write(there, b"x")
    os.read(back, 1)


def lookups(mount: OurMount) -> float:
    """LOOKUPs that the gateway has had."""
    return mount.metrics().get('forebay_fuse_requests_total{op="lookup"}', 0.0)


# -- listing


def list10k_ms(options: Options) -> Figure:
    """One listing with attributes by a gateway that has just started, from a master that knows the folder."""
    with memory_folder() as source:
        make_names(source, LIST_FILES)
        with our_mount(source) as mount:
            opener("list", mount.folder, (), processes=1, expected=LIST_FILES)
            with kept_memory(KEPT_BYTES):
                times, again, native, cpu = listings(mount, source, QUICK_LIST_RUNS if options.quick else LIST_RUNS)
    low, high = median_interval(times)
    detail = {
        "interval": [round(max(low, min(times)), 1), round(min(high, max(times)), 1)],
        "runs": [round(t, 1) for t in times],
        "again_ms": round(median(again), 1),
        "native_ms": round(median(native), 1),
        "cpu_ms_gateway_and_master": cpu,
        "before": "the gateway was started anew before each run; the master had listed the folder before",
        "versions": environment("forebay", "uvloop"),
    }
    return Figure("gateway", "list10k_ms", median(times), "ms", 150.0, lower_is_better=True, detail=detail)


def listings(mount: OurMount, source: Path, runs: int) -> tuple[list[float], list[float], list[float], list[list[int]]]:
    """Milliseconds of a new gateway's first listing, its second, and the source's; CPU of gateway and master."""
    times, again, native, cpu = [], [], [], []
    for _ in range(runs):
        restart(mount)
        before = mount.cpu_s(), mount.cpu_s("master")
        times.append(listed_ms(mount.folder))
        cpu.append([round(1e3 * (mount.cpu_s(n) - b)) for n, b in zip((GATEWAY, "master"), before, strict=True)])
        again.append(listed_ms(mount.folder))
        native.append(listed_ms(source))
        say(f"gateway.list10k_ms: {times[-1]:.0f} ms, again {again[-1]:.0f} ms, native {native[-1]:.0f} ms")
    return times, again, native, cpu


def listed_ms(folder: Path) -> float:
    """One listing with attributes."""
    return opener("list", folder, (), processes=1, expected=LIST_FILES).seconds * 1e3


def restart(mount: OurMount) -> None:
    """A new gateway that knows nothing; the kernel's names go with the old mount."""
    child = mount.cluster.children[GATEWAY]
    child.signal(signal.SIGTERM)
    child.stop(SETTLE_TIMEOUT_S)
    mount.cluster.restart(GATEWAY)


# -- memory


@cache
def memory(options: Options) -> dict[str, Any]:
    """MiB of the gateway's processes before, with, and after so many inodes."""
    count = QUICK_INODES if options.quick else INODES
    with memory_folder() as source:
        for number in range(FOLDERS):
            folder = source / f"folder-{number:02d}"
            folder.mkdir()
            make_names(folder, count // FOLDERS)
        with our_mount(source) as mount:
            os.listdir(mount.folder)
            start = mount.pss_bytes()
            for number in range(FOLDERS):
                opener("list", mount.folder / f"folder-{number:02d}", (), processes=1, expected=count // FOLDERS)
            known = inodes(mount)
            if known < count:
                raise RuntimeError(f"the kernel holds {known:.0f} of {count} inodes: memory is short")
            full, processes = mount.pss_bytes(), len(mount.processes())
            forget(mount)
            after = settled_pss(mount, quick=options.quick)
    say(f"gateway memory: {start / MIB:.1f}, {full / MIB:.1f}, {after / MIB:.1f} MiB")
    return {
        "inodes": int(known),
        "start_mib": round(start / MIB, 1),
        "full_mib": round(full / MIB, 1),
        "after_mib": round(after / MIB, 1),
        "bytes_an_inode": round((full - start) / known),
        "processes": processes,
        "versions": environment("forebay", "uvloop"),
    }


def inodes(mount: OurMount) -> float:
    """Inodes that the kernel holds, as the gateway counts them."""
    return mount.metrics()["forebay_fuse_inodes"]


def forget(mount: OurMount) -> None:
    """Drops the kernel's names and waits until the gateway was told."""
    end = time.monotonic() + SETTLE_TIMEOUT_S
    while inodes(mount) > FOLDERS + 1:
        if time.monotonic() > end:
            raise RuntimeError(f"the kernel still holds {inodes(mount):.0f} inodes")
        drop_caches(2)
        time.sleep(0.2)


def settled_pss(mount: OurMount, *, quick: bool) -> int:
    """The least within some seconds: caches with a time limit of their own may end first."""
    end, least = time.monotonic() + (1 if quick else 20), mount.pss_bytes()
    while time.monotonic() < end:
        time.sleep(0.5)
        least = min(least, mount.pss_bytes())
    return least


def rss_100k_mib(options: Options) -> Figure:
    """With every inode looked up."""
    found = memory(options)
    return Figure("gateway", "rss_100k_mib", found["full_mib"], "MiB", 200.0, lower_is_better=True, detail=found)


def rss_after_forget(options: Options) -> Figure:
    """After the kernel forgot them, against the start."""
    found = memory(options)
    value = found["after_mib"] / found["start_mib"]
    return Figure("gateway", "rss_after_forget", value, "ratio", 1.2, lower_is_better=True, detail=found)


FIGURES = {
    "stat_cold_vs_native": stat_cold_vs_native,
    "list10k_ms": list10k_ms,
    "rss_100k_mib": rss_100k_mib,
    "rss_after_forget": rss_after_forget,
}
