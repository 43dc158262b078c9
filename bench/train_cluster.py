"""The cluster of the train bench: four workers, one of them on the mount's side, as on four nodes.

Each shard is one block, and shards are given their homes in turn, so that a quarter of the bytes is near: where the
ranking says otherwise a shard's time of change is moved until it does not. *Untuned* sets this system's own switches as
the starting point had them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.memory import drop_caches
from bench.train_job import Job
from forebay.cli.children import get
from forebay.cli.cluster import GATEWAY, ClusterSpec, LocalCluster
from forebay.cli.sources import SourceOptions, mount_setting, root_setting
from forebay.client import ClientOptions, SyncClient
from forebay.data import MountFiles, SdkFiles
from forebay.testing.cluster import parse_metrics
from forebay.ufs import UfsUri

WORKERS = 4
ROOM = 1.25
"""What the workers hold together, in datasets."""

SEAL_S = 60.0
TRIES_MAX = 400
UNTUNED: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "direct_io": (("gateway", ("--direct-io",)),),
    "local_first": (("gateway", ("--location-policy", "local-first")),),
    "passive_cache": (("worker", ("--passive-cache",)),),
    "promote": (("worker", ("--read-type", "CACHE_PROMOTE")),),
    "no_metadata_cache": (("gateway", ("--no-metadata-cache",)),),
    "update_access_time": (("gateway", ("--update-access-time",)),),
    "short_timeouts": (("gateway", ("--entry-timeout", "0", "--attr-timeout", "0", "--negative-timeout", "0")),),
}
"""Flags by switch. *One thread* is the input's own (`train_job.ONE_THREAD`); the gateway has no data helpers here."""


@dataclass(frozen=True)
class Mounted:
    """A cluster that shows a job's dataset."""

    cluster: LocalCluster
    mount: Path
    job: Job

    def files(self) -> MountFiles:
        """The mount."""
        return MountFiles(self.mount)

    def sdk(self) -> SdkFiles:
        """A client that reads what is near in place, as the gateway does."""
        return SdkFiles(self.options("train", short_circuit_dirs=(self.cluster.places.tier(0),)))

    def options(self, client_id: str, short_circuit_dirs: tuple[Path, ...] = ()) -> ClientOptions:
        """Of a client."""
        return ClientOptions(self.cluster.registry, client_id, short_circuit_dirs=short_circuit_dirs)

    def warm(self) -> None:
        """Every shard lies whole in the tier of its home; the mount has no pages of them."""
        command = [sys.executable, "-m", "forebay.cli", "load", "/", "--registry", self.cluster.registry]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        end_s = time.monotonic() + SEAL_S
        while self.held() < len(self.job.names):
            if time.monotonic() > end_s:
                raise RuntimeError("not all blocks were sealed")
            time.sleep(0.05)
        drop_caches()

    def held(self) -> int:
        """Whole blocks in the workers' tiers."""
        return sum(1 for n in range(self.cluster.spec.workers) for _ in self.cluster.places.tier(n).rglob("*.blk"))

    def total(self, metric: str, *services: str) -> float:
        """Of a counter, over services (all workers if none is named)."""
        names = services or tuple(f"worker-{n}" for n in range(self.cluster.spec.workers))
        found = 0.0
        for name in names:
            reply = get(self.cluster.children[name].spec.port, "/metrics", timeout_s=5)
            samples = parse_metrics(reply[1]) if reply is not None else {}
            found += sum(v for k, v in samples.items() if k.startswith(metric))
        return found

    def sent(self) -> float:
        """Bytes that workers sent to anybody: what did not come from the near tier or the page cache."""
        return self.total("forebay_worker_served_bytes_total")

    def spread(self) -> None:
        """Gives the shards their homes: the first to worker 0, the next to worker 1, …"""
        with SyncClient(replace(self.options("bench-spread"), metadata_cache=False)) as client:
            for number, name in enumerate(self.job.names):
                self._move(client, name, f"worker-{number % self.cluster.spec.workers}")

    def _move(self, client: SyncClient, name: str, wanted: str) -> None:
        path = self.job.folder / name
        for _ in range(TRIES_MAX):
            client.sync(f"/{name}")
            layout = client.lookup(f"/{name}").entry.layout
            assert layout is not None
            if client.core().client.homes(layout, 1) == [wanted]:
                return
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1000))
        raise RuntimeError(f"{name} never came to {wanted}")


def flags_of(switches: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Flags by service."""
    flags: dict[str, tuple[str, ...]] = {}
    for name in switches:
        for service, more in UNTUNED[name]:
            flags[service] = (*flags.get(service, ()), *more)
    return flags


@contextmanager
def mounted(
    job: Job,
    *,
    switches: Sequence[str] = (),
    room: float = ROOM,
    source: str | None = None,
    options: SourceOptions | None = None,
    environ: Mapping[str, str] | None = None,
    extra: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[Mounted]:
    """The cluster over the job's folder, or over ``source`` that has the same files. ``room``: of all workers, in
    datasets."""
    uri, how = UfsUri.parse(source or f"file://{job.folder}"), options or SourceOptions()
    flags = flags_of(switches)
    for service, more in (extra or {}).items():
        flags[service] = (*flags.get(service, ()), *more)
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        mount = Path(text) / "mount"
        mount.mkdir()
        spec = ClusterSpec(
            mounts=(mount_setting("/", uri, how),),
            ufs_roots=(root_setting(uri, how),),
            workers=WORKERS,
            worker_mem_bytes=int(room * job.bytes / WORKERS),
            mount_dirs=(mount,),
            short_circuit=False,
            extra=flags,
            environ=environ or {},
        )
        cluster = LocalCluster(spec)
        try:
            cluster.prepare()
            gateway = cluster.children[GATEWAY]
            near = ("--short-circuit-dirs", str(cluster.places.tier(0)))
            gateway.spec = replace(gateway.spec, args=(*gateway.spec.args, *near))
            cluster.start()
            yield Mounted(cluster, mount, job)
        finally:
            cluster.stop()
