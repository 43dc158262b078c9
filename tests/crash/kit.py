"""Keepers, gateways and readers as processes of their own, for tests that kill them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forebay.cli.children import get
from forebay.cli.cluster import detach_dead
from forebay.testing.cluster import eventually, parse_metrics

TIMEOUT_S = 60.0
ROOT = Path(__file__).parents[2]

READER = """
import hashlib, json, os, sys, time
folder, stop, wanted, start = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
names, found = sorted(wanted), {"files": 0, "wrong": 0, "errors": [], "pause_s": 0.0}
def timed(call, *args):
    began = time.monotonic()
    try:
        return call(*args)
    finally:
        found["pause_s"] = max(found["pause_s"], time.monotonic() - began)
def read(name):
    digest, fd = hashlib.sha256(), timed(os.open, os.path.join(folder, name), os.O_RDONLY)
    try:
        while piece := timed(os.read, fd, 1 << 20):
            digest.update(piece)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        timed(os.close, fd)
    return digest.hexdigest()
while not os.path.exists(stop):
    for name in names[start:] + names[:start]:
        try:
            found["files"] += 1
            found["wrong"] += read(name) != wanted[name]
        except OSError as e:
            found["errors"].append(f"{name}: {e}")
print(json.dumps(found))
"""
"""A reader: (folder, file that stops it, SHA-256 by name, first file). A file's page cache goes once it was read."""


def is_mounted(directory: Path) -> bool:
    """Without touching it."""
    return f" {directory} " in Path("/proc/self/mountinfo").read_text()


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_reader(folder: Path, stop: Path, wanted: dict[str, str], first: int) -> subprocess.Popen[str]:
    """See `READER`."""
    command = [sys.executable, "-c", READER, str(folder), str(stop), json.dumps(wanted), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result_of(reader: subprocess.Popen[str]) -> dict[str, Any]:
    """What a reader found."""
    said, _ = reader.communicate(timeout=TIMEOUT_S)
    found: dict[str, Any] = json.loads(said)
    return found


@dataclass
class Kept:
    """A keeper, and gateways one after the other, each a plain process (no guard) with its log."""

    folder: Path
    mount: Path
    registry: str
    flags: tuple[str, ...] = ()
    around_keeper: tuple[str, ...] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        """Where the keeper listens."""
        return self.folder / "keeper.sock"

    @property
    def log(self) -> str:
        """What all have said."""
        return (self.folder / "log").read_text(errors="replace")

    def run(self, *words: str, around: Sequence[str] = (), **how: Any) -> subprocess.Popen[bytes]:
        """A process of ours, started by the command ``around`` it if there is one."""
        with (self.folder / "log").open("ab") as sink:
            process = subprocess.Popen([*around, sys.executable, *words], stdout=sink, stderr=sink, cwd=ROOT, **how)
        self.processes.append(process)
        return process

    def start_keeper(self) -> subprocess.Popen[bytes]:
        """A keeper that listens."""
        keeper = self.run("-m", "forebay_fuse.keeper", str(self.socket), around=self.around_keeper)
        eventually(self.socket.is_socket, what="the keeper's socket")
        return keeper

    def start_gateway(
        self, *flags: str, keeper: bool = True, program: Sequence[str] = ("-m", "forebay_fuse"), **how: Any
    ) -> int:
        """A gateway that is ready (or waits for another's end); its number among the processes."""
        args = ["--mountpoint", str(self.mount), "--registry", self.registry]
        args += ["--no-guard", "--keeper", str(self.socket)] if keeper else []
        self.run(*program, *args, *self.flags, *flags, **how)
        return len(self.processes) - 1

    def start_and_wait(self) -> int:
        """The first gateway, ready."""
        number = self.start_gateway()
        self.wait_ready()
        return number

    def wait_ready(self, count: int = 1) -> None:
        """Until so many gateways have said that they are ready."""
        eventually(lambda: self.log.count('"event": "ready"') >= count, what=f"ready {count}", timeout_s=TIMEOUT_S)

    def metrics(self) -> dict[str, float]:
        """Of the last gateway that was ready."""
        lines = [json.loads(line) for line in self.log.splitlines() if '"event": "ready"' in line]
        reply = get(int(lines[-1]["address"].rpartition(":")[2]), "/metrics", timeout_s=5)
        assert reply is not None
        return parse_metrics(reply[1])

    def stop(self) -> None:
        """SIGTERM for all, the last first; what is left is killed."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        detach_dead(self.mount)


@contextmanager
def kept(folder: Path, registry: str, *flags: str, around_keeper: tuple[str, ...] = ()) -> Iterator[Kept]:
    """A keeper and a mount directory; nothing of it is left afterwards."""
    own = folder / "kept"
    (own / "mount").mkdir(parents=True)
    found = Kept(own, own / "mount", registry, flags, around_keeper)
    try:
        found.start_keeper()
        yield found
    finally:
        found.stop()
    assert not is_mounted(found.mount), found.log
    assert not found.socket.exists(), found.log
