"""What operating costs: tracing at one per cent, in CPU of all services for each GiB that is read through a mount.

One cluster with a real OTLP receiver. Two sets of a hundred files are read in turn; of one set one file is flagged (as
``forebay trace`` does it), so that one per cent of the bytes come by requests that gateway and worker record and
export; of the other none. Both sides are the same processes: two clusters that were told the same differed by up to
9 % in CPU, whatever their trace ratio, so a figure of 2 % cannot come from two. A flag records more than sampling does
(requests that are answered at once, and the ring of kept spans besides the export), so this is an upper bound.

Every byte goes by READ from the kernel to the gateway and over TCP from a worker that holds it in memory. CPU is the
processes' own clock (nanoseconds, all threads); receiver and reader are not counted.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from statistics import median

from bench.figures import Figure, Options, environment, median_interval, say
from bench.gateway_side import memory_folder
from forebay.cli.trace.collect import TRACE_XATTR
from forebay.telemetry import TraceContext
from forebay.testing.cluster import Cluster
from forebay.testing.otlp import OtlpReceiver, otlp_receiver

GIB = 1 << 30
FILES = 100
FILE_BYTES = 5 << 20
"""Above what is fetched whole at an open."""

READ_BYTES = 1 << 20
PASSES = 2
PAIRS = 60
QUICK_PAIRS = 2
GOAL = 0.02
KINDS = ("master", "worker", "gateway")
SERVICES = ("master", "worker-0", "gateway")
SPANS_WAIT_S = 20.0
SETS = ("traced", "plain")


def process_clock_s(pid: int) -> float:
    """CPU seconds of all threads of a process (``clock_getcpuclockid(3)``: the clock of a pid is made of it)."""
    return time.clock_gettime((~pid << 3) | 2)


def cluster_clock_s(cluster: Cluster) -> float:
    """CPU seconds of all services of a cluster so far."""
    pids = [cluster.local.children[name].pid for name in SERVICES]
    return sum(process_clock_s(pid) for pid in pids if pid is not None)


def write(folder: Path) -> None:
    """Both sets of files."""
    for name in SETS:
        (folder / name).mkdir()
        for number in range(FILES):
            (folder / name / f"{number:03d}").write_bytes(os.urandom(FILE_BYTES))


def flag(path: Path) -> None:
    """Has the gateway record what is done for a file, as a trace of its own, for a minute."""
    context = TraceContext(secrets.token_hex(16), secrets.token_hex(8), True)
    os.getxattr(path, TRACE_XATTR + context.traceparent())


def read(folder: Path, buffer: bytearray) -> int:
    """Reads all files of a set, their pages dropped first; how many bytes came."""
    count = 0
    for number in range(FILES):
        fd = os.open(folder / f"{number:03d}", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            while n := os.preadv(fd, [buffer], count % FILE_BYTES):
                count += n
                if count % FILE_BYTES == 0:
                    break
        finally:
            os.close(fd)
    return count


def cost(cluster: Cluster, name: str, buffer: bytearray) -> float:
    """A run: CPU seconds for each GiB."""
    before_s, count = cluster_clock_s(cluster), 0
    if name == "traced":
        flag(cluster.mount / name / "000")
    for _ in range(PASSES):
        count += read(cluster.mount / name, buffer)
    if count != PASSES * FILES * FILE_BYTES:
        raise RuntimeError(f"{count} bytes came")
    return (cluster_clock_s(cluster) - before_s) * GIB / count


def pair(cluster: Cluster, buffer: bytearray, number: int) -> tuple[float, float]:
    """Traced and plain; the traced side first in every second pair."""
    order = SETS if number % 2 else SETS[::-1]
    found = {name: cost(cluster, name, buffer) for name in order}
    say(f"operations.tracing_cost pair {number}: {found['traced']:.3f} / {found['plain']:.3f} CPU-s/GiB")
    return found["traced"], found["plain"]


def traced_reads(receiver: OtlpReceiver) -> int:
    """Requests for blocks whose spans came in from the worker; none at all is an error: nothing was measured then."""
    until_s, found = time.monotonic() + SPANS_WAIT_S, 0
    while not found and time.monotonic() < until_s:
        found = sum(s.service == "forebay-worker" and "http.route" in s.attributes for s in receiver.spans())
        time.sleep(0.1)
    if not found:
        raise RuntimeError("no read was traced: nothing was measured")
    return found


def tracing_cost(options: Options) -> Figure:
    """CPU-seconds per GiB with one per cent of the reads recorded and exported, over those with none, less one."""
    buffer, count = bytearray(READ_BYTES), QUICK_PAIRS if options.quick else PAIRS
    with memory_folder() as source, otlp_receiver() as receiver:
        write(source)
        extra = dict.fromkeys(KINDS, ("--otlp-endpoint", receiver.endpoint))
        with Cluster.of_folder(
            source, mounts=1, short_circuit=False, worker_mem_bytes=3 * FILES * FILE_BYTES, extra=extra
        ) as cluster:
            for name in SETS * 2:
                read(cluster.mount / name, buffer)
            pairs = [pair(cluster, buffer, number) for number in range(count)]
            noise = [] if options.quick else [_against_itself(cluster, buffer) for _ in range(3)]
            spans = traced_reads(receiver)
    ratios = [ours / theirs for ours, theirs in pairs]
    low, high = median_interval(ratios)
    detail = {
        "ours_cpu_s_per_gib": round(median(ours for ours, _ in pairs), 3),
        "theirs_cpu_s_per_gib": round(median(theirs for _, theirs in pairs), 3),
        "interval": [] if options.quick else [round(low - 1, 4), round(high - 1, 4)],
        "noise": [round(ratio - 1, 4) for ratio in noise],
        "runs": [[round(ours, 3), round(theirs, 3)] for ours, theirs in pairs],
        "share_traced": 1 / FILES,
        "block_reads_traced": spans,
        "versions": environment("opentelemetry-sdk"),
    }
    return Figure("operations", "tracing_cost", median(ratios) - 1, goal=GOAL, lower_is_better=True, detail=detail)


def _against_itself(cluster: Cluster, buffer: bytearray) -> float:
    return cost(cluster, "plain", buffer) / cost(cluster, "plain", buffer)


FIGURES = {"tracing_cost": tracing_cost}
