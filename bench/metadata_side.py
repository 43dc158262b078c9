"""Our side of the metadata bench: one master in a process of its own, and stores filled without an under store."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import uvloop

from forebay.cli.cluster import MASTER, ClusterSpec, LocalCluster
from forebay.client import Client, ClientOptions
from forebay.contracts import Mount
from forebay.telemetry import quiet
from forebay.testing.cluster import parse_metrics
from forebay.ufs import UfsFile
from forebay_master import listings, records
from forebay_master.database import Database
from forebay_master.entries import DIRECTORY, DIRECTORY_MODE, Origin, Row
from forebay_master.listings import DirectoryName

T = TypeVar("T")
MIB = 1 << 20


@contextmanager
def master(mount: str, root: str, *flags: str, state: Path | None = None) -> Iterator[LocalCluster]:
    """A master alone, with one mount."""
    more = ("--state-dir", str(state)) if state is not None else ()
    spec = ClusterSpec(mounts=(mount,), ufs_roots=(root,), workers=0, extra={"master": (*flags, *more)})
    with LocalCluster(spec) as cluster:
        yield cluster


def with_client(cluster: LocalCluster, work: Callable[[Client], Awaitable[T]], *, keeps: bool = False) -> T:
    """What ``work`` gives with a new client; without ``keeps`` it keeps no names: it asks each time."""
    options = ClientOptions(
        registry=cluster.registry, client_id="bench", metadata_cache=keeps, metadata_deadline_s=120.0
    )

    async def main() -> T:
        async with Client(options, quiet()) as client:
            return await work(client)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def rss_peak_bytes(cluster: LocalCluster) -> int:
    """The most memory that the master has had (``VmHWM``)."""
    text = Path(f"/proc/{cluster.children[MASTER].pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def cpu_of(cluster: LocalCluster) -> tuple[float, float]:
    """Seconds of processor that the master has used, and its scanning processes, as far as they live or were waited
    for."""
    ticks, pid = os.sysconf("SC_CLK_TCK"), cluster.children[MASTER].pid
    own, scanners = 0.0, 0.0
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        used, waited = sum(map(int, fields[11:13])) / ticks, sum(map(int, fields[13:15])) / ticks
        if place.parent.name == str(pid):
            own, scanners = used, scanners + waited
        elif int(fields[1]) == pid:
            scanners += used
    return own, scanners


def master_calls(cluster: LocalCluster) -> float:
    """Questions about names that the master has had."""
    from forebay.cli.children import get

    reply = get(cluster.children[MASTER].spec.port, "/metrics", timeout_s=10)
    found = parse_metrics(reply[1]) if reply is not None else {}
    names = ("forebay_master_lookups_total", "forebay_master_lists_total", "forebay_master_trees_total")
    return sum(value for name, value in found.items() if name.startswith(names))


def fill_store(state: Path, directories: int, files: int) -> None:
    """Puts listings of that many directories with so many files each straight into a stopped master's store."""

    async def main() -> None:
        database = await asyncio.to_thread(Database.open, state)
        try:
            (mount,) = (await database.read(records.load_mounts)).mounts
            names = [f"d{number:05d}" for number in range(directories)]
            now_s = 1.0
            for name in names:
                rows = file_rows(mount, name, files)
                await database.write(partial(put, name=DirectoryName.of(mount, name), rows=rows, now_s=now_s))
            top = [Row(name, DIRECTORY, 0, 0, DIRECTORY_MODE, "") for name in names]
            await database.write(partial(put, name=DirectoryName.of(mount, ""), rows=top, now_s=now_s))
        finally:
            await database.close()

    asyncio.run(main())


def put(db: sqlite3.Connection, name: DirectoryName, rows: Sequence[Row], now_s: float) -> None:
    """One whole listing."""
    listing = listings.begin(db, name, now_s)
    listings.add(db, listing, rows)
    listings.seal(db, name, listing)


def file_rows(mount: Mount, directory: str, count: int) -> list[Row]:
    """Rows as a sync of a folder would make them."""
    origin = Origin.of(mount, directory)
    made = (
        origin.row(
            UfsFile(f"{directory}/file-{number:07d}.jpg", 110_000, 1_700_000_000_000_000_000, f"17-1adb0-{number:x}")
        )
        for number in range(count)
    )
    return [row for row in made if row is not None]


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder on the disk."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        yield Path(text)
