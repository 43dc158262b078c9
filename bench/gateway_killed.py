"""``kill -9`` of the gateway again and again under readers that check what they read: errors, and the longest pause.

Half of the readers read files of several blocks, every byte by READ through the gateway; half files of one block, which
pass through: for them only opening and closing can wait. All drop the page cache of a file after it was read. What is
killed is the process that serves the mount; its guard starts the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.gateway_side import MIB, memory_folder, read_whole, write_files
from forebay.cli.cluster import GATEWAY, KEEPER, ClusterSpec, LocalCluster
from forebay.testing.cluster import eventually

RUN_S, QUICK_RUN_S = 300.0, 12.0
EVERY_S, QUICK_EVERY_S = 10.0, 3.0
PAUSE_GOAL_S = 3.0
READERS = 4
FILES = 8
BLOCK_BYTES = 32 * MIB
FILE_BYTES = {"large": 2 * BLOCK_BYTES + 12_345, "small": 24 * MIB + 321}
START_TIMEOUT_S = 30.0
READER_TIMEOUT_S = 60.0

READER = """
import hashlib, json, os, sys, time
folder, until, start = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
wanted = json.loads(sys.argv[4])
names = sorted(wanted)
names = names[start % len(names):] + names[:start % len(names)]
found = {"files": 0, "bytes": 0, "wrong": 0, "errors": [], "pauses_s": []}
def timed(call, *args):
    began = time.monotonic()
    try:
        return call(*args)
    finally:
        if (took := time.monotonic() - began) > 0.02:
            found["pauses_s"].append(round(took, 3))
def read(name):
    digest, fd = hashlib.sha256(), timed(os.open, os.path.join(folder, name), os.O_RDONLY)
    try:
        while piece := timed(os.read, fd, 1 << 20):
            digest.update(piece)
            found["bytes"] += len(piece)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        timed(os.close, fd)
    return digest.hexdigest()
while time.time() < until:
    for name in names:
        try:
            found["files"] += 1
            found["wrong"] += read(name) != wanted[name]
        except OSError as e:
            found["errors"].append(f"{name}: {e}")
found["pauses_s"] = sorted(found["pauses_s"])[-200:]
print(json.dumps(found))
"""


def digests(folder: Path) -> dict[str, dict[str, str]]:
    """SHA-256 of the source's files, by kind and name."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in FILE_BYTES}
    for kind, names in found.items():
        for path in sorted((folder / kind).iterdir()):
            with path.open("rb") as file:
                names[f"{kind}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@contextmanager
def kept_mount(source: Path) -> Iterator[tuple[LocalCluster, Path]]:
    """A cluster with one worker in memory that shows ``source`` on a mount with a keeper."""
    mount = source.parent / "mount"
    mount.mkdir(exist_ok=True)
    total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    spec = ClusterSpec(
        mounts=(f"/=file://{source}",),
        ufs_roots=(f"file://{source}",),
        worker_mem_bytes=2 * total,
        mount_dirs=(mount,),
        keeper=True,
        extra={"master": ("--block-size", str(BLOCK_BYTES))},
    )
    with LocalCluster(spec) as cluster:
        yield cluster, mount


def gateway_of(cluster: LocalCluster) -> int | None:
    """The process that serves the mount: the guard's child."""
    guard = cluster.children[GATEWAY].pid
    children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
    return int(children[0]) if children else None


def kill_gateway(cluster: LocalCluster) -> float:
    """Kills it; seconds until another one is there."""
    victim = gateway_of(cluster)
    if victim is None:
        raise RuntimeError("no gateway to kill")
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    while gateway_of(cluster) in (victim, None):
        if time.monotonic() - began > START_TIMEOUT_S:
            raise RuntimeError("no gateway came back")
        time.sleep(0.005)
    return time.monotonic() - began


@cache
def killed(options: Options) -> Mapping[str, Any]:
    """One run for both figures: what the readers found, and what they found in earlier parts of it."""
    run_s, every_s = (QUICK_RUN_S, QUICK_EVERY_S) if options.quick else (RUN_S, EVERY_S)
    run = measured(options.seconds or run_s, every_s)
    if options.parts is None:
        return run
    with options.parts.open("a+") as file:
        file.write(json.dumps(run) + "\n")
        file.seek(0)
        return together([json.loads(line) for line in file])


def together(parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Several runs told as one; ``parts_s`` says that they were, each with a cluster of its own.

    Raises:
        ValueError: they are not of one kind.
    """
    if len({part["every_s"] for part in parts}) != 1:
        raise ValueError("runs with different times between kills are not parts of one")
    return {
        "kills": sum(part["kills"] for part in parts),
        "readers": [reader for part in parts for reader in part["readers"]],
        "run_s": sum(part["run_s"] for part in parts),
        "every_s": parts[0]["every_s"],
        "parts_s": [part["run_s"] for part in parts],
    }


def measured(run_s: float, every_s: float) -> Mapping[str, Any]:
    """One cluster, its readers, and a kill every so often."""
    with memory_folder() as folder:
        source = folder / "source"
        source.mkdir()
        for kind, size in FILE_BYTES.items():
            write_files(source / kind, FILES // 2, size)
        wanted = digests(source)
        with kept_mount(source) as (cluster, mount):
            read_whole(sorted(path for kind in FILE_BYTES for path in (mount / kind).iterdir()))  # warm from here on
            return _under_readers(cluster, mount, wanted, run_s, every_s)


def _under_readers(
    cluster: LocalCluster, mount: Path, wanted: Mapping[str, Mapping[str, str]], run_s: float, every_s: float
) -> Mapping[str, Any]:
    until, kills = time.time() + run_s, 0
    readers = [_reader(mount, until, n, wanted["large" if n % 2 else "small"]) for n in range(READERS)]
    try:
        while time.time() < until - 1.5 * every_s:  # the last one is under readers as well
            time.sleep(every_s)
            kill_gateway(cluster)
            kills += 1
            say(f"gateway.killed: {kills} kills, {until - time.time():.0f} s to go")
        found = [json.loads(reader.communicate(timeout=READER_TIMEOUT_S)[0]) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    if kills and cluster.children[KEEPER].returncode is not None:
        raise RuntimeError("the keeper has ended")
    eventually(lambda: takeovers(cluster) >= kills, what=f"a takeover for each of {kills} kills")
    return {"kills": kills, "readers": found, "run_s": run_s, "every_s": every_s}


def takeovers(cluster: LocalCluster) -> int:
    """How often a gateway said that it goes on with the mount."""
    return sum('"event": "took_over"' in line for line in cluster.children[GATEWAY].tail(10_000))


def _reader(mount: Path, until: float, first: int, wanted: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, str(mount), str(until), str(first), json.dumps(wanted)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _detail(run: Mapping[str, Any]) -> dict[str, Any]:
    readers = run["readers"]
    return {
        "kills": run["kills"],
        "every_s": run["every_s"],
        "run_s": run["run_s"],
        "parts_s": run.get("parts_s", [run["run_s"]]),
        "readers": READERS,
        "files_read": sum(r["files"] for r in readers),
        "GiB_read": round(sum(r["bytes"] for r in readers) / (1 << 30), 1),
        "wrong": sum(r["wrong"] for r in readers),
        "errors": [e for r in readers for e in r["errors"]][:10],
        "longest_pauses_s": sorted((p for r in readers for p in r["pauses_s"]), reverse=True)[:10],
        **environment(),
    }


def killed_errors(options: Options) -> Figure:
    """Reads that failed, and files whose bytes were wrong."""
    run = killed(options)
    count = sum(len(r["errors"]) + r["wrong"] for r in run["readers"])
    return Figure("gateway", "killed_errors", count, "count", 0.0, lower_is_better=True, detail=_detail(run))


def killed_pause_s(options: Options) -> Figure:
    """The longest that one call (open, read or close) of a reader took."""
    run = killed(options)
    longest = max((p for r in run["readers"] for p in r["pauses_s"]), default=0.0)
    return Figure("gateway", "killed_pause_s", longest, "s", PAUSE_GOAL_S, lower_is_better=True, detail=_detail(run))


FIGURES = {"killed_errors": killed_errors, "killed_pause_s": killed_pause_s}
