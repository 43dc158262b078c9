"""How much of what is read again a full cache still holds, policy by policy: real workers, real files, whole reads.

One cluster of two workers is used for all: between two runs every block is freed and the policy made anew, by the same
calls that operators have. A hit is a byte that the under store did not have to send; it is counted there, by the
workers' own meters. What a run should reach is simulated beside it, and so is the optimum.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.simulator import Access, belady, simulate
from bench.traces import epochs, in_turn, zipf
from forebay.cli.children import get
from forebay.cli.cluster import MASTER, ClusterSpec, LocalCluster
from forebay.client import Client, ClientOptions
from forebay.contracts import BlockTarget, ClusterMap, TicketReply, TicketRequest, identity
from forebay.contracts.blocks import FREE_PATH, SETTINGS_PATH, TICKET_HEADER, block_path, format_range
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.transport import HttpClient
from forebay_worker.policies import POLICIES, Hold, PolicyName

FILE_BYTES = 16 << 10
"""Small, for the number of blocks is what matters and every read is a call."""

WORKERS = 2
FRACTIONS = (0.25, 0.5, 0.75, 0.835, 1.0)
EPOCHS = 5
SETS_FRACTION = 0.75
ZIPF_FRACTION, ZIPF_EXPONENT = 0.25, 0.9
IDLE_SHARE = 0.1
"""How long `hold` waits for a silent dataset in the runs with two of them: share of the time of one epoch. In practice
it is ten minutes, and epochs are hours."""

FRACTION_GOAL, GAP_GOAL = -0.01, 0.03
SEED = 20
READ_S = 60.0


@dataclass(frozen=True)
class Plan:
    """Blocks that both workers hold together, the policies, and how long traces are."""

    blocks: int
    policies: tuple[PolicyName, ...]
    fractions: Sequence[float]
    zipf_reads: int
    turns: Mapping[int, int]
    """Turns of the two datasets, by the epochs that one of them runs."""

    def names(self, fraction: float, folder: str = "a") -> list[str]:
        """The dataset of which the workers hold this share."""
        return [f"/{folder}/{number:05d}" for number in range(round(self.blocks / fraction))]


FULL = Plan(100, tuple(POLICIES), FRACTIONS, 2000, {1: 8, 3: 4})
QUICK = Plan(40, ("hold", "lru"), FRACTIONS, 400, {1: 4})


@dataclass(frozen=True)
class Outcome:
    """Shares of bytes that were hits, and how long it took."""

    hits: float
    after_first: float
    seconds: float


@dataclass(frozen=True)
class Results:
    """By name of the run, then by policy. ``held``: share of the dataset that placement lets the workers hold."""

    runs: dict[str, dict[str, Outcome]]
    held: dict[str, float]
    simulated: dict[str, dict[str, float]]
    told: dict[str, Any]


@dataclass(frozen=True)
class File:
    """Where a file's one block is asked for: at its home, as every client does that has no reason not to."""

    home: str
    address: str
    path: str
    ticket: str


class Bench:
    """One cluster and the files in it. Blocks are asked for at their homes by placement: a client of the SDK would
    also turn from a home that is slow just now, which on a busy machine says more about the machine than the cache."""

    def __init__(self, cluster: LocalCluster, http: HttpClient, files: Mapping[str, File]) -> None:
        self._cluster = cluster
        self._http = http
        self._files = files
        self._buffer = memoryview(bytearray(FILE_BYTES))

    def _call(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        for port in ports(self._cluster):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
                method=method,
            )
            with urllib.request.urlopen(request, timeout=30) as reply:
                reply.read()

    def _sum(self, name: str) -> float:
        """A metric over all workers and labels."""
        total = 0.0
        for port in ports(self._cluster):
            found = get(port, "/metrics", timeout_s=10)
            if found is None:
                raise RuntimeError("a worker does not answer")
            total += sum(float(v) for v in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", found[1].decode(), re.M))
        return total

    def renew(self, policy: PolicyName, **settings: Any) -> None:
        """Empty tiers, and a policy that remembers nothing."""
        other = "fifo" if policy != "fifo" else "lru"
        self._call("PATCH", SETTINGS_PATH, {"policy": other})
        self._call("POST", FREE_PATH, {"idle_s": 0, "force": True})
        self._call("PATCH", SETTINGS_PATH, {"policy": policy, **settings})
        if self._sum("forebay_worker_blocks_sealed"):
            raise RuntimeError("the tiers are not empty")

    def missed(self) -> float:
        """Bytes that the under store sent so far."""
        return self._sum("forebay_ufs_read_bytes_total")

    async def read(self, names: Sequence[str]) -> None:
        """Whole files, one after the other."""
        for name in names:
            file = self._files[name]
            reply = await self._http.read_into(
                file.address,
                file.path,
                self._buffer,
                deadline=Deadline.after(READ_S),
                headers={TICKET_HEADER: file.ticket, "range": format_range(0, FILE_BYTES)},
            )
            if reply.length != FILE_BYTES:
                raise RuntimeError(f"{name} came short")

    async def run(self, policy: PolicyName, trace: Sequence[str], first: int, **settings: Any) -> Outcome:
        """One trace from empty; ``first`` reads are looked at apart."""
        await asyncio.to_thread(self.renew, policy, **settings)
        before, started = await asyncio.to_thread(self.missed), time.monotonic()
        await self.read(trace[:first])
        between = await asyncio.to_thread(self.missed)
        await self.read(trace[first:])
        seconds, after = time.monotonic() - started, await asyncio.to_thread(self.missed)
        rest = len(trace) - first
        return Outcome(
            hits=1 - (after - before) / FILE_BYTES / len(trace),
            after_first=1 - (after - between) / FILE_BYTES / rest if rest else 0.0,
            seconds=seconds,
        )

    def held(self, names: Sequence[str], blocks: int) -> float:
        """Share of these files that fits where they are at home: sum of min(capacity, home) over the whole."""
        homes: dict[str, int] = {}
        for name in names:
            home = self._files[name].home
            homes[home] = homes.get(home, 0) + 1
        return sum(min(blocks // WORKERS, count) for count in homes.values()) / len(names)


@contextlib.asynccontextmanager
async def started(plan: Plan) -> AsyncIterator[Bench]:
    """The cluster over two folders of files, and its client."""
    counts = {"a": len(plan.names(min((*plan.fractions, ZIPF_FRACTION)))), "b": len(plan.names(SETS_FRACTION, "b"))}
    with tempfile.TemporaryDirectory(prefix="forebay-bench-", dir="/dev/shm") as text:
        source, rng = Path(text), random.Random(SEED)
        for folder, count in counts.items():
            (source / folder).mkdir()
            for number in range(count):
                (source / folder / f"{number:05d}").write_bytes(rng.randbytes(FILE_BYTES))
        spec = ClusterSpec(
            mounts=tuple(f"/{folder}=file://{source}/{folder}" for folder in counts),
            ufs_roots=(f"file://{source}",),
            workers=WORKERS,
            worker_mem_bytes=plan.blocks // WORKERS * FILE_BYTES,
        )
        with LocalCluster(spec) as cluster:
            async with Client(ClientOptions(registry=cluster.registry, client_id="bench"), quiet()) as client:
                await settled(cluster, client)
                files = await located(cluster, client, [f"/{folder}" for folder in counts])
            http = HttpClient(quiet())
            try:
                yield Bench(cluster, http, files)
            finally:
                await http.close()


def ports(cluster: LocalCluster) -> list[int]:
    """Of the workers."""
    return [child.spec.port for name, child in cluster.children.items() if name.startswith("worker")]


async def settled(cluster: LocalCluster, client: Client) -> None:
    """Until all see the same members: before that, blocks would go where they are not at home."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        known = client.cluster_map
        if known is not None and await asyncio.to_thread(agree, cluster, known):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the members do not agree about each other")


def agree(cluster: LocalCluster, known: ClusterMap) -> bool:
    """Whether every worker has this map, with every worker in it."""
    seen = set()
    for port in ports(cluster):
        found = get(port, "/v1/status", timeout_s=10)
        seen.add(json.loads(found[1])["detail"]["map_epoch"] if found is not None else None)
    count = sum(member.role == "worker" and member.state == "live" for member in known.members)
    return count == WORKERS and seen == {known.epoch}


async def located(cluster: LocalCluster, client: Client, folders: Sequence[str]) -> dict[str, File]:
    """All files of some folders, with the home of each."""
    known, files = client.cluster_map, {}
    addresses = {member.member_id: member.tcp for member in known.members} if known is not None else {}
    http = HttpClient(quiet())
    try:
        for folder in folders:
            request = TicketRequest(path=folder, client_id="bench")
            master = cluster.address(MASTER)
            ticket = await http.call(master, "/v1/tickets", request, TicketReply, deadline=Deadline.after(READ_S))
            async for entry in client.list(folder):
                layout = entry.layout
                if layout is None:
                    continue
                home = client.homes(layout, 1)[0]
                target = BlockTarget(
                    mount_id=ticket.mount.mount_id,
                    key=layout.key,
                    size=layout.size,
                    fingerprint=layout.fingerprint,
                    index=0,
                )
                name = identity.block_id(layout.version_id, layout.block_size, 0)
                files[f"{folder}/{entry.name}"] = File(home, addresses[home], block_path(name, target), ticket.ticket)
    finally:
        await http.close()
    return files


async def measure(plan: Plan) -> Results:
    """All runs of all policies."""
    results = Results({}, {}, {}, {})
    async with started(plan) as bench:
        for fraction in plan.fractions:
            names = plan.names(fraction)
            trace = epochs(names, EPOCHS, random.Random(SEED))
            results.held[f"{fraction}"] = bench.held(names, plan.blocks)
            await _all(bench, plan, results, f"{fraction}", trace, len(names))
        trace = zipf(plan.names(ZIPF_FRACTION), plan.zipf_reads, ZIPF_EXPONENT, random.Random(SEED))
        await _all(bench, plan, results, "zipf", trace, 0)
        sets = plan.names(SETS_FRACTION), plan.names(SETS_FRACTION, "b")
        pace_s = results.runs[f"{plan.fractions[0]}"]["hold"]
        epoch_s = pace_s.seconds / (EPOCHS * len(plan.names(plan.fractions[0]))) * len(sets[0])
        results.told["idle_ttl_s"] = round(IDLE_SHARE * epoch_s, 4)
        for run, turns in plan.turns.items():
            trace = in_turn(*sets, run=run, turns=turns, rng=random.Random(SEED))
            await _all(bench, plan, results, f"sets{run}", trace, 0, idle_ttl_s=IDLE_SHARE * epoch_s)
    return results


async def _all(
    bench: Bench, plan: Plan, results: Results, name: str, trace: Sequence[str], first: int, **settings: Any
) -> None:
    runs = results.runs.setdefault(name, {})
    for policy in plan.policies:
        runs[policy] = await bench.run(policy, trace, first, **settings)
        say(f"{name} {policy}: {runs[policy].hits:.3f} hits, {runs[policy].after_first:.3f} after the first epoch")
    pace_s = runs["hold"].seconds / len(trace)
    results.simulated[name] = simulated(trace, plan, first, pace_s, settings.get("idle_ttl_s", 600.0))


def simulated(trace: Sequence[str], plan: Plan, first: int, pace_s: float, ttl_s: float) -> dict[str, float]:
    """The same trace on one cache as large as all workers together: each policy, and the optimum."""
    accesses = [Access(number * pace_s, name, name.split("/")[1], FILE_BYTES) for number, name in enumerate(trace)]
    room = plan.blocks * FILE_BYTES
    found: dict[str, list[bool]] = {}
    for name in plan.policies:
        policy = Hold(room, ttl_s=ttl_s) if name == "hold" else POLICIES[name](room)
        found[name] = simulate(policy, accesses, room)[first:]
    found["belady"] = belady(accesses, room)[first:]
    return {name: round(sum(hits) / len(hits), 4) for name, hits in found.items()}


@cache
def results_of(options: Options) -> Results:
    """One measurement for all figures."""
    return asyncio.run(measure(QUICK if options.quick else FULL))


def fraction_figure(options: Options) -> Figure:
    """The worst fraction judges; every fraction has its own figure as well."""
    results, plan = results_of(options), QUICK if options.quick else FULL
    values = {f: results.runs[f"{f}"]["hold"].after_first - results.held[f"{f}"] for f in plan.fractions}
    worst = min(values, key=lambda f: values[f])
    detail = {"by_fraction": {str(f): round(value, 4) for f, value in values.items()}, "worst": worst}
    return Figure("hit_ratio", "hold_minus_fraction", values[worst], "share", FRACTION_GOAL, detail=detail)


def one_fraction(fraction: float, options: Options) -> Figure:
    """Hits of `hold` after the first epoch over what placement lets the workers hold."""
    results = results_of(options)
    name = f"{fraction}"
    value = results.runs[name]["hold"].after_first - results.held[name]
    detail = {
        "placement_holds": round(results.held[name], 4),
        "hits_after_first_epoch": {p: round(run.after_first, 4) for p, run in results.runs[name].items()},
        "simulated_on_one_cache": results.simulated[name],
        **_told(results, options),
    }
    return Figure("hit_ratio", f"hold_minus_fraction_{name}", value, "share", FRACTION_GOAL, detail=detail)


def gap_figure(name: str, runs: Sequence[str], options: Options) -> Figure:
    """The best of the others minus `hold`, in the worst of some runs."""
    results, gaps, detail = results_of(options), [], {}
    for run in runs:
        if run not in results.runs:
            continue
        hits = {policy: round(outcome.hits, 4) for policy, outcome in results.runs[run].items()}
        gaps.append(max(share for policy, share in hits.items() if policy != "hold") - hits["hold"])
        detail[run] = {"gap": round(gaps[-1], 4), "hits": hits, "simulated_on_one_cache": results.simulated[run]}
    told = {**detail, **_told(results, options)}
    return Figure("hit_ratio", name, max(gaps), "share", GAP_GOAL, lower_is_better=True, detail=told)


def _told(results: Results, options: Options) -> dict[str, Any]:
    plan = QUICK if options.quick else FULL
    return {
        "workers": WORKERS,
        "blocks_held": plan.blocks,
        "file_bytes": FILE_BYTES,
        "epochs": EPOCHS,
        **results.told,
        **environment("aiohttp", "uvloop"),
    }


def _fractions() -> dict[str, Callable[[Options], Figure]]:
    def made(fraction: float) -> Callable[[Options], Figure]:
        return lambda options: one_fraction(fraction, options)

    return {f"hold_minus_fraction_{fraction}": made(fraction) for fraction in FRACTIONS}


FIGURES: dict[str, Callable[[Options], Figure]] = {
    "hold_minus_fraction": fraction_figure,
    **_fractions(),
    "zipf_gap": lambda options: gap_figure("zipf_gap", ["zipf"], options),
    "two_sets_gap": lambda options: gap_figure("two_sets_gap", ["sets1", "sets3"], options),
}
