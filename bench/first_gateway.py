"""Figures of the whole path: a mount beside native reads of the same block files, and a cold read beside rclone.

The readers are fio (warm) and dd (cold), programs that know nothing of us. The mount's page cache is dropped before
each read, and the gateway's own counters prove that the bytes came through it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Figure, Options, compare, environment, say
from bench.memory import drop_caches, kept_memory
from forebay.cli.children import get
from forebay.cli.cluster import ClusterSpec, LocalCluster
from forebay.testing.s3 import S3Server
from forebay.testing.tools import tool

MIB = 1 << 20
WARM_FILE_BYTES = 256 * MIB
WARM_FILES = 2
COLD_FILES = 8
COLD_FILE_BYTES = 64 * MIB
FIO = ("--rw=read", "--bs=1M", "--ioengine=psync", "--thread", "--invalidate=1", "--output-format=json")
RUN_TIMEOUT_S = 120
BUCKET = "bench"


# -- what both warm figures share


def fio_rate(files: Sequence[Path]) -> float:
    """MB/s of one fio reader that reads the files one after the other, once."""
    names = ":".join(str(path).replace(":", "\\:") for path in files)
    size = sum(path.stat().st_size for path in files)
    command = ["fio", "--name=read", f"--filename={names}", f"--size={size}", "--file_service_type=sequential", *FIO]
    done = subprocess.run(command, capture_output=True, check=True, timeout=RUN_TIMEOUT_S)
    job = json.loads(done.stdout)["jobs"][0]["read"]
    if job["io_bytes"] != size:
        raise RuntimeError(f"fio read {job['io_bytes']} of {size} bytes")
    return float(job["bw_bytes"]) / 1e6


def counter(cluster: LocalCluster, process: str, name: str) -> dict[str, float]:
    """Values of a one-label counter of a process, by label value."""
    reply = get(cluster.children[process].spec.port, "/metrics", timeout_s=5)
    if reply is None:
        raise RuntimeError(f"{process} does not answer")
    values = {}
    for line in reply[1].decode().splitlines():
        if line.startswith(f"{name}{{"):
            label, _, value = line.rpartition(" ")
            values[label.split('"')[1]] = float(value)
    return values


@contextmanager
def warm_mount(options: Options, *, short_circuit: bool) -> Iterator[tuple[LocalCluster, list[Path], list[Path]]]:
    """A cluster whose one worker holds all: (cluster, files in the mount, the worker's block files)."""
    size = (32 if options.quick else WARM_FILE_BYTES // MIB) * MIB
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        source, mount = Path(text) / "source", Path(text) / "mount"
        source.mkdir()
        mount.mkdir()
        for number in range(WARM_FILES):
            write_random(source / f"file-{number}", size)
        spec = ClusterSpec(
            mounts=(f"/=file://{source}",),
            ufs_roots=(f"file://{source}",),
            worker_mem_bytes=2 * WARM_FILES * WARM_FILE_BYTES,
            mount_dirs=(mount,),
            short_circuit=short_circuit,
            extra={"gateway": ("--no-passthrough",)},
        )
        with LocalCluster(spec) as cluster:
            files = sorted(mount.iterdir())
            for path in files:
                with path.open("rb") as file:
                    shutil.copyfileobj(file, Null(), MIB)
            blocks = wait_for_blocks(cluster.places.tier(0), WARM_FILES)
            yield cluster, files, blocks


class Null:
    """Takes bytes and forgets them."""

    def write(self, data: bytes) -> int:
        """All of it."""
        return len(data)


def write_random(path: Path, size: int) -> None:
    """A file of random bytes."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def wait_for_blocks(tier: Path, count: int, timeout_s: float = 60) -> list[Path]:
    """The sealed block files, once there are ``count``."""
    end = time.monotonic() + timeout_s
    while len(found := sorted(tier.rglob("*.blk"))) < count:
        if time.monotonic() > end:
            raise RuntimeError(f"{len(found)} of {count} blocks were sealed")
        time.sleep(0.05)
    return found


def warm_ratio(options: Options, name: str, *, short_circuit: bool, sources: tuple[str, ...], goal: float) -> Figure:
    """One reader through the mount against one reader of the same block files."""
    with warm_mount(options, short_circuit=short_circuit) as (cluster, files, blocks):

        def through_mount() -> float:
            drop_caches()
            before = read_by_source(cluster, sources)
            rate = fio_rate(files)
            seen, size = read_by_source(cluster, sources) - before, sum(p.stat().st_size for p in files)
            if seen < size:
                raise RuntimeError(f"only {seen:.0f} of {size} bytes came by {sources}: the cache served the rest")
            return rate

        def native() -> float:
            return fio_rate(blocks)

        cpu_before = cpu_s(cluster)
        with kept_memory(WARM_FILES * WARM_FILE_BYTES + 512 * MIB):
            ratio = compare(through_mount, native, goal=goal, options=options, name=f"first.{name}")
        runs = len(ratio.ours) + 1 + (0 if options.quick else 6)
        gib = runs * sum(p.stat().st_size for p in files) / (1 << 30)
        detail = ratio.detail("MBps") | {
            "reader": "fio " + " ".join(FIO),
            "bytes_a_run": sum(p.stat().st_size for p in files),
            "our_cpu_s_per_gib": round((cpu_s(cluster) - cpu_before) / gib, 3),
            "versions": environment("forebay", "uvloop"),
        }
    return Figure("first", name, ratio.value, goal=goal, detail=detail)


def read_by_source(cluster: LocalCluster, sources: tuple[str, ...]) -> float:
    """Bytes that the gateway answered from these sources."""
    values = counter(cluster, "gateway", "forebay_fuse_read_bytes_total")
    return sum(values.get(source, 0.0) for source in sources)


def cpu_s(cluster: LocalCluster) -> float:
    """CPU seconds of all our processes so far."""
    ticks = 0
    for child in cluster.children.values():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def local_vs_native(options: Options) -> Figure:
    """Warm worker on this host, blocks read in place."""
    return warm_ratio(options, "local_vs_native", short_circuit=True, sources=("spliced",), goal=0.25)


def remote_vs_native(options: Options) -> Figure:
    """Warm worker asked over TCP."""
    return warm_ratio(
        options, "remote_vs_native", short_circuit=False, sources=("readahead", "remote"), goal=0.15
    )  # fmt: skip


# -- cold


def cold_vs_rclone(options: Options) -> Figure:
    """A cold mount read by eight readers against ``rclone copy`` to tmpfs, from the same S3 server."""
    goal, size = 0.6, (8 * MIB if options.quick else COLD_FILE_BYTES)
    with S3Server() as s3:
        s3.make_bucket(BUCKET)
        for number in range(COLD_FILES):
            s3.put(BUCKET, f"data/file-{number}", os.urandom(size))
        total = size * COLD_FILES

        def through_mount() -> float:
            return cold_read(s3, total)

        def rclone() -> float:
            return rclone_copy(s3, total)

        ratio = compare(through_mount, rclone, goal=goal, options=options, name="first.cold_vs_rclone")
    detail = ratio.detail("MBps") | {
        "ours": "new cluster and mount each run, 8 dd readers of one file each, one worker, default settings",
        "theirs": "rclone copy --transfers 8 to tmpfs",
        "bytes_a_run": total,
        "versions": environment("forebay", "uvloop", "aiobotocore"),
    }
    return Figure("first", "cold_vs_rclone", ratio.value, goal=goal, detail=detail)


def cold_read(s3: S3Server, total: int) -> float:
    """MB/s of eight parallel readers through a new mount in front of a new worker."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        mount = Path(text)
        spec = ClusterSpec(
            mounts=(f"/=s3://{BUCKET}/data,endpoint={s3.endpoint},path-style=true,region=us-east-1",),
            ufs_roots=(f"s3://{BUCKET}/data@{s3.endpoint}",),
            worker_mem_bytes=4 * total,
            mount_dirs=(mount,),
            environ=s3.env,
        )
        with LocalCluster(spec) as cluster:
            files = sorted(mount.iterdir())
            began = time.monotonic()
            readers = [subprocess.Popen(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"]) for path in files]
            codes = [reader.wait(RUN_TIMEOUT_S) for reader in readers]
            took = time.monotonic() - began
            filled = counter(cluster, "worker-0", "forebay_worker_filled_bytes_total").get("ufs", 0.0)
            served = counter(cluster, "worker-0", "forebay_worker_served_bytes_total").get("ufs", 0.0)
    if any(codes) or len(files) != COLD_FILES or filled < total:
        raise RuntimeError(f"not a cold read: codes {codes}, {filled:.0f} of {total} bytes from the under store")
    say(f"  cold: {took:.2f} s, filled {filled:.0f}, served as ufs {served:.0f}")
    return total / took / 1e6


def rclone_copy(s3: S3Server, total: int) -> float:
    """MB/s of rclone copying the same objects to tmpfs."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-", dir="/dev/shm") as target:
        remote = (
            f":s3,provider=SeaweedFS,env_auth=true,region=us-east-1,force_path_style=true,endpoint='{s3.endpoint}'"
            f":{BUCKET}/data"
        )
        command = [str(tool("rclone")), "copy", "--transfers", "8", "--config", "/dev/null", remote, target]
        began = time.monotonic()
        subprocess.run(command, check=True, timeout=RUN_TIMEOUT_S, env={**os.environ, **s3.env})
        took = time.monotonic() - began
        copied = sum(path.stat().st_size for path in Path(target).rglob("*") if path.is_file())
    if copied != total:
        raise RuntimeError(f"rclone copied {copied} of {total} bytes")
    return total / took / 1e6


FIGURES = {
    "local_vs_native": local_vs_native,
    "remote_vs_native": remote_vs_native,
    "cold_vs_rclone": cold_vs_rclone,
}
