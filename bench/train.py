"""Emulated accelerators over a mount: what training loses to waiting for data when the dataset is cached.

As MLPerf Storage does it, computation is a sleep per batch (`bench.train_profiles`); records are read, checked and cut
by `forebay.data`, a few batches ahead. Four workers, one of them in the gateway's ``short_circuit_dirs``, so three
quarters of the bytes are remote. One process stands for all accelerators of a node. The pace is 861 MB/s or the highest
of its halves at which local disk itself loses under 1 %. *Untuned* sets the switches as the starting point had them, as
far as they exist here (no switch updates access times).
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.first_gateway import drop_caches
from bench.train_profiles import NODE_MBPS, PROFILES, RECORD_BYTES
from forebay.cli.children import get
from forebay.cli.cluster import GATEWAY, ClusterSpec, LocalCluster
from forebay.data import Files, FolderFiles, MountFiles, Part, Position, ShardStream, StreamOptions
from forebay.data.tfrecord import frame
from forebay.testing.cluster import parse_metrics

SHARDS, QUICK_SHARDS = 32, 4
RECORDS, QUICK_RECORDS = 313, 40
"""A quarter of that benchmark's shards, so that there are many to share among four workers."""

WORKERS = 4
BATCH = PROFILES["a100"].batch // 8
"""An eighth of a batch at eight times the rate: the same pace in a shorter run."""

AHEAD = 4
"""Batches that are ready before they are asked for."""

EPOCHS, QUICK_EPOCHS = 3, 1
LOSS_MAX, UTILISATION_MIN, GAIN_MIN = 0.01, 0.99, 3.36
UNTUNED = {
    "direct_io": ("gateway", ("--direct-io", "--no-passthrough")),
    "local_first": ("gateway", ("--location-policy", "local-first")),
    "no_metadata_cache": ("gateway", ("--metadata-cache-s", "0", "--entry-timeout", "0", "--attr-timeout", "0")),
    "passive_cache": ("worker", ("--passive-cache",)),
    "promote": ("worker", ("--read-type", "CACHE_PROMOTE")),
}
TUNED_INPUT = StreamOptions(window=1)
UNTUNED_INPUT = StreamOptions(window=1, buffers=1, streams_max=1, piece_bytes=128 << 10)


@dataclass(frozen=True)
class Ran:
    """What a job reached. ``utilisation`` is the share of time that the accelerators computed."""

    images_per_s: float
    utilisation: float

    @property
    def mbps(self) -> float:
        """Bytes of records, in MB/s."""
        return self.images_per_s * RECORD_BYTES / 1e6


def write_shards(folder: Path, shards: int, records: int) -> list[str]:
    """Shards of records of that benchmark's average length."""
    body = (bytes(range(256)) * (RECORD_BYTES // 256 + 1))[: RECORD_BYTES - 16]
    names = [f"part-{shard:05}.tfrecord" for shard in range(shards)]
    for name in names:
        (folder / name).write_bytes(b"".join(frame(f"{n:016}".encode() + body) for n in range(records)))
    return names


def train(batches: Iterator[int], *, step_s: float) -> Ran:
    """Steps until there is no batch left: wait for one, compute."""
    images, steps, began = 0, 0, 0.0
    for count in batches:
        began = began or time.monotonic()
        images, steps = images + count, steps + 1
        time.sleep(step_s)
    took_s = time.monotonic() - began
    return Ran(images / took_s, steps * step_s / took_s)


def batches_of(files: Files, names: Sequence[str], options: StreamOptions, epochs: int) -> Iterator[int]:
    """Whole batches of records, read a few ahead by a thread; what is left at the end of an epoch is not used."""
    ready: queue.Queue[int | BaseException] = queue.Queue(AHEAD)

    def load() -> None:
        try:
            for epoch in range(epochs):
                stream = iter(ShardStream(files, names, Part(), options, start=Position(epoch=epoch)))
                while len([record for _, record in zip(range(BATCH), stream, strict=False)]) == BATCH:
                    ready.put(BATCH)
            ready.put(0)
        except BaseException as e:
            ready.put(e)
            raise

    threading.Thread(target=load, name="loader", daemon=True).start()
    while count := ready.get():
        if isinstance(count, BaseException):
            raise count
        yield count


def synthetic(count: int, step_s: float) -> Ran:
    """As many batches that need no data."""
    return train(iter([BATCH] * count), step_s=step_s)


@contextmanager
def mounted(source: Path, room: int, switches: Sequence[str] = ()) -> Iterator[tuple[LocalCluster, Path]]:
    """Four workers, one on the gateway's side."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        mount, extra = Path(text) / "mount", dict[str, tuple[str, ...]]()
        mount.mkdir()
        for name in switches:
            service, flags = UNTUNED[name]
            extra[service] = (*extra.get(service, ()), *flags)
        spec = ClusterSpec(
            mounts=(f"/=file://{source}",),
            ufs_roots=(f"file://{source}",),
            workers=WORKERS,
            worker_mem_bytes=room,
            mount_dirs=(mount,),
            short_circuit=False,
            extra=extra,
        )
        cluster = LocalCluster(spec)
        try:
            cluster.prepare()
            gateway = cluster.children[GATEWAY]
            near = ("--short-circuit-dirs", str(cluster.places.tier(0)))
            gateway.spec = replace(gateway.spec, args=(*gateway.spec.args, *near))
            cluster.start()
            yield cluster, mount
        finally:
            cluster.stop()


def sources(cluster: LocalCluster) -> dict[str, float]:
    """Bytes that the workers sent, and that lie in their tiers: worker 0's are read in place."""
    used = [sum(f.stat().st_size for f in cluster.places.tier(n).rglob("*.blk")) for n in range(WORKERS)]
    sent = 0.0
    for number in range(WORKERS):
        reply = get(cluster.children[f"worker-{number}"].spec.port, "/metrics", timeout_s=5)
        found = parse_metrics(reply[1]) if reply is not None else {}
        sent += sum(v for k, v in found.items() if k.startswith("forebay_worker_served_bytes_total"))
    return {"near_share": used[0] / max(1, sum(used)), "sent_bytes": sent}


class Job:
    """A dataset in memory, and runs over it."""

    def __init__(self, options: Options, folder: Path) -> None:
        shards, records = (QUICK_SHARDS, QUICK_RECORDS) if options.quick else (SHARDS, RECORDS)
        self.folder, self.epochs = folder, QUICK_EPOCHS if options.quick else EPOCHS
        self.names = write_shards(folder, shards, records)
        self.bytes = sum((folder / name).stat().st_size for name in self.names)
        self.batches = self.epochs * (shards * records // BATCH)

    def run(self, files: Files, step_s: float, options: StreamOptions = TUNED_INPUT) -> Ran:
        """All epochs."""
        return train(batches_of(files, self.names, options, self.epochs), step_s=step_s)

    def warm(self, mount: Path) -> MountFiles:
        """One epoch that fills the cache; the mount's pages are dropped after it."""
        files = MountFiles(mount)
        train(batches_of(files, self.names, TUNED_INPUT, 1), step_s=0.0)
        drop_caches()
        return files

    def pace_mbps(self) -> float:
        """The highest of 861 MB/s and its halves at which local disk loses under 1 %."""
        pace = NODE_MBPS
        while pace > 20:
            step_s = BATCH * RECORD_BYTES / 1e6 / pace
            ideal, disk = synthetic(self.batches, step_s), self.run(FolderFiles(self.folder), step_s)
            lost = 1 - disk.images_per_s / ideal.images_per_s
            say(f"train: local disk at {pace:.0f} MB/s loses {lost:.2%}")
            if lost < LOSS_MAX:
                break
            pace /= 2
        return pace


@contextmanager
def job(options: Options) -> Iterator[Job]:
    """In /dev/shm: what is measured is not this machine's disk."""
    with tempfile.TemporaryDirectory(prefix="forebay-train-", dir="/dev/shm") as text:
        yield Job(options, Path(text))


@cache
def tuned(options: Options) -> Mapping[str, Any]:
    """One run for three figures: at a pace, synthetic beside the mount."""
    with job(options) as made, mounted(made.folder, 2 * made.bytes) as (cluster, mount):
        pace = made.pace_mbps()
        step_s = BATCH * RECORD_BYTES / 1e6 / pace
        files = made.warm(mount)
        pairs = []
        for _ in range(1 if options.quick else 3):
            pairs.append((synthetic(made.batches, step_s), made.run(files, step_s)))
            drop_caches()
        lost = [1 - ours.images_per_s / ideal.images_per_s for ideal, ours in pairs]
        return {
            "pace": pace,
            "lost": median(lost),
            "utilisation": median(ours.utilisation / ideal.utilisation for ideal, ours in pairs),
            "runs": [[round(i.images_per_s, 1), round(o.images_per_s, 1)] for i, o in pairs],
            **sources(cluster),
        }


def _figure(options: Options, name: str, key: str, unit: str, goal: float | None, *, lower: bool = False) -> Figure:
    run = tuned(options)
    detail = {**run, "batch": BATCH, "epochs": EPOCHS, **environment()}
    return Figure("train", name, run[key], unit, goal, lower_is_better=lower, detail=detail)


def tuned_loss(options: Options) -> Figure:
    """Images/s lost to synthetic data at the pace."""
    return _figure(options, "tuned_loss", "lost", "ratio", LOSS_MAX, lower=True)


def tuned_utilisation(options: Options) -> Figure:
    """Share of the time that accelerators compute, of what they do with synthetic data."""
    return _figure(options, "tuned_utilisation", "utilisation", "ratio", UTILISATION_MIN)


def pace(options: Options) -> Figure:
    """The pace of both."""
    return _figure(options, "pace_MBps", "pace", "MB/s", None)


def _unlimited(made: Job, switches: Sequence[str], options: StreamOptions) -> float:
    with mounted(made.folder, 2 * made.bytes, switches) as (_, mount):
        files = made.warm(mount)
        return made.run(files, 0.0, options).images_per_s


def tuned_vs_untuned(options: Options) -> Figure:
    """Images/s without a pace; and with one switch at a time set as the starting point had it."""
    with job(options) as made:
        best = _unlimited(made, (), TUNED_INPUT)
        worst = _unlimited(made, tuple(UNTUNED), UNTUNED_INPUT)
        alone = {"one_thread": _unlimited(made, (), UNTUNED_INPUT)}
        for name in UNTUNED if not options.quick else ():
            alone[name] = _unlimited(made, (name,), TUNED_INPUT)
    lost = {name: round(1 - rate / best, 3) for name, rate in alone.items()}
    detail = {"tuned": best, "untuned": worst, "lost_by_switch": lost, **environment()}
    return Figure("train", "tuned_vs_untuned", best / worst, "ratio", GAIN_MIN, detail=detail)


FIGURES = {
    "tuned_loss": tuned_loss,
    "tuned_utilisation": tuned_utilisation,
    "pace_MBps": pace,
    "tuned_vs_untuned": tuned_vs_untuned,
}
