"""Large warm files through the mount against native reads of the same block files, and against the peers.

Passthrough is proved by the gateway's own counters (no READ came), and so is every other way: by what its READs were
answered from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from bench.figures import Figure, Options, Ratio, compare, environment, median_interval, say
from bench.gateway_peers import Peer, peers
from bench.gateway_readers import Fio
from bench.gateway_side import GIB, MIB, OurMount, memory_folder, our_mount, read_whole, warm, write_files
from bench.memory import drop_caches, kept_memory

FILES = 4
FILE_BYTES = 256 * MIB
"""One block each, by default."""

QUICK_FILE_BYTES = 16 * MIB
KEPT_BYTES = 3 * GIB // 2
"""Room for the page cache of all files, kept from the host of a virtual machine."""

BUDGET_S = 40.0
PASSTHROUGH_PAIRS_MIN = 9
QUALIFYING_RUNS = 3
LOCAL = ("local", "spliced", "helper")
"""What the gateway calls the sources of bytes out of block files of this host."""

SEQ1 = Fio(("--rw=read", "--bs=1M", "--ioengine=psync", "--invalidate=1"), loops=2)
SEQ4 = Fio(("--rw=read", "--bs=1M", "--ioengine=psync", "--invalidate=1"), jobs=4, loops=4)
RAND8 = Fio(("--rw=randread", "--bs=256k", "--ioengine=psync", "--invalidate=1"), jobs=8, io_bytes=2 * GIB)
"""Each job: with 512 MiB a run takes 0.2 s, and its 32 opens, which wait for a CPU that reads, up to 12 % of that."""

MMAP = Fio(("--rw=read", "--bs=1M", "--ioengine=mmap", "--invalidate=1"), loops=2)
KEPT = Fio(("--rw=read", "--bs=1M", "--ioengine=psync", "--invalidate=0"), loops=2)
COLD = Fio(("--rw=read", "--bs=1M", "--ioengine=psync", "--invalidate=1"))


def file_bytes(options: Options) -> int:
    """How long each file is."""
    return QUICK_FILE_BYTES if options.quick else FILE_BYTES


# -- nothing reaches the gateway


@dataclass
class Silent:
    """Reads that the kernel must serve alone. ``again``: how often somebody else emptied the page cache in a run."""

    mount: OurMount
    files: list[Path]
    fio: Fio
    retries: int = 0
    again: int = 0

    def __call__(self) -> float:
        """The rate of a run in which no READ came to the gateway.

        Raises:
            RuntimeError: READs came, more often than ``retries``.
        """
        for _ in range(1 + self.retries):
            before = self.mount.reads()
            rate = self.fio.rate(self.files)
            if not (reads := self.mount.reads() - before):
                return rate
            self.again += 1
            read_whole(self.files)
        raise RuntimeError(f"{reads:.0f} READs reached the gateway")


def silent_ratio(
    options: Options, name: str, fio: Fio, *, goal: float, gateway: tuple[str, ...] = (), before: str, retries: int = 0
) -> Figure:
    """One way of reading single-block files, warm, with no READ at the gateway."""
    fio = shortened(fio, options)
    with memory_folder() as source:
        write_files(source, FILES, file_bytes(options))
        with our_mount(source, gateway=gateway) as mount:
            files = warm(mount, FILES)
            read_whole(files)
            blocks, cpu, ours = mount.blocks, mount.cpu_s(), Silent(mount, files, fio, retries)
            ratio = compare(
                ours,
                lambda: fio.rate(blocks),
                goal=goal,
                options=options,
                name=f"gateway.{name}",
                pairs_min=PASSTHROUGH_PAIRS_MIN,
                budget_s=BUDGET_S,
            )
            detail = described(ratio, fio) | {
                "gateway": " ".join(gateway) or "default settings",
                "before": before,
                "reads_at_gateway": 0,
                "runs_repeated": ours.again,
                "gateway_cpu_s": round(mount.cpu_s() - cpu, 2),
            }
    return Figure("gateway", name, ratio.value, goal=goal, detail=detail)


def shortened(fio: Fio, options: Options) -> Fio:
    """The short form."""
    if not options.quick:
        return fio
    io_bytes = QUICK_FILE_BYTES if fio.io_bytes is not None else None
    return Fio(fio.flags, jobs=fio.jobs, loops=1, io_bytes=io_bytes)


def described(ratio: Ratio, fio: Fio) -> dict[str, object]:
    """What every figure of this module says."""
    ratios = [a / b for a, b in zip(ratio.ours, ratio.theirs, strict=True)]
    return ratio.detail("MBps") | {
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "reader": fio.told(),
        "versions": environment("forebay", "uvloop"),
    }


PASSED = "files were read once; their blocks are complete on this host"


def seq1_warm_vs_native(options: Options) -> Figure:
    """One sequential reader."""
    return silent_ratio(options, "seq1_warm_vs_native", SEQ1, goal=0.95, before=PASSED)


def seq4_warm_vs_native(options: Options) -> Figure:
    """Four sequential readers, a file each."""
    return silent_ratio(options, "seq4_warm_vs_native", SEQ4, goal=0.95, before=PASSED)


def rand8_warm_vs_native(options: Options) -> Figure:
    """256 KiB at random places of all files, eight threads."""
    return silent_ratio(options, "rand8_warm_vs_native", RAND8, goal=0.95, before=PASSED)


def mmap_warm_vs_native(options: Options) -> Figure:
    """One sequential reader of a mapping."""
    return silent_ratio(options, "mmap_warm_vs_native", MMAP, goal=0.95, before=PASSED)


def keepcache_vs_native(options: Options) -> Figure:
    """The second epoch from the kernel's cache, without passthrough."""
    before = "files were read whole by READs; the page cache was not dropped; each run opens them anew"
    flags = ("--no-passthrough", "--kernel-cache")
    return silent_ratio(options, "keepcache_vs_native", KEPT, goal=0.65, gateway=flags, before=before, retries=2)


# -- every READ reaches the gateway


@dataclass
class Served:
    """Reads that the gateway must serve, all of them, from ``sources``; the kernel's page cache is dropped before."""

    mount: OurMount
    files: list[Path]
    sources: tuple[str, ...]
    gib: float = 0.0
    cpu_s: float = 0.0
    worker_cpu_s: float = 0.0
    cpu_runs: tuple[float, ...] = ()

    def __call__(self) -> float:
        """The rate.

        Raises:
            RuntimeError: bytes came from elsewhere.
        """
        drop_caches()
        cpu, worker = self.mount.cpu_s(), self.mount.cpu_s("worker-0")
        before, size = self.mount.read_bytes(*self.sources), sum(p.stat().st_size for p in self.files)
        rate = COLD.rate(self.files)
        if (seen := self.mount.read_bytes(*self.sources) - before) < size:
            raise RuntimeError(f"only {seen:.0f} of {size} bytes came by {self.sources}: {by_source(self.mount)}")
        spent = self.mount.cpu_s() - cpu
        self.gib, self.cpu_s = self.gib + size / GIB, self.cpu_s + spent
        self.worker_cpu_s += self.mount.cpu_s("worker-0") - worker
        self.cpu_runs += (round(spent * GIB / size, 3),)
        return rate

    @property
    def cpu_s_per_gib(self) -> float:
        """Of the gateway's processes, over all runs."""
        return self.cpu_s / self.gib


def by_source(mount: OurMount) -> dict[str, float]:
    """Where all bytes came from so far, for an error."""
    return {name: value for name, value in mount.metrics().items() if "read_bytes" in name or "opens" in name}


@dataclass(frozen=True)
class ServedResult:
    """What one cluster gave: the ratio to native, and the CPU it took."""

    ratio: Ratio
    cpu_s_per_gib: float
    cpu_interval: list[float]
    detail: dict[str, object]


def served(options: Options, name: str, *, short_circuit: bool, sources: tuple[str, ...], goal: float) -> ServedResult:
    """One sequential reader of files of several blocks."""
    with memory_folder() as source:
        write_files(source, FILES, file_bytes(options))
        block = file_bytes(options) // 4
        with our_mount(source, master=("--block-size", str(block)), short_circuit=short_circuit) as mount:
            ours = Served(mount, warm(mount, 4 * FILES), sources)
            blocks = mount.blocks
            with kept_memory(KEPT_BYTES):
                ratio = compare(
                    ours,
                    lambda: COLD.rate(blocks),
                    goal=goal,
                    options=options,
                    name=f"gateway.{name}",
                    budget_s=BUDGET_S,
                )
    detail = described(ratio, COLD) | {
        "blocks": f"{4 * FILES} of {block // MIB} MiB, four a file",
        "cpu_s_per_gib": round(ours.cpu_s_per_gib, 3),
        "cpu_runs": ours.cpu_runs,
        "worker_cpu_s_per_gib": round(ours.worker_cpu_s / ours.gib, 3),
        "before": "page cache dropped before each run; blocks in the worker's memory; free memory kept from the host",
    }
    low, high = median_interval(ours.cpu_runs)
    bounds = [max(low, min(ours.cpu_runs)), min(high, max(ours.cpu_runs))]
    return ServedResult(ratio, ours.cpu_s_per_gib, bounds, detail)


@cache
def read_path(options: Options) -> ServedResult:
    """Blocks of this host."""
    return served(options, "read_path_vs_native", short_circuit=True, sources=LOCAL, goal=0.4)


@cache
def remote(options: Options) -> ServedResult:
    """The worker by TCP."""
    sources = ("readahead", "remote")
    return served(options, "remote_vs_native", short_circuit=False, sources=sources, goal=0.2)


def ratio_figure(name: str, measured: Callable[[Options], ServedResult], goal: float) -> Callable[[Options], Figure]:
    """The throughput of a measurement."""

    def figure(options: Options) -> Figure:
        found = measured(options)
        return Figure("gateway", name, found.ratio.value, goal=goal, detail=found.detail)

    return figure


def cpu_figure(name: str, measured: Callable[[Options], ServedResult], goal: float) -> Callable[[Options], Figure]:
    """The CPU of the same measurement."""

    def figure(options: Options) -> Figure:
        found = measured(options)
        detail = found.detail | {"interval": found.cpu_interval}
        return Figure("gateway", name, found.cpu_s_per_gib, "CPU-s/GiB", goal, lower_is_better=True, detail=detail)

    return figure


# -- the peers


def read_path_vs_best_peer(options: Options) -> Figure:
    """The read path against the peer that is fastest today."""
    name, goal = "read_path_vs_best_peer", 1.0
    with ExitStack() as stack:
        source, work = stack.enter_context(memory_folder()), stack.enter_context(memory_folder())
        write_files(source, 2, file_bytes(options))
        block = file_bytes(options) // 4
        mount = stack.enter_context(our_mount(source, master=("--block-size", str(block))))
        ours = Served(mount, warm(mount, 8), LOCAL)
        there = stack.enter_context(peers(source, work))
        best, qualified = best_peer(there, [path.name for path in ours.files], options)
        files = [best.folder / path.name for path in ours.files]
        with kept_memory(KEPT_BYTES):
            ratio = compare(
                ours, lambda: dropped(files), goal=goal, options=options, name=f"gateway.{name}", budget_s=BUDGET_S
            )
        detail = described(ratio, COLD) | {
            "best_peer": best.name,
            "peers_MBps": qualified,
            "told": {peer.name: peer.told for peer in there},
            "before": "page cache dropped before each run; all caches on tmpfs and warm",
        }
    return Figure("gateway", name, ratio.value, goal=goal, detail=detail)


def dropped(files: list[Path]) -> float:
    """A rate without the kernel's page cache."""
    drop_caches()
    return COLD.rate(files)


def best_peer(there: list[Peer], names: list[str], options: Options) -> tuple[Peer, dict[str, float]]:
    """The fastest of some runs, and the median of each. Reading warms them first."""
    rates = {}
    for peer in there:
        files = [peer.folder / name for name in names]
        read_whole(files)
        dropped(files)
        runs = 1 if options.quick else QUALIFYING_RUNS
        rates[peer.name] = round(median(dropped(files) for _ in range(runs)), 1)
        say(f"  {peer.name}: {rates[peer.name]} MB/s")
    return max(there, key=lambda peer: rates[peer.name]), rates


FIGURES = {
    "seq1_warm_vs_native": seq1_warm_vs_native,
    "seq4_warm_vs_native": seq4_warm_vs_native,
    "rand8_warm_vs_native": rand8_warm_vs_native,
    "mmap_warm_vs_native": mmap_warm_vs_native,
    "keepcache_vs_native": keepcache_vs_native,
    "read_path_vs_native": ratio_figure("read_path_vs_native", read_path, 0.4),
    "read_path_cpu": cpu_figure("read_path_cpu", read_path, 0.4),
    "read_path_vs_best_peer": read_path_vs_best_peer,
    "remote_vs_native": ratio_figure("remote_vs_native", remote, 0.2),
    "remote_cpu": cpu_figure("remote_cpu", remote, 0.7),
}
