"""The worker's store: filling a disk through the real code beside ``dd``, the index at a million blocks, a restart."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import google_crc32c

from bench.figures import Figure, Options, compare, environment, say
from forebay.contracts import BlockTarget, Mount, UfsOptions, identity
from forebay.contracts.blocks import Source
from forebay.runtime import Supervisor
from forebay.telemetry import Metrics
from forebay.ufs import UfsUri
from forebay_worker.access import Asked, derive
from forebay_worker.block import State
from forebay_worker.directory import TierSpec
from forebay_worker.files import IoThreads
from forebay_worker.fill import Filler
from forebay_worker.index import StoreIndex
from forebay_worker.mounts import Mounted
from forebay_worker.observe import WorkerMetrics
from forebay_worker.policies import POLICIES, Policy
from forebay_worker.policies.governed import Governed
from forebay_worker.policies.ledger import Ledger
from forebay_worker.queue import FillQueue
from forebay_worker.settings import WorkerSettings
from forebay_worker.store import Store
from forebay_worker.tiers import boot_id, open_tier

MAKERS: dict[str, Callable[[int], Policy]] = {name: make for name, make in POLICIES.items()}
MIB, GIB = 1 << 20, 1 << 30
BLOCK_BYTES = 64 * MIB
PIECE_BYTES = MIB
AHEAD = 4
"""Blocks that fill at the same time."""

SECONDS_MAX = 240.0
URI = UfsUri.parse("file:///bench")
MOUNT = Mount(
    mount_id="bench", generation=1, path="/", ufs_uri=str(URI), ufs_id=URI.ufs_id(UfsOptions()), block_size=BLOCK_BYTES
)


def default(setting: str) -> Any:
    """What a worker does when it is not told otherwise."""
    return WorkerSettings.model_fields[setting].default


@contextmanager
def disk_folder() -> Iterator[Path]:
    """A new folder on a disk, not on tmpfs: ``FOREBAY_BENCH_DISK`` says where if /var/tmp is none."""
    folder = Path(tempfile.mkdtemp(prefix="forebay-bench-store-", dir=os.environ.get("FOREBAY_BENCH_DISK", "/var/tmp")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# -- filling


@dataclass(frozen=True)
class Memory:
    """A source that has the bytes at hand: what is measured is the way from there to the disk."""

    data: bytes
    name: Source = "ufs"
    is_atomic: bool = True
    lane: str = "ufs"

    def read(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """As ``lend``."""
        return self.lend(start, length)

    async def lend(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """Pieces as a network gives them."""
        while length > 0:
            piece = self.data[: min(length, PIECE_BYTES)]
            yield piece
            length -= len(piece)

    async def take(self, start: int, length: int) -> bytes:
        """As ``lend``, at once."""
        return (self.data * -(-length // len(self.data)))[:length]


def asked_for(number: int) -> Asked:
    """The only block of a file of its own."""
    key = f"file-{number}"
    target = BlockTarget(mount_id="bench", key=key, size=BLOCK_BYTES, fingerprint="f", index=0)
    name = identity.block_id(URI.version_id(MOUNT.options, key, "f"), BLOCK_BYTES, 0)
    return derive(name, target, Mounted(MOUNT, URI), expires_at_s=1e18, version=1)


async def filled(folder: Path, blocks: int) -> float:
    """Seconds until so many blocks are sealed in a new tier directory."""
    capacity = (blocks + 1) * BLOCK_BYTES
    tier = open_tier(TierSpec("SSD", folder / "tier", capacity), setting="tier_dirs")
    metrics = WorkerMetrics(Metrics())
    index = StoreIndex([(capacity, Governed(POLICIES[default("policy")](capacity), Ledger()))])
    store = Store([tier], index, IoThreads(default("io_threads")), metrics)
    source = Memory(random.Random(1).randbytes(PIECE_BYTES))
    try:
        await store.restore(boot_id())
        began = time.perf_counter()
        async with Supervisor() as spawner:
            queue = FillQueue(streams_max=default("fill_streams"))
            filler = Filler(store, queue, spawner, metrics, run_extents_max=default("fill_request_extents"))
            for number in range(blocks):
                block = await filler.admit(asked_for(number), source)
                filling = filler.get(block) if block is not None else None
                if filling is None:
                    raise RuntimeError("the block was not admitted")
                filler.complete(filling)
                while len(filler) >= AHEAD:
                    await asyncio.sleep(0.001)
            while index.counts()[State.SEALED] < blocks:
                await asyncio.sleep(0.001)
            took = time.perf_counter() - began
            filler.close()
        return took
    finally:
        store.close()
        tier.close()


def fill_rate(folder: Path, blocks: int, cpu_s: list[float]) -> Callable[[], float]:
    """MB/s of the real code; the disk is idle at the start. ``cpu_s`` gets the CPU time of each run."""

    def run() -> float:
        os.sync()
        before_s = time.process_time()
        took = asyncio.run(filled(folder, blocks))
        cpu_s.append(time.process_time() - before_s)
        shutil.rmtree(folder / "tier")
        return blocks * BLOCK_BYTES / took / 1e6

    return run


def dd_rate(folder: Path, blocks: int) -> Callable[[], float]:
    """MB/s of ``dd`` with fsync at its end, into the same directory, bytes from memory."""
    command = ["dd", "if=/dev/zero", f"of={folder}/dd", "bs=4M", f"count={blocks * BLOCK_BYTES // (4 * MIB)}"]

    def run() -> float:
        os.sync()
        began = time.perf_counter()
        subprocess.run([*command, "conv=fsync"], check=True, capture_output=True)
        took = time.perf_counter() - began
        (folder / "dd").unlink()
        return blocks * BLOCK_BYTES / took / 1e6

    return run


def fill_vs_dd(options: Options) -> Figure:
    """4 GiB in blocks of 64 MiB, each flushed before it gets its name, over ``dd conv=fsync``."""
    blocks = 4 if options.quick else 4 * GIB // BLOCK_BYTES
    with disk_folder() as folder:
        cpu_s: list[float] = []
        ours, theirs = fill_rate(folder, blocks, cpu_s), dd_rate(folder, blocks)
        ratio = compare(ours, theirs, goal=0.8, options=options, name="fill", budget_s=SECONDS_MAX)
    detail = {
        **ratio.detail("MBps"),
        "theirs_settings": "dd bs=4M conv=fsync if=/dev/zero",
        "blocks": blocks,
        "our_cpu_s_per_GiB": round(median(cpu_s) / (blocks * BLOCK_BYTES / GIB), 2),
    }
    return Figure("store", "fill_vs_dd", ratio.value, goal=0.8, detail=detail | environment("google-crc32c"))


# -- the index


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ids(count: int) -> Iterator[str]:
    """Block ids as they come: 32 hex digits without order."""
    rng = random.Random(7)
    return (f"{rng.getrandbits(128):032x}" for _ in range(count))


def full_index(count: int, policy: str) -> StoreIndex:
    """An index of so many sealed blocks of 256 KiB in one tier directory, with their checksum and mount."""
    capacity = count * 256 * 1024
    index = StoreIndex([(capacity, Governed(MAKERS[policy](capacity), Ledger()))])
    for number, block_id in enumerate(ids(count)):
        if (
            index.restore(block_id, 200_000 + number % 50_000, 0, dataset="bench", crcs=(number * 7919 % 2**32,))
            is None
        ):
            raise RuntimeError("the index is too small")
    return index


def lookup_us(options: Options) -> Figure:
    """A lookup by id, in random order, of blocks that nobody holds; CPU time, for it never waits."""
    count = 50_000 if options.quick else 1_000_000
    policy = default("policy")
    index = full_index(count, policy)
    wanted = list(ids(count))
    random.Random(3).shuffle(wanted)
    wanted = wanted[:200_000]
    runs = []
    for _ in range(5):
        began = time.thread_time()
        found = sum(index.get(block_id) is not None for block_id in wanted)
        runs.append((time.thread_time() - began) / len(wanted) * 1e6)
        if found != len(wanted):
            raise RuntimeError("a block was not found")
    detail = {"runs": [round(run, 3) for run in runs], "blocks": count, "policy": policy, **environment()}
    value = sorted(runs)[len(runs) // 2]
    return Figure("store", "lookup_us", value, "us", goal=5.0, lower_is_better=True, detail=detail)


def bytes_per_block(options: Options) -> Figure:
    """Growth of resident memory by an index of a million blocks, over their number, the policy's memory included."""
    count = 50_000 if options.quick else 1_000_000
    found = {policy: _grown(count, policy) for policy in (["hold"] if options.quick else sorted(POLICIES))}
    policy = default("policy")
    detail = {"by_policy": found, "blocks": count, "policy": policy, **environment()}
    return Figure("store", "bytes_per_block", found[policy], "B", goal=300.0, lower_is_better=True, detail=detail)


def _grown(count: int, policy: str) -> float:
    """In a process of its own: what another index left behind would hide in free lists."""
    code = f"from bench.store import measure_heap; measure_heap({count}, {policy!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    say(f"{policy}: {done.stdout.strip()} bytes a block")
    return float(done.stdout)


def measure_heap(count: int, policy: str) -> None:
    """Prints the bytes of resident memory per block."""
    full_index(1000, policy)
    gc.collect()
    before = rss_bytes()
    index = full_index(count, policy)
    gc.collect()
    print(round((rss_bytes() - before) / len(index), 1))


# -- restart


def restart_s(options: Options) -> Figure:
    """Seconds from the start of a process to an index that has all blocks of a directory with 100,000 of them."""
    count = 2_000 if options.quick else 100_000
    with disk_folder() as folder:
        _make_blocks(folder, count)
        runs = [_restarted(folder, count) for _ in range(1 if options.quick else 3)]
    worst = max(runs, key=lambda run: run["scanned_s"])
    detail = {"runs": runs, "blocks": count, "caches_dropped": os.geteuid() == 0, **environment()}
    return Figure("store", "restart_s", worst["scanned_s"], "s", goal=10.0, lower_is_better=True, detail=detail)


def _make_blocks(folder: Path, count: int) -> None:
    """Through the real directory, so that every form on the disk is the real one."""
    from forebay_worker import recovery

    tier = open_tier(TierSpec("SSD", folder, GIB), setting="tier_dirs")
    recovery.prepare(tier, boot_id())
    data = bytes(4096)
    crc = google_crc32c.value(data)
    for block_id in ids(count):
        fd, _ = tier.create_part(block_id, len(data), "bench")
        os.write(fd, data)
        tier.seal(block_id, fd, len(data), (crc,), "bench")
        os.close(fd)
    tier.sync()
    tier.close()


def _restarted(folder: Path, count: int) -> dict[str, float]:
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    first = next(ids(1))
    code = f"from bench.store import measure_restart; measure_restart({str(folder)!r}, {first!r})"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    if found.pop("blocks") != count:
        raise RuntimeError("the restart lost blocks")
    times = {name: round(at - began, 3) for name, at in found.items()}
    say(f"restart: {times}")
    return times


def measure_restart(folder: str, first: str) -> None:
    """Prints when a block could be served, and when the scan had ended, by the system's monotonic clock."""

    async def main() -> None:
        importlib.import_module("forebay_worker.app")  # what a whole worker imports counts

        tier = open_tier(TierSpec("SSD", Path(folder), GIB), setting="tier_dirs")
        index = StoreIndex([(GIB, Governed(POLICIES[default("policy")](GIB), Ledger()))])
        store = Store([tier], index, IoThreads(4), WorkerMetrics(Metrics()))
        await store.prepare(boot_id())
        scanning = asyncio.ensure_future(store.scan())
        await asyncio.sleep(0)
        await store.make_ready(first)
        block = index.get(first)
        if block is None:
            raise RuntimeError("a block was not found while the directory is scanned")
        file = await store.open(block)
        async for _ in file.read(0, block.length, store.threads):
            pass
        served, is_early = time.monotonic(), not scanning.done()
        await scanning
        scanned = time.monotonic()
        if len(index) > 10_000 and not is_early:
            raise RuntimeError("nothing was served before the scan had ended")
        print(json.dumps({"served_s": served, "scanned_s": scanned, "blocks": len(index)}))
        store.close()
        tier.close()

    asyncio.run(main())


FIGURES = {
    "fill_vs_dd": fill_vs_dd,
    "lookup_us": lookup_us,
    "bytes_per_block": bytes_per_block,
    "restart_s": restart_s,
}
