"""A job while one of three workers is killed: no error, and the throughput of the workers that are left.

As in `bench.moving_faults` every worker is reached through a proxy that bounds it alike, the sum below what the machine
gives. The job is some loaders that share the shards, for as many epochs as it takes; it reads by the SDK, so that no
page cache hides the workers.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.train_job import Job, batches, job
from forebay.cli.cluster import ClusterSpec, LocalCluster
from forebay.client import ClientOptions
from forebay.data import SdkFiles, StreamOptions
from forebay.errors import ForebayError
from forebay.testing.faults import FaultProxy, Faults

WORKERS = 3
BOUND = 60e6
"""Bytes a second of each worker."""

LOADERS = 12
BLOCK = 4 << 20
SHARDS = 24
GOAL = 0.95
INPUT = StreamOptions(window=1, piece_bytes=1 << 20, buffers=4, streams_max=2)


@dataclass(frozen=True)
class Times:
    """Seconds: measured before the kill, left out after it, measured then."""

    before_s: float
    settle_s: float
    after_s: float


FULL, QUICK = Times(12.0, 10.0, 15.0), Times(6.0, 2.0, 6.0)


@dataclass
class Seen:
    """Moments at which batches came, and what went wrong."""

    batches: list[tuple[float, int]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def rate(self, from_s: float, to_s: float) -> float:
        """Images/s."""
        return sum(n for at_s, n in self.batches if from_s <= at_s < to_s) / (to_s - from_s)


class Training(threading.Thread):
    """Epoch after epoch until it is told to end."""

    def __init__(self, made: Job, files: SdkFiles) -> None:
        super().__init__(name="training", daemon=True)
        self._made, self._files = made, files
        self.seen, self.is_over = Seen(), threading.Event()

    def run(self) -> None:
        """Reads."""
        epoch = 0
        while not self.is_over.is_set():
            try:
                for count, _ in batches(self._files, self._made.names, INPUT, epoch=epoch, loaders=LOADERS):
                    self.seen.batches.append((time.monotonic(), count))
                    if self.is_over.is_set():
                        return
            except ForebayError as e:  # the figure is how many there are
                self.seen.errors.append(repr(e))
            epoch += 1


def _cluster(made: Job, stack: ExitStack) -> tuple[LocalCluster, dict[str, FaultProxy]]:
    spec = ClusterSpec(
        mounts=(f"/=file://{made.folder}",),
        ufs_roots=(f"file://{made.folder}",),
        workers=WORKERS,
        worker_mem_bytes=2 * made.bytes,
        extra={"master": ("--block-size", str(BLOCK))},
    )
    cluster = LocalCluster(spec)
    stack.callback(cluster.stop)
    cluster.prepare()
    proxies = {}
    for name in [f"worker-{n}" for n in range(WORKERS)]:
        proxies[name] = stack.enter_context(FaultProxy(cluster.address(name)))
        child = cluster.children[name]
        child.spec = replace(child.spec, args=(*child.spec.args, "--advertise", proxies[name].address))
    cluster.start()
    return cluster, proxies


@cache
def killed(options: Options) -> tuple[float, Seen, dict[str, Any]]:
    """One run for both figures: throughput after over before, what was seen, details."""
    times = QUICK if options.quick else FULL
    with ExitStack() as stack:
        made = stack.enter_context(job(options, shards=SHARDS))
        cluster, proxies = _cluster(made, stack)
        files = SdkFiles(ClientOptions(cluster.registry, "bench-train"))
        stack.callback(files.close)
        for _ in batches(files, made.names, INPUT, loaders=LOADERS):  # everything is cached then
            pass
        for proxy in proxies.values():
            proxy.faults = Faults(shared_bytes_per_s=BOUND)
        training = Training(made, files)
        training.start()
        time.sleep(3.0)
        began_s = time.monotonic()
        time.sleep(times.before_s)
        killed_s = time.monotonic()
        cluster.kill("worker-0")
        time.sleep(times.settle_s + times.after_s)
        training.is_over.set()
        training.join(60)
        seen = training.seen
    before = seen.rate(began_s, killed_s)
    after = seen.rate(killed_s + times.settle_s, killed_s + times.settle_s + times.after_s)
    say(f"train: {before:.0f} images/s before, {after:.0f} after, {len(seen.errors)} errors")
    detail = {
        "before": round(before, 1),
        "after": round(after, 1),
        "before_MBps": round(before * made.record_bytes / 1e6, 1),
        "bound_MBps": BOUND / 1e6,
        "by_second": [round(seen.rate(killed_s + n, killed_s + n + 1)) for n in range(int(times.settle_s))],
        "errors": seen.errors[:5],
        **environment(),
    }
    left = before * (WORKERS - 1) / WORKERS
    return after / left if left else 0.0, seen, detail


def killed_errors(options: Options) -> Figure:
    """Errors in the job."""
    _, seen, detail = killed(options)
    return Figure("train", "killed_errors", len(seen.errors), "errors", 0, lower_is_better=True, detail=detail)


def killed_throughput(options: Options) -> Figure:
    """Images/s after ten seconds, over two thirds of those before."""
    ratio, _, detail = killed(options)
    return Figure("train", "killed_throughput", ratio, "ratio", GOAL, detail=detail)


FIGURES = {"killed_errors": killed_errors, "killed_throughput": killed_throughput}
