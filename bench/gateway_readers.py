"""Readers of the gateway bench: fio for large files, `gateway_opener` for small ones and names. Same for all sides."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RUN_TIMEOUT_S = 120
FORGET_S = 0.3
KEPT_EVERY = 1 << 17
OPENER = Path(__file__).with_name("gateway_opener.py")
_FIO = ("--readonly", "--allow_file_create=0", "--thread", "--group_reporting", "--output-format=json")


@dataclass(frozen=True)
class Fio:
    """One way of reading. ``loops``: how often each job reads its files, so that a fast run is long enough to time."""

    flags: tuple[str, ...]
    jobs: int = 1
    loops: int = 1
    io_bytes: int | None = None
    """Bytes of each job, if not all of its files."""

    def told(self) -> str:
        """For `Figure.detail`."""
        return f"fio {' '.join(self.flags)}, {self.jobs} job(s), {self.loops} loop(s)"

    def command(self, files: Sequence[Path], sizes: Sequence[int]) -> tuple[list[str], int]:
        """The command line, and how many bytes it must read. Sequential jobs share the files out, random ones don't."""
        parts = ["fio", *_FIO, *self.flags, f"--loops={self.loops}", "--file_service_type=sequential"]
        expected, random = 0, self.io_bytes is not None
        for number in range(self.jobs):
            mine = range(len(files)) if random else range(number, len(files), self.jobs)
            size = sum(sizes[i] for i in mine)
            names = ":".join(str(files[i]).replace(":", "\\:") for i in mine)
            parts += [f"--name=reader-{number}", f"--filename={names}", f"--size={size}"]
            parts += [f"--io_size={self.io_bytes}", f"--randseed={number + 1}"] if random else []
            expected += (self.io_bytes or size) * self.loops
        return parts, expected

    def rate(self, files: Sequence[Path]) -> float:
        """MB/s of all jobs together.

        Raises:
            RuntimeError: fio did not read exactly what it was told to.
        """
        command, expected = self.command(files, [path.stat().st_size for path in files])
        done = subprocess.run(command, capture_output=True, check=False, timeout=RUN_TIMEOUT_S, text=True)
        if done.returncode:
            raise RuntimeError(f"fio: {done.stderr[-2000:]}{done.stdout[-2000:]}")
        job = json.loads(done.stdout)["jobs"][0]["read"]
        if job["io_bytes"] != expected:
            raise RuntimeError(f"fio read {job['io_bytes']} of {expected} bytes")
        return float(job["bw_bytes"]) / 1e6


@dataclass(frozen=True)
class Opened:
    """What the opener did: a rate of files (or names) a second, the wall time, the longest single file."""

    rate: float
    seconds: float
    longest_s: float


def opener(mode: str, folder: Path, names: Sequence[str], *, processes: int, expected: int) -> Opened:
    """Runs the opener on names below ``folder``.

    Raises:
        RuntimeError: the bytes read (``read``) or the names seen are not as many as ``expected``.
    """
    command = [sys.executable, "-I", "-S", str(OPENER), mode, str(processes), str(folder)]
    done = subprocess.run(
        command, input="\n".join(names), capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S
    )
    if done.returncode:
        raise RuntimeError(f"opener in {folder}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    if found["count"] != expected:
        raise RuntimeError(f"opener in {folder}: {found['count']} instead of {expected}")
    return Opened(max(1, len(names)) / found["seconds"], found["seconds"], found["longest_s"])


def drop_caches(what: int = 1) -> None:
    """Drops clean page cache (1), names and inodes (2) or both (3). Files on tmpfs keep theirs: they are the files.

    A file system hears of names that were dropped afterwards; it gets some time for that, whoever it is.
    """
    Path("/proc/sys/vm/drop_caches").write_text(str(what))
    if what & 2:
        time.sleep(FORGET_S)


@contextmanager
def kept_memory(size: int) -> Iterator[None]:
    """Meanwhile ``size`` bytes of free memory stay ours, if this is a virtual machine that reports what is free to its
    host: one page in 32 is in use, and what is reported is 2 MiB in one piece.

    The host takes such memory back within seconds, and its first use then was seen to take up to 1.8 s a GiB instead of
    0.2: in one run of three, and only on the side that needs new memory. It says nothing about either side.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE) as memory:
        for start in range(0, size, KEPT_EVERY):
            memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, KEPT_EVERY - mmap.PAGESIZE)
        yield
