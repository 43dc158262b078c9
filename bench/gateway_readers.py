"""Readers of the gateway bench: fio for large files, `gateway_opener` for small ones and names. Same for all sides."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_TIMEOUT_S = 120
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
