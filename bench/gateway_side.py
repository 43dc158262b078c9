"""Our side of the gateway bench: a cluster with one worker that holds everything, and what its counters say."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.first_gateway import Null, wait_for_blocks
from forebay.cli.children import get
from forebay.cli.cluster import GATEWAY, KEEPER, ClusterSpec, LocalCluster
from forebay.cli.folders import LOCK_NAME, PREFIX, OwnedFolder, sweep
from forebay.testing.cluster import parse_metrics

MIB = 1 << 20
GIB = 1 << 30
METRICS_TIMEOUT_S = 5
SHM = Path("/dev/shm")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class OurMount:
    """A mount that has everything warm, and the worker's block files beside it."""

    cluster: LocalCluster
    folder: Path
    source: Path

    @property
    def blocks(self) -> list[Path]:
        """The worker's complete block files."""
        return sorted(self.cluster.places.tier(0).rglob("*.blk"))

    def metrics(self, process: str = GATEWAY) -> dict[str, float]:
        """All samples of a process, by name and labels as written."""
        reply = get(self.cluster.children[process].spec.port, "/metrics", timeout_s=METRICS_TIMEOUT_S)
        if reply is None:
            raise RuntimeError(f"{process} does not answer")
        return parse_metrics(reply[1])

    def reads(self) -> float:
        """READ requests that the gateway has had from the kernel."""
        return self.metrics().get('forebay_fuse_requests_total{op="read"}', 0.0)

    def read_bytes(self, *sources: str) -> float:
        """Bytes that the gateway answered READs with, from these sources."""
        found = self.metrics()
        return sum(found.get(f'forebay_fuse_read_bytes_total{{source="{source}"}}', 0.0) for source in sources)

    def processes(self, name: str = GATEWAY) -> list[int]:
        """A service, and with the gateway its keeper: all of their sessions and all their descendants."""
        table, found = process_table(), list[int]()
        for each in (GATEWAY, KEEPER) if name == GATEWAY else (name,):
            if (pid := self.cluster.children[each].pid) is None:
                raise RuntimeError(f"the {each} was not started")
            found += family(pid, table)
        return found

    def cpu_s(self, name: str = GATEWAY) -> float:
        """CPU seconds of a service's processes so far."""
        return sum(cpu_s(pid) for pid in self.processes(name))

    def pss_bytes(self) -> int:
        """Proportional set size of the gateway's processes."""
        return sum(pss_bytes(pid) for pid in self.processes())


@dataclass(frozen=True)
class Row:
    """A line of the process table."""

    pid: int
    parent: int
    session: int


def process_table() -> list[Row]:
    """All processes."""
    rows = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        rows.append(Row(int(path.parent.name), int(fields[1]), int(fields[3])))
    return rows


def family(pid: int, rows: Sequence[Row]) -> list[int]:
    """``pid``, whoever is in its session, and all their descendants. Pure."""
    found = {pid} | {row.pid for row in rows if row.session == pid}
    while more := {row.pid for row in rows if row.parent in found} - found:
        found |= more
    return sorted(found)


def cpu_s(pid: int) -> float:
    """CPU seconds of one process so far, to a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def pss_bytes(pid: int) -> int:
    """Proportional set size of one process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss of process {pid}")


@contextmanager
def our_mount(
    source: Path,
    *,
    gateway: Sequence[str] = (),
    master: Sequence[str] = (),
    short_circuit: bool = True,
    tier_bytes: int = 4 * GIB,
    environ: Mapping[str, str] | None = None,
) -> Iterator[OurMount]:
    """A cluster that shows ``source``, with one worker in memory and one mount. Nothing is warm yet."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        folder = Path(text)
        spec = ClusterSpec(
            mounts=(f"/=file://{source}",),
            ufs_roots=(f"file://{source}",),
            worker_mem_bytes=tier_bytes,
            mount_dirs=(folder,),
            short_circuit=short_circuit,
            keeper=True,
            extra={"gateway": tuple(gateway), "master": tuple(master)},
            environ=environ or {},
        )
        with LocalCluster(spec) as cluster:
            yield OurMount(cluster, folder, source)


def read_whole(paths: Sequence[Path]) -> None:
    """Reads files once, by this process: it warms whatever is below."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            shutil.copyfileobj(file, Null(), MIB)


def warm(mount: OurMount, blocks: int) -> list[Path]:
    """Reads all files once and waits until the worker has sealed their blocks; the files, in order."""
    files = sorted(path for path in mount.folder.iterdir() if path.is_file())
    read_whole(files)
    wait_for_blocks(mount.cluster.places.tier(0), blocks)
    return files


def write_files(folder: Path, count: int, size: int) -> None:
    """Files of random bytes: a piece of up to 1 MiB again and again, behind a number of its own."""
    folder.mkdir(exist_ok=True)
    piece = os.urandom(min(MIB, size))
    for number in range(count):
        with (folder / f"file-{number:06d}").open("wb") as file:
            file.write(f"{number:08d}".encode()[:size])
            while (left := size - file.tell()) > 0:
                file.write(piece[:left])


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder on tmpfs that goes away, now or (if we are killed) before the next is made."""
    detach_abandoned(SHM)
    sweep(SHM)
    owned = OwnedFolder(SHM)
    inside = owned.path / "files"
    inside.mkdir()
    try:
        yield inside
    finally:
        owned.remove()


def detach_abandoned(parent: Path) -> None:
    """Takes away what a killed bench left mounted in its folders."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = Path(line.split()[1])
        if parent in place.parents and len(place.relative_to(parent).parts) > 1:
            folder = parent / place.relative_to(parent).parts[0]
            if folder.name.startswith(PREFIX) and is_abandoned(folder):
                subprocess.run(["umount", "-l", str(place)], check=False)


def is_abandoned(folder: Path) -> bool:
    """Whether its owner has ended."""
    try:
        with (folder / LOCK_NAME).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or no such folder
        return False
    return True
