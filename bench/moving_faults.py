"""Figures of a cluster under load with one worker hurt: throttled to a quarter, or killed.

Every worker is reached through a proxy that bounds it alike, so that the sum of the bounds is below what the machine
gives: what is lost then is lost by the cluster and not by the machine. One reader process has random ranges under way
all the time and compares bytes with the source.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.first_gateway import write_random
from forebay.cli.children import get
from forebay.cli.cluster import ClusterSpec, LocalCluster
from forebay.testing.cluster import parse_metrics
from forebay.testing.faults import FaultProxy, Faults

MIB = 1 << 20
BOUND = 15e6
"""Bytes per second of each worker: all together less than two cores give."""

THROTTLE = 0.25
READ_BYTES = MIB
STREAMS = 16
EXTENT = 4 * MIB

BINDING = 0.8
"""A cluster that gives this share of the sum of its bounds is bound by them."""

FILES, QUICK_FILES, FILE_BYTES = 512, 32, MIB
"""One block each: of many small ones each worker owns about as much as the others. With a few large ones the fullest
worker is what limits, and losing one of the others costs nothing."""

BACK = 0.95
"""Throughput is back when it has reached this share of what it comes to."""

REQUESTS, READ = "forebay_ufs_requests_total{", "forebay_ufs_read_bytes_total{"


@dataclass(frozen=True)
class Times:
    """Seconds: measured before; left out after the change; measured then."""

    before_s: float
    settle_s: float
    after_s: float


THROTTLED = Times(10.0, 10.0, 20.0)
KILLED = Times(10.0, 10.0, 15.0)
QUICK = Times(2.0, 2.0, 2.0)


@dataclass(frozen=True)
class Seen:
    """What the reader saw: (end, seconds) of each read, errors, reads with wrong bytes."""

    reads: tuple[tuple[float, float], ...]
    errors: tuple[str, ...]
    wrong: int

    def rate(self, start_s: float, stop_s: float) -> float:
        """MB/s of what ended between two moments."""
        count = sum(start_s <= end < stop_s for end, _ in self.reads)
        return count * READ_BYTES / 1e6 / (stop_s - start_s)

    def back_s(self, since_s: float, wanted: float, length_s: float) -> float:
        """Seconds until the throughput of two seconds is ``wanted`` MB/s; at most ``length_s`` less two."""
        last_s = length_s - 2.0
        for tenth in range(int(last_s * 10)):
            at_s = since_s + tenth / 10
            if self.rate(at_s, at_s + 2.0) >= wanted:
                return tenth / 10
        return last_s

    def seconds(self, start_s: float, stop_s: float) -> list[float]:
        """Durations, sorted, of reads that were under way at some moment between the two."""
        return sorted(took for end, took in self.reads if end >= start_s and end - took < stop_s)


class Load:
    """The reader process."""

    def __init__(self, cluster: LocalCluster, source: Path) -> None:
        command = [sys.executable, "-m", "bench.moving_reader", cluster.registry, str(source)]
        self._process = subprocess.Popen(
            [*command, str(READ_BYTES), str(STREAMS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the reader did not begin")

    def stop(self) -> Seen:
        """Ends it; what it saw."""
        out, _ = self._process.communicate(timeout=60)
        said = json.loads(out)
        return Seen(tuple((end, took) for end, took in said["reads"]), tuple(said["errors"]), said["wrong"])

    def end(self) -> None:
        """Kills it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Bounded:
    """A cluster whose workers are bounded, warm, and under load."""

    cluster: LocalCluster
    proxies: dict[str, FaultProxy]
    load: Load
    source: Path

    def metrics(self, name: str) -> dict[str, float]:
        """Samples of a worker."""
        reply = get(self.cluster.children[name].spec.port, "/metrics", timeout_s=5)
        return parse_metrics(reply[1]) if reply is not None else {}

    def served(self) -> dict[str, float]:
        """Bytes served by each worker that answers."""
        return {name: _served(self.metrics(name)) for name in self.proxies}

    def ufs_reads(self) -> tuple[float, float]:
        """Requests to the under store, and bytes, of all workers that answer."""
        found = [self.metrics(name) for name in self.proxies]
        requests = (v for m in found for n, v in m.items() if n.startswith(REQUESTS) and 'operation="read"' in n)
        return sum(requests), sum(v for m in found for n, v in m.items() if n.startswith(READ))


@contextmanager
def bounded_cluster(workers: int, *, quick: bool) -> Iterator[Bounded]:
    """``workers`` behind proxies of ``BOUND`` each, holding all files between them, and a reader that runs."""
    with ExitStack() as stack:
        source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-")))
        for number in range(QUICK_FILES if quick else FILES):
            write_random(source / f"file-{number:03}", FILE_BYTES)
        spec = ClusterSpec(
            mounts=(f"/=file://{source}",),
            ufs_roots=(f"file://{source}",),
            workers=workers,
            worker_mem_bytes=2 * FILES * FILE_BYTES,
        )
        cluster = LocalCluster(spec)
        stack.callback(cluster.stop)
        cluster.prepare()
        proxies: dict[str, FaultProxy] = {}
        for name in [f"worker-{n}" for n in range(workers)]:
            proxies[name] = stack.enter_context(FaultProxy(cluster.address(name)))
            child = cluster.children[name]
            child.spec = replace(child.spec, args=(*child.spec.args, "--advertise", proxies[name].address))
        cluster.start()
        _warm(cluster, source)
        for proxy in proxies.values():
            proxy.faults = Faults(shared_bytes_per_s=BOUND)
        load = Load(cluster, source)
        stack.callback(load.end)
        time.sleep(1.0 if quick else 3.0)
        yield Bounded(cluster, proxies, load, source)


def _warm(cluster: LocalCluster, source: Path) -> None:
    """Every byte is in the workers' memory."""
    from forebay.client import ClientOptions, SyncClient  # here: its thread begins after the forks

    paths = sorted(source.iterdir())
    with SyncClient(ClientOptions(registry=cluster.registry, client_id="bench-warm")) as client:
        for path in paths:
            with client.open(f"/{path.name}") as reader:
                reader.read(0, FILE_BYTES)
    end = time.monotonic() + 60
    while len(list(cluster.places.shm.rglob("*.blk"))) < len(paths):
        if time.monotonic() > end:
            raise RuntimeError("not all blocks were sealed")
        time.sleep(0.05)


# -- throttled


def throttled_loss(options: Options) -> Figure:
    """What the cluster loses when one of four workers is throttled to a quarter of its bound."""
    times, workers = (QUICK if options.quick else THROTTLED), 4
    with bounded_cluster(workers, quick=options.quick) as bounded:
        start = time.monotonic()
        time.sleep(times.before_s)
        victim = bounded.proxies["worker-0"]
        before_bytes = bounded.served()
        victim.faults = Faults(shared_bytes_per_s=BOUND * THROTTLE)
        changed = time.monotonic()
        time.sleep(times.settle_s + times.after_s)
        after_bytes = bounded.served()
        seen = bounded.load.stop()
    before = seen.rate(start, changed)
    after = seen.rate(changed + times.settle_s, changed + times.settle_s + times.after_s)
    share, last_s = 1 / workers, times.settle_s + times.after_s
    detail: dict[str, Any] = {
        "before_MBps": round(before, 1),
        "after_MBps": round(after, 1),
        "bound_MBps": BOUND / 1e6,
        "bounds_bind": before >= BINDING * workers * BOUND / 1e6,
        "share_of_the_worker": share,
        "served_before_MB": {n: round(b / 1e6) for n, b in before_bytes.items()},
        "served_after_MB": {n: round((after_bytes[n] - b) / 1e6) for n, b in before_bytes.items()},
        "by_second_MBps": _by_second(seen, changed, last_s),
        "back_s": seen.back_s(changed, BACK * after, last_s),
        "errors": len(seen.errors),
        "wrong": seen.wrong,
        "times_s": [times.before_s, times.settle_s, times.after_s],
        "versions": environment("forebay", "uvloop"),
    }
    say(f"throttled: {before:.1f} -> {after:.1f} MB/s, back after {detail['back_s']} s")
    if seen.errors or seen.wrong:
        raise RuntimeError(f"{len(seen.errors)} reads failed, {seen.wrong} were wrong: {seen.errors[:3]}")
    return Figure(
        "moving", "throttled_loss", 1 - after / before, goal=share + 0.05, lower_is_better=True, detail=detail
    )


def _served(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("forebay_worker_served_bytes_total"))


def _by_second(seen: Seen, since_s: float, length_s: float) -> list[float]:
    return [round(seen.rate(since_s + n, since_s + n + 1)) for n in range(int(length_s))]


# -- killed


@dataclass(frozen=True)
class Killed:
    """One run: what was seen, when the worker was killed, what it held, what the under store was asked afterwards."""

    seen: Seen
    start_s: float
    killed_s: float
    lost_extents: int
    ufs_requests: float
    ufs_bytes: float
    times: Times
    workers: int
    rates: dict[str, float]
    """MB/s served by each worker before it happened."""

    def recovered_s(self) -> float:
        """Seconds until the throughput of two seconds reaches 95 % of what the others can give."""
        return self.seen.back_s(self.killed_s, BACK * self.expected, self.times.settle_s + self.times.after_s)

    @property
    def before(self) -> float:
        """MB/s before."""
        return self.seen.rate(self.start_s, self.killed_s)

    @property
    def expected(self) -> float:
        """MB/s that the workers left give."""
        return self.before * (self.workers - 1) / self.workers

    @property
    def after(self) -> float:
        """MB/s after the time to settle."""
        start = self.killed_s + self.times.settle_s
        return self.seen.rate(start, start + self.times.after_s)

    def detail(self) -> dict[str, Any]:
        """For the figures."""
        durations = self.seen.seconds(self.killed_s, self.killed_s + self.times.settle_s)
        return {
            "before_MBps": round(self.before, 1),
            "after_MBps": round(self.after, 1),
            "reads_in_the_event": len(durations),
            "slowest_s": [round(s, 3) for s in durations[-5:]],
            "by_second_MBps": _by_second(self.seen, self.killed_s, self.times.settle_s + self.times.after_s),
            "lost_extents": self.lost_extents,
            "ufs_requests": self.ufs_requests,
            "ufs_MB": round(self.ufs_bytes / 1e6, 1),
            "bound_MBps": BOUND / 1e6,
            "bounds_MBps": {"before": self.bounds, "after": self.bounds * (self.workers - 1) / self.workers},
            "bounds_bind": self.before >= BINDING * self.bounds,
            "served_before_MBps": self.rates,
            "versions": environment("forebay", "uvloop"),
        }

    @property
    def bounds(self) -> float:
        """MB/s that all workers together may give."""
        return self.workers * BOUND / 1e6


@lru_cache
def killed_run(options: Options) -> Killed:
    """Kills one of three workers under load; all figures of it come from this one run."""
    times, workers = (QUICK if options.quick else KILLED), 3
    with bounded_cluster(workers, quick=options.quick) as bounded:
        served, start = bounded.served(), time.monotonic()
        time.sleep(times.before_s)
        took_s, later = time.monotonic() - start, bounded.served()
        rates = {name: round((later[name] - count) / 1e6 / took_s, 1) for name, count in served.items()}
        victim = "worker-0"
        held = bounded.cluster.places.tier(0).rglob("*.blk")
        lost = sum(-(-path.stat().st_size // EXTENT) for path in held)
        requests, read = _without(bounded, victim)
        killed = time.monotonic()
        bounded.cluster.kill(victim)
        time.sleep(times.settle_s + times.after_s)
        requests_after, read_after = _without(bounded, victim)
        seen = bounded.load.stop()
    say(f"killed: {len(seen.reads)} reads, {len(seen.errors)} errors, {seen.wrong} wrong; {lost} extents lost")
    asked = (requests_after - requests, read_after - read)
    run = Killed(seen, start, killed, lost, *asked, times, workers, rates)
    say(f"  {run.before:.1f} of {run.bounds:.1f} MB/s before, {run.after:.1f} after; by worker {rates}")
    return run


def _without(bounded: Bounded, victim: str) -> tuple[float, float]:
    """What the others asked of the under store."""
    others = {name: proxy for name, proxy in bounded.proxies.items() if name != victim}
    return replace(bounded, proxies=others).ufs_reads()


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of the sorted values do not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def killed_errors(options: Options) -> Figure:
    """Reads that failed, or gave a wrong byte."""
    run = killed_run(options)
    detail = run.detail() | {"errors": list(run.seen.errors[:5]), "wrong": run.seen.wrong}
    value = len(run.seen.errors) + run.seen.wrong
    return Figure("moving", "killed_errors", value, "reads", 0, lower_is_better=True, detail=detail)


def killed_p999_s(options: Options) -> Figure:
    """The slowest reads while it happened."""
    run = killed_run(options)
    during = run.seen.seconds(run.killed_s, run.killed_s + run.times.settle_s)
    return Figure(
        "moving", "killed_p999_s", quantile(during, 0.999), "s", 2.0, lower_is_better=True, detail=run.detail()
    )


def killed_recover_s(options: Options) -> Figure:
    """Until the throughput is what the workers left can give."""
    run = killed_run(options)
    return Figure("moving", "killed_recover_s", run.recovered_s(), "s", 10.0, lower_is_better=True, detail=run.detail())


def killed_throughput(options: Options) -> Figure:
    """Throughput after ten seconds, over two thirds of the one before."""
    run = killed_run(options)
    return Figure("moving", "killed_throughput", run.after / run.expected, goal=0.95, detail=run.detail())


def killed_gets_per_extent(options: Options) -> Figure:
    """Requests to the under store for each extent that the killed worker held (extents never read again count)."""
    run = killed_run(options)
    value = run.ufs_requests / max(1, run.lost_extents)
    return Figure("moving", "killed_gets_per_extent", value, "GETs", 1.0, lower_is_better=True, detail=run.detail())


FIGURES = {
    "throttled_loss": throttled_loss,
    "killed_errors": killed_errors,
    "killed_p999_s": killed_p999_s,
    "killed_recover_s": killed_recover_s,
    "killed_throughput": killed_throughput,
    "killed_gets_per_extent": killed_gets_per_extent,
}
