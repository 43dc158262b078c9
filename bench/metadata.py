"""Names at scale: listings against bare ones, the second from the store, memory and disk a file, calls of a walk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from statistics import median

from bench.figures import Figure, Options, environment, say
from bench.gateway_side import our_mount
from bench.memory import kept_memory
from bench.metadata_side import MIB, cpu_of, fill_store, folder, master, master_calls, rss_peak_bytes, with_client
from forebay.client import Client

BENCH = "metadata"
KEPT_BYTES = 512 * MIB
"""Room for a mount's names, kept from the host of a virtual machine."""

RUNS, QUICK_RUNS = 5, 1
SCAN_RUNS = 6
"""An even number: each side begins as often."""

FIND_TIMEOUT_S = 120


def make_files(root: Path, directories: int, files: int) -> None:
    """Empty files in ``root/dNNNN/``."""
    for number in range(directories):
        directory = root / f"d{number:04d}"
        directory.mkdir(parents=True)
        for each in range(files):
            os.close(os.open(directory / f"file-{each:06d}", os.O_CREAT | os.O_WRONLY))


async def take_all(client: Client) -> int:
    """Every name, entries decoded."""
    count = 0
    async with aclosing(client.tree("/")) as pages:
        async for reply in pages:
            count += sum(len(page.entries) for page in reply.directories)
    return count


def bare_scan(root: str) -> int:
    """The same by ``os.scandir`` and ``stat``."""
    count = 0
    with os.scandir(root) as found:
        for entry in found:
            entry.stat()
            count += 1
            if entry.is_dir():
                count += bare_scan(entry.path)
    return count


def first_scan_vs_bare(options: Options) -> Figure:
    """A first full listing of a folder, against bare scandir and stat."""
    directories, files = (20, 50) if options.quick else (1000, 1000)
    with folder() as root:
        make_files(root / "data", directories, files)
        total, cpu_s = directories * (files + 1), []

        def bare() -> int:
            return bare_scan(str(root / "data"))

        def ours() -> float:
            with master(f"/=file://{root}/data", f"file://{root}/data") as cluster:
                begun, used_s = time.perf_counter(), (time.process_time(), *cpu_of(cluster))
                assert with_client(cluster, take_all) == total
                spent_s = time.perf_counter() - begun
                now_s = (time.process_time(), *cpu_of(cluster))
                cpu_s.append([now - before for now, before in zip(now_s, used_s, strict=True)])
            return spent_s

        runs = in_turn("first_scan_vs_bare", bare, ours, total, 1 if options.quick else SCAN_RUNS)
    micros = [[round(each * 1e6 / total, 2) for each in run] for run in cpu_s]
    detail = {
        "names": total,
        "names_per_s": runs,
        "cpu_us_a_name_of_client_master_scanners": micros,
        "versions": environment("forebay"),
    }
    return Figure(BENCH, "first_scan_vs_bare", median(ours / bare for ours, bare in runs), goal=0.9, detail=detail)


def in_turn(
    figure: str, bare: Callable[[], int], ours: Callable[[], float], count: int, pairs: int
) -> list[list[float]]:
    """Names a second of ours and of the bare side, pair by pair; each second pair begins with ours."""
    runs: list[list[float]] = []
    for number in range(pairs):
        spent_s: dict[str, float] = {}
        for side in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
            begun = time.perf_counter()
            if side == "ours":
                spent_s[side] = ours()
            else:
                assert bare() == count
                spent_s[side] = time.perf_counter() - begun
        runs.append([round(count / spent_s["ours"]), round(count / spent_s["bare"])])
        say(f"{BENCH}.{figure} {runs[-1]}")
    return runs


def first_list_vs_bare(options: Options) -> Figure:
    """A first full listing of a bucket, against a bare paginated one."""
    from forebay.testing.s3 import S3Server

    prefixes, objects = (5, 20) if options.quick else (100, 1000)
    with folder() as root, S3Server(folder=root) as server:
        server.make_bucket("names")
        keys = [f"d{p:03d}/file-{n:05d}" for p in range(prefixes) for n in range(objects)]
        server.put_many("names", dict.fromkeys(keys, b"x"))
        os.environ.update(server.env)
        mount = f"/=s3://names,endpoint={server.endpoint},path-style=yes,region=us-east-1"

        def ours() -> float:
            with master(mount, f"s3://names@{server.endpoint}") as cluster:
                begun = time.perf_counter()
                assert with_client(cluster, take_all) == len(keys) + prefixes
                return time.perf_counter() - begun

        def bare() -> int:
            return server.admin.count("names")

        runs = in_turn("first_list_vs_bare", bare, ours, len(keys), 1 if options.quick else RUNS)
    detail = {"objects": len(keys), "objects_per_s": runs, "versions": environment("forebay", "aiobotocore")}
    return Figure(BENCH, "first_list_vs_bare", median(ours / bare for ours, bare in runs), goal=0.9, detail=detail)


def stored(directories: int, files: int, work: Callable[[Client], Awaitable[float]], runs: int) -> dict[str, float]:
    """What ``work`` gives (the median of some runs) on a master whose store holds so many files, with its memory and
    disk."""
    with folder() as root:
        state, mount, allowed = root / "state", f"/=file://{root}/data,max-age-s=immutable", f"file://{root}/data"
        (root / "data").mkdir()
        with master(mount, allowed, state=state):
            pass
        empty = sum(each.stat().st_size for each in state.iterdir())
        fill_store(state, directories, files)
        used = sum(each.stat().st_size for each in state.iterdir()) - empty
        with master(mount, allowed, state=state) as cluster:
            value = median(with_client(cluster, work) for _ in range(runs))
            return {"value": value, "rss_mib": rss_peak_bytes(cluster) / MIB, "disk": used / (directories * files)}


async def rate_of_listing(client: Client) -> float:
    """Entries a second."""
    begun = time.perf_counter()
    return await take_all(client) / (time.perf_counter() - begun)


def list_per_s(options: Options) -> Figure:
    """A second full listing, from the store."""
    shape = (10, 100) if options.quick else (100, 1000)
    found = stored(*shape, rate_of_listing, QUICK_RUNS if options.quick else RUNS)
    detail = {"files": shape[0] * shape[1], "versions": environment("forebay", "orjson", "msgspec")}
    return Figure(BENCH, "list_per_s", found["value"], "1/s", goal=100_000, detail=detail)


def _memory(figure: str, directories: int, files: int, goal: float, options: Options) -> Figure:
    shape = (10, 100) if options.quick else (directories, files)
    found = stored(*shape, rate_of_listing, 1)
    detail = {"files": shape[0] * shape[1], "listed_per_s": round(found["value"]), "disk_per_file": found["disk"]}
    return Figure(BENCH, figure, found["rss_mib"], "MiB", goal=goal, lower_is_better=True, detail=detail)


def disk_per_file(options: Options) -> Figure:
    """Bytes of the state directory for each file."""
    shape = (10, 1000) if options.quick else (100, 10_000)
    found = stored(*shape, rate_of_listing, 1)
    return Figure(BENCH, "disk_per_file", found["disk"], "B", goal=400, lower_is_better=True, detail={"shape": shape})


async def lookups(client: Client, count: int, together: int) -> list[float]:
    """How long each of many lookups took, ``together`` at a time."""
    spent: list[float] = []
    left = iter(range(count))

    async def ask() -> None:
        for number in left:
            begun = time.perf_counter()
            await client.lookup(f"/d{number % 10:05d}/file-{number % 1000:07d}.jpg")
            spent.append(time.perf_counter() - begun)

    await asyncio.gather(*(ask() for _ in range(together)))
    return spent


async def one_by_one(client: Client, count: int) -> float:
    """The median in ms."""
    return median(await lookups(client, count, 1)) * 1000


async def many_at_once(client: Client, count: int) -> float:
    """Lookups a second at concurrency 64."""
    begun = time.perf_counter()
    await lookups(client, count, 64)
    return count / (time.perf_counter() - begun)


def lookup_p50_ms(options: Options) -> Figure:
    """A lookup over HTTP/2, one after the other."""
    count = 50 if options.quick else 3000
    found = stored(10, 1000, partial(one_by_one, count=count), QUICK_RUNS if options.quick else RUNS)
    return Figure(BENCH, "lookup_p50_ms", found["value"], "ms", goal=1.0, lower_is_better=True, detail={"n": count})


def lookup_per_s(options: Options) -> Figure:
    """Lookups over HTTP/2 from one client, 64 at a time."""
    count = 200 if options.quick else 20_000
    found = stored(10, 1000, partial(many_at_once, count=count), QUICK_RUNS if options.quick else RUNS)
    return Figure(BENCH, "lookup_per_s", found["value"], "1/s", goal=3000, detail={"n": count, "together": 64})


def _program(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=FIND_TIMEOUT_S)
    return time.perf_counter() - begun


def _ls(options: Options) -> tuple[int, float, float]:
    count = 200 if options.quick else 10_000
    with folder() as root:
        make_files(root, 1, count)
        with our_mount(root) as mount:
            before = master_calls(mount.cluster)
            with kept_memory(KEPT_BYTES):
                spent_s = _program("ls", "-l", str(mount.folder / "d0000"))
            return count, master_calls(mount.cluster) - before, spent_s


def ls10k_rpcs(options: Options) -> Figure:
    """Calls to the master of ``ls -l`` of 10,000 files, cold."""
    count, calls, spent_s = _ls(options)
    detail = {"files": count, "s": round(spent_s, 3)}
    return Figure(BENCH, "ls10k_rpcs", calls, "calls", goal=5, lower_is_better=True, detail=detail)


def ls10k_s(options: Options) -> Figure:
    """Time of ``ls -l`` of 10,000 files, cold."""
    found = [_ls(options) for _ in range(1 if options.quick else 3)]
    detail = {"files": found[0][0], "runs": [round(each[2], 3) for each in found]}
    return Figure(
        BENCH, "ls10k_s", median(each[2] for each in found), "s", goal=1.0, lower_is_better=True, detail=detail
    )


def find_rpcs_per_1000(options: Options) -> Figure:
    """Calls to the master of ``find`` over many directories, cold and again."""
    directories, files = (20, 20) if options.quick else (100, 1000)
    with folder() as root:
        make_files(root, directories, files)
        with our_mount(root, gateway=("--metadata-cache-entries", "300000")) as mount:
            before = master_calls(mount.cluster)
            cold_s = _program("find", str(mount.folder), "-type", "f")
            cold = master_calls(mount.cluster) - before
            warm_s = _program("find", str(mount.folder), "-type", "f")
            warm = master_calls(mount.cluster) - before - cold
    detail = {"files": directories * files, "calls": cold, "warm_calls": warm, "cold_s": cold_s, "warm_s": warm_s}
    value = cold / (directories * files) * 1000
    return Figure(BENCH, "find_rpcs_per_1000", value, "calls", goal=0.5, lower_is_better=True, detail=detail)


FIGURES = {
    "first_list_vs_bare": first_list_vs_bare,
    "first_scan_vs_bare": first_scan_vs_bare,
    "list_per_s": list_per_s,
    "rss_1m_mib": partial(_memory, "rss_1m_mib", 1000, 1000, 400.0),
    "rss_10m_mib": partial(_memory, "rss_10m_mib", 1000, 10_000, 600.0),
    "disk_per_file": disk_per_file,
    "ls10k_rpcs": ls10k_rpcs,
    "ls10k_s": ls10k_s,
    "find_rpcs_per_1000": find_rpcs_per_1000,
    "lookup_p50_ms": lookup_p50_ms,
    "lookup_per_s": lookup_per_s,
}
