"""Figures of filling: a dataset from an S3 server on this host into one worker, near, far away, and of small objects.

Ours is a new cluster each run (one master, one worker, default settings). A client lists the dataset and asks for the
first byte of each block, which has the worker complete it, or, if they are small, has the worker fill many at a time;
the run is over when all blocks are sealed. What the worker
brought in is read from its own counters.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop

from bench.figures import Figure, Options, compare, environment, say
from bench.memory import kept_memory
from forebay.cli.children import get
from forebay.cli.cluster import ClusterSpec, LocalCluster
from forebay.client import Client, ClientOptions
from forebay.contracts import (
    BlockTarget,
    Entry,
    FillReply,
    FillRequest,
    LookupReply,
    LookupRequest,
    TicketReply,
    TicketRequest,
)
from forebay.contracts.blocks import FILL_PATH, TICKET_HEADER
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing.faults import FaultProxy, Faults
from forebay.testing.s3 import S3Server
from forebay.testing.tools import tool
from forebay.transport import HttpClient

MIB = 1 << 20
BUCKET = "bench"
MEMORY = Path("/dev/shm")
RUN_TIMEOUT_S = 600
POLL_S = 0.2
ASKED_AT_ONCE = 256
SMALL_BYTES = 1 << 20
FILL_TARGETS, FILL_REQUESTS = 500, 2
"""Small files are filled by command: targets in a request, and requests at a time."""

PATIENCE_S = 300.0
"""First bytes wait for their turn behind the rest of the dataset here."""

RCLONE_TRANSFERS = (1, 4, 8, 16, 32)
LOOP_SETTINGS = ((4, 16), (8, 16), (16, 8))
"""Streams and MiB in a part."""

FAR = Faults(delay_s=0.05, bytes_per_s=40e6)
FAR_SETTINGS = ((8, 16), (16, 4), (16, 16), (32, 4), (32, 16), (64, 4))
"""Streams and extents in a request."""

KEPT_BYTES = 512 * MIB
"""Beside the dataset: what new processes take."""

FAR_SETTLE_S = 5.0
FAR_WINDOW_S = 1.0


@dataclass(frozen=True)
class Dataset:
    """Objects of one size below ``data/``."""

    count: int
    size: int

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.count * self.size


FAR_DATASET = Dataset(48, 128 * MIB)
"""So much that most of a run lies behind `FAR_SETTLE_S`."""


@contextmanager
def served(dataset: Dataset) -> Iterator[S3Server]:
    """An S3 server, its data on tmpfs, that has the dataset."""
    with S3Server(folder=MEMORY) as s3:
        s3.make_bucket(BUCKET)
        body = os.urandom(dataset.size)
        for start in range(0, dataset.count, 256):
            numbers = range(start, min(start + 256, dataset.count))
            s3.put_many(BUCKET, {f"data/file-{number:06}": body for number in numbers})
        yield s3


# -- our side


@dataclass
class Filled:
    """One run: seconds, and bytes in the worker by time."""

    took_s: float = 0.0
    samples: list[tuple[float, float]] = field(default_factory=list)
    plan: dict[str, float] = field(default_factory=dict)

    def whole_rate(self) -> float:
        """MB/s of the whole run, from its first moment."""
        return self.samples[-1][1] / self.took_s / 1e6

    def rate(self, from_s: float = 0.0) -> float:
        """MB/s from then on, until nine tenths of the bytes were in: the end is a few requests long."""
        most = self.samples[-1][1] * 0.9
        steady = [(at_s, count) for at_s, count in self.samples if at_s >= from_s and count <= most]
        if len(steady) < 2:
            raise RuntimeError("the dataset is too small to tell a steady rate")
        return (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0]) / 1e6

    def settled_s(self, rate: float) -> float:
        """When a window of `FAR_WINDOW_S` first brought so much (MB/s)."""
        for at_s, count in self.samples:
            later = [(s, c) for s, c in self.samples if s >= at_s + FAR_WINDOW_S]
            if later and (later[0][1] - count) / (later[0][0] - at_s) / 1e6 >= rate:
                return at_s
        return self.took_s


def cold_fill(s3: S3Server, endpoint: str, dataset: Dataset, *flags: str) -> Filled:
    """Fills a new worker with the dataset."""
    spec = ClusterSpec(
        mounts=(f"/=s3://{BUCKET}/data,endpoint={endpoint},path-style=true,region=us-east-1",),
        ufs_roots=(f"s3://{BUCKET}/data@{endpoint}",),
        worker_mem_bytes=dataset.total * 5 // 4 + dataset.count * 4096 + 64 * MIB,
        environ=s3.env,
        extra={"worker": flags},
    )
    filled = Filled()
    with LocalCluster(spec) as cluster:
        began_s = time.monotonic()
        uvloop.run(_fill(cluster, dataset, filled, began_s))
        filled.took_s = time.monotonic() - began_s
        metrics = _metrics(cluster)
    came = metrics['forebay_worker_filled_bytes_total{source="ufs"}']
    if came != dataset.total:
        raise RuntimeError(f"{came:.0f} of {dataset.total} bytes came from the under store")
    filled.plan = {name: value for name, value in metrics.items() if name.startswith("forebay_worker_fill_")}
    return filled


async def _fill(cluster: LocalCluster, dataset: Dataset, filled: Filled, began_s: float) -> None:
    options = ClientOptions(
        registry=cluster.registry,
        client_id="bench",
        readahead_bytes=0,
        read_deadline_s=PATIENCE_S,
        step_deadline_s=PATIENCE_S,
        hedge=False,
    )
    async with Client(options, quiet()) as client, asyncio.TaskGroup() as group:
        if dataset.size <= SMALL_BYTES:
            await _command(cluster, client, dataset)  # answers when all is sealed; looking before cost the worker 3.4 %
            return await _watch(cluster, dataset, filled, began_s)
        group.create_task(_watch(cluster, dataset, filled, began_s))
        names = [entry.name async for entry in client.list("/")]
        if len(names) != dataset.count:
            raise RuntimeError(f"{len(names)} of {dataset.count} names")
        names.reverse()
        for _ in range(ASKED_AT_ONCE):
            group.create_task(_ask(client, names))


async def _ask(client: Client, names: list[str]) -> None:
    while names:
        reader = await client.open(f"/{names.pop()}")
        try:
            await reader.read(0, 1)
        finally:
            await reader.close()


async def _command(cluster: LocalCluster, client: Client, dataset: Dataset) -> None:
    """Small files are filled by command, many in a request, as their names come."""
    http, deadline = HttpClient(None), Deadline.after(PATIENCE_S)
    master, worker = cluster.address("master"), cluster.address("worker-0")
    turns, count = asyncio.Semaphore(FILL_REQUESTS), 0
    try:
        asked = TicketRequest(path="/", client_id="bench")
        ticket = await http.call(master, "/v1/tickets", asked, TicketReply, deadline=deadline)
        mount = await http.call(master, "/v1/lookup", LookupRequest(path="/"), LookupReply, deadline=deadline)

        async def fill(part: Sequence[Entry]) -> None:
            headers, request = {TICKET_HEADER: ticket.ticket}, _targets(mount.mount_id or "", part)
            async with turns:
                reply = await http.call(worker, FILL_PATH, request, FillReply, deadline=deadline, headers=headers)
            if reply.failed:
                raise RuntimeError(f"{len(reply.failed)} were not filled, the first: {reply.failed[0]}")

        async with asyncio.TaskGroup() as group:
            token: str | None = None
            while True:
                page = await client.list_page("/", token, limit=FILL_TARGETS)
                group.create_task(fill(page.entries))
                count, token = count + len(page.entries), page.next_page_token
                if token is None:
                    break
        if count != dataset.count:
            raise RuntimeError(f"{count} of {dataset.count} names")
    finally:
        await http.close()


def _targets(mount_id: str, entries: Sequence[Entry]) -> FillRequest:
    layouts = [entry.layout for entry in entries if entry.layout is not None]
    return FillRequest(
        targets=tuple(
            BlockTarget(mount_id=mount_id, key=e.key, size=e.size, fingerprint=e.fingerprint, index=0) for e in layouts
        )
    )


async def _watch(cluster: LocalCluster, dataset: Dataset, filled: Filled, began_s: float) -> None:
    while True:
        metrics = await asyncio.to_thread(_metrics, cluster)
        now_s = time.monotonic() - began_s
        filled.samples.append((now_s, metrics.get('forebay_worker_filled_bytes_total{source="ufs"}', 0.0)))
        if metrics.get("forebay_worker_blocks_sealed", 0) >= dataset.count:
            return
        if now_s > RUN_TIMEOUT_S:
            raise RuntimeError("the fill did not end")
        await asyncio.sleep(POLL_S)


_SAMPLE = re.compile(r"^(forebay_worker_[^ ]+) ([-+0-9.e]+)$", re.MULTILINE)


def _metrics(cluster: LocalCluster) -> dict[str, float]:
    reply = get(cluster.children["worker-0"].spec.port, "/metrics", timeout_s=20)
    if reply is None:
        raise RuntimeError("the worker does not answer")
    return {name: float(value) for name, value in _SAMPLE.findall(reply[1].decode())}


# -- theirs


def timed_copy(dataset: Dataset, command: Callable[[str], Sequence[str | Path]], s3: S3Server) -> float:
    """MB/s of a program that copies the dataset into a new folder on tmpfs."""
    folder = tempfile.mkdtemp(prefix="forebay-bench-", dir=MEMORY)
    try:
        began_s = time.monotonic()
        subprocess.run(
            command(folder), check=True, timeout=RUN_TIMEOUT_S, env={**os.environ, **s3.env}, stdout=subprocess.DEVNULL
        )
        took_s = time.monotonic() - began_s
        copied = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    if copied != dataset.total:
        raise RuntimeError(f"{copied} of {dataset.total} bytes were copied")
    return dataset.total / took_s / 1e6


Peer = tuple[str, Callable[[str], Sequence[str | Path]]]
"""What it was told, and its command for a target folder."""


def rclone(s3: S3Server, transfers: int, *more: str) -> Peer:
    """``rclone copy``."""
    remote = (
        f":s3,provider=SeaweedFS,env_auth=true,region=us-east-1,force_path_style=true,endpoint='{s3.endpoint}'"
        f":{BUCKET}/data"
    )
    flags = ("--transfers", str(transfers), *more)
    return " ".join(("rclone copy", *flags)), lambda folder: [
        tool("rclone"), "copy", "--config", "/dev/null", *flags, remote, folder
    ]  # fmt: skip


def loop(s3: S3Server, streams: int, part_mib: int) -> Peer:
    """The bare loop."""
    told = f"aiobotocore, {streams} streams, parts of {part_mib} MiB"
    tail = (BUCKET, "data/", s3.endpoint, str(streams), str(part_mib))
    return told, lambda folder: [sys.executable, "-m", "bench.moving_loop", folder, *tail]


def best_of(dataset: Dataset, peers: Sequence[Peer], s3: S3Server) -> tuple[Peer, dict[str, float]]:
    """The fastest of one run each."""
    rates: dict[str, float] = {}
    for told, command in peers:
        rates[told] = round(timed_copy(dataset, command, s3), 1)
        say(f"  {told}: {rates[told]} MB/s")
    return max(peers, key=lambda peer: rates[peer[0]]), rates


# -- figures


def near_figure(
    options: Options, name: str, goal: float, dataset: Dataset, peers_of: Callable[[S3Server], list[Peer]]
) -> Figure:
    """Our fill against the best peer, from the same server."""
    with served(dataset) as s3, kept_memory(dataset.total + KEPT_BYTES):
        peers = peers_of(s3)
        (told, command), rates = best_of(dataset, peers[:1] if options.quick else peers, s3)

        def ours() -> float:
            return dataset.total / cold_fill(s3, s3.endpoint, dataset).took_s / 1e6

        def theirs() -> float:
            return timed_copy(dataset, command, s3)

        ratio = compare(ours, theirs, goal=goal, options=options, name=f"moving.{name}", budget_s=120)
    detail = ratio.detail("MBps") | {
        "ours": "new cluster each run, one worker with its tier on tmpfs, default settings; listing included",
        "theirs": told,
        "tried": rates,
        "objects": dataset.count,
        "bytes_a_run": dataset.total,
        "versions": environment("forebay", "uvloop", "aiobotocore"),
    }
    return Figure("moving", name, ratio.value, goal=goal, detail=detail)


def cold_vs_best(options: Options) -> Figure:
    """4 GiB in objects of 128 MiB."""
    dataset = Dataset(4, 8 * MIB) if options.quick else Dataset(32, 128 * MIB)
    return near_figure(
        options,
        "cold_vs_best",
        0.95,
        dataset,
        lambda s3: [*(loop(s3, *each) for each in LOOP_SETTINGS), *(rclone(s3, n) for n in RCLONE_TRANSFERS)],
    )


def small_cold_vs_best(options: Options) -> Figure:
    """20,000 objects of 100 KiB."""
    dataset = Dataset(500 if options.quick else 20_000, 100 << 10)
    return near_figure(
        options,
        "small_cold_vs_best",
        0.8,
        dataset,
        lambda s3: [
            *(rclone(s3, n) for n in (8, 16, 32)),
            *(rclone(s3, n, "--checkers", str(n), "--use-server-modtime", "--ignore-checksum") for n in (16, 32)),
        ],
    )


_far: dict[bool, tuple[Figure, Figure]] = {}


def far_figures(options: Options) -> tuple[Figure, Figure]:
    """Both far figures, from the same runs: steady rates against the best fixed setting, and when ours got there."""
    if options.quick not in _far:
        _far[options.quick] = _measure_far(options)
    return _far[options.quick]


def _measure_far(options: Options) -> tuple[Figure, Figure]:
    dataset = Dataset(8, 64 * MIB) if options.quick else FAR_DATASET
    from_s = 0.5 if options.quick else FAR_SETTLE_S  # for both: different parts of a run are not alike
    settings = FAR_SETTINGS[:1] if options.quick else FAR_SETTINGS
    with served(dataset) as s3, FaultProxy(s3.endpoint.removeprefix("http://"), FAR) as proxy:
        endpoint = f"http://{proxy.address}"

        def fixed(streams: int, extents: int) -> Filled:
            told = ("--no-fill-tuning", "--fill-streams", str(streams), "--fill-request-extents", str(extents))
            return cold_fill(s3, endpoint, dataset, *told)

        rates = {each: fixed(*each).rate(from_s) for each in settings}
        for each, rate in rates.items():
            say(f"  fixed {each}: {rate:.1f} MB/s")
        best = max(rates, key=lambda each: rates[each])
        runs: list[Filled] = []
        fixed_runs: list[Filled] = []

        def ours() -> float:
            runs.append(cold_fill(s3, endpoint, dataset))
            return runs[-1].rate(from_s)

        def theirs_run() -> float:
            fixed_runs.append(fixed(*best))
            return fixed_runs[-1].rate(from_s)

        ratio = compare(ours, theirs_run, goal=0.95, options=options, name="moving.far", budget_s=180)
    theirs = median(ratio.theirs)
    settle_s = median(run.settled_s(0.95 * theirs) for run in runs)
    detail = ratio.detail("MBps") | {
        "network": "50 ms each way, 40 MB/s a connection (fault proxy)",
        "ours": f"nothing set by hand; from {from_s} s on",
        "theirs": f"--fill-streams {best[0]} --fill-request-extents {best[1]}, tuning off; from {from_s} s on",
        "whole_run_MBps": [round(median(run.whole_rate() for run in side), 1) for side in (runs, fixed_runs)],
        "tried": {f"{n} x {extents}": round(rate, 1) for (n, extents), rate in rates.items()},
        "our_plan_at_the_end": runs[-1].plan,
        "bytes_a_run": dataset.total,
        "versions": environment("forebay", "uvloop"),
    }
    seconds = [round(run.settled_s(0.95 * theirs), 2) for run in runs]
    settle = {"settled": "first second at 95 % of theirs", "runs": seconds, "theirs_MBps": round(theirs, 1)}
    return (
        Figure("moving", "far_vs_best", ratio.value, goal=0.95, detail=detail),
        Figure("moving", "far_settle_s", settle_s, "s", goal=FAR_SETTLE_S, lower_is_better=True, detail=settle),
    )


FIGURES = {
    "cold_vs_best": cold_vs_best,
    "far_vs_best": lambda options: far_figures(options)[0],
    "far_settle_s": lambda options: far_figures(options)[1],
    "small_cold_vs_best": small_cold_vs_best,
}
