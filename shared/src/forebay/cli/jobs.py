"""What a local cluster lives for: a command that runs in it, or whoever says ``forebay down``; and what it did.

A cluster that runs says where it is in its own private folder (``up.json``), which goes with it: nothing has to be
cleaned up, and a record whose owner is dead is swept with the folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console

from forebay.cli import output
from forebay.cli import up as life
from forebay.cli.api import Where
from forebay.cli.children import get
from forebay.cli.cluster import WORKER, LocalCluster
from forebay.cli.folders import LOCK_NAME, PREFIX
from forebay.cli.loads import start
from forebay.contracts.loads import LoadRequest
from forebay.errors import ConfigError, NotReady

RECORD = "up.json"
READY_S = 120.0
END_S = 60.0
KILL_AFTER_S = 10.0
"""How long a command may take to end after the cluster under it was lost."""

_SERVED = re.compile(r'^forebay_worker_served_bytes_total\{source="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Running:
    """A cluster of this user that runs on this machine."""

    pid: int
    folder: Path
    mounts: tuple[str, ...]
    registry: str
    ready: bool

    @property
    def name(self) -> str:
        """How it is shown."""
        return ", ".join(self.mounts) or self.registry


def note(cluster: LocalCluster, *, ready: bool = False) -> None:
    """Says where the cluster is, for ``down`` and ``--detach``."""
    record = {
        "pid": os.getpid(),
        "mounts": [str(d.resolve()) for d in cluster.spec.mount_dirs],
        "registry": cluster.registry,
        "ready": ready,
    }
    path = cluster.places.folder / RECORD
    path.with_suffix(".new").write_bytes(orjson.dumps(record))
    os.replace(path.with_suffix(".new"), path)


def running(parent: Path | None = None) -> Iterator[Running]:
    """Clusters of this user whose command lives (it holds the lock of its folder)."""
    for folder in sorted((parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*")):
        try:
            if folder.stat().st_uid != os.getuid() or not _is_held(folder / LOCK_NAME):
                continue
            said = orjson.loads((folder / RECORD).read_bytes())
            yield Running(said["pid"], folder, tuple(said["mounts"]), said["registry"], said["ready"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # going away just now, or another program's


def _is_held(lock: Path) -> bool:
    fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def end(mount: Path | None) -> list[str]:
    """Ends the cluster on ``mount``, or all; waits until their folders are gone.

    Raises:
        ConfigError: none is on ``mount``. NotReady: one does not end.
    """
    found = list(running())
    if mount is not None:
        found = [r for r in found if str(mount.resolve()) in r.mounts]
        if not found:
            raise ConfigError("MOUNT", f"no cluster of yours shows {mount}; 'forebay down' ends all that run")
    for one in found:
        os.kill(one.pid, signal.SIGTERM)
    until = time.monotonic() + END_S
    for one in found:
        while one.folder.exists():
            if time.monotonic() > until:
                raise NotReady(f"process {one.pid} does not end; its logs are in {one.folder / 'logs'}")
            time.sleep(0.05)
    return [one.name for one in found]


def detach(arguments: Sequence[str], console: Console) -> None:
    """Runs the same command in the background, and returns when it is ready.

    Raises:
        NotReady: it ended before; what it said goes to the console.
    """
    words = [word for word in arguments if word not in ("--detach", "-d")]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "forebay.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        until = time.monotonic() + READY_S
        while not any(r.ready for r in running() if r.pid == child.pid):
            if child.poll() is not None or time.monotonic() > until:
                if child.poll() is None:
                    child.terminate()
                code = child.wait(END_S)
                said.seek(0)
                console.print(said.read().decode(errors="replace").rstrip(), soft_wrap=True, markup=False)
                raise NotReady(f"the cluster did not come up (status {code})")
            time.sleep(0.05)
        said.seek(0)
        console.print(said.read().decode(errors="replace").rstrip(), soft_wrap=True, markup=False)
    console.print(f"process {child.pid} goes on; 'forebay down' ends it")


def run_command(cluster: LocalCluster, command: Sequence[str], say: Callable[[str], None]) -> int:
    """Runs the command while the cluster is watched; its exit code, as a shell gives it.

    Raises:
        ConfigError: it cannot be started. NotReady: the cluster could not be kept up; the command was ended.
    """
    note(cluster, ready=True)
    environ = {**os.environ, "FOREBAY_REGISTRY": cluster.registry}
    try:
        child = subprocess.Popen(command, env=environ)
    except OSError as e:
        raise ConfigError("CMD", f"{command[0]} cannot be started: {e.strerror}") from e
    try:
        life.watch(cluster, say, until=lambda: child.poll() is not None)
        return shell_code(child.wait())
    finally:
        _end_command(child)


def _end_command(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def shell_code(returncode: int) -> int:
    """128 + the signal for what a signal ended. Pure."""
    return 128 - returncode if returncode < 0 else returncode


def load_all(cluster: LocalCluster, say: Callable[[str], None]) -> None:
    """Fills the cache with the source, and says whether all of it is there."""
    status = start(Where(registry=cluster.registry), LoadRequest(path="/", partial=True), quiet=True)
    say(f"load {status.state}: {status.message}")


def served(texts: Sequence[str]) -> Counter[str]:
    """Bytes that workers gave to others, by where they had them, of their metrics. Pure."""
    sums: Counter[str] = Counter()
    for text in texts:
        for source, value in _SERVED.findall(text):
            sums[source] += int(float(value))
    return sums


def told(sums: Mapping[str, int], names: Mapping[str, str]) -> list[str]:
    """The report: a line per source. Pure."""
    whole = sum(sums.values())
    lines = [f"{output.size(n)} ({output.share(n, whole)}) from {names.get(s, s)}" for s, n in sums.items() if n]
    return lines or ["the workers served nothing (blocks of this host are read in place, past them)"]


def report(cluster: LocalCluster, console: Console) -> None:
    """What was read from where, while the cluster is still there."""
    pages = [get(cluster.children[n].spec.port, "/metrics") for n in cluster.children if n.startswith(WORKER)]
    sums = served([page[1].decode() for page in pages if page is not None])
    names = {"mem": "memory", "ssd": "disk", "peer": "other workers", "ufs": "the source"}
    for line in told(sums, names):
        console.print(f"  {line}", markup=False)
