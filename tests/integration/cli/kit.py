"""The command and the services as a user starts them: real processes, their last words, and what they leave behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forebay.cli.cluster import memory_folder
from forebay.testing.cluster import eventually

WAIT_S = 60.0
UP = str(Path(sys.executable).with_name("forebay"))


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without settings of ours or of S3, so that a developer's own do not decide a test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FOREBAY_", "AWS_")) or k == "FOREBAY_TOOLS"}
    return {**kept, "COLUMNS": "300", **(extra or {})}


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    said: str

    @property
    def last(self) -> str:
        """Its last line."""
        return self.said.rstrip().rpartition("\n")[2]


@dataclass
class Running:
    """A process that was started; what it says goes to a file."""

    child: subprocess.Popen[bytes]
    output: Path
    tmp: Path

    @property
    def said(self) -> str:
        """All that it wrote so far."""
        return self.output.read_text(errors="replace")

    def says(self, words: str, *, timeout_s: float = WAIT_S) -> None:
        """Waits until it wrote ``words``; fails with all it wrote if it ends before."""

        def heard() -> bool:
            assert words in self.said or self.child.poll() is None, self.said
            return words in self.said

        eventually(heard, what=f"{words!r} in the output", timeout_s=timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.child.send_signal(number)

    def ended(self, *, timeout_s: float = WAIT_S) -> Ended:
        """Waits for its end."""
        return Ended(self.child.wait(timeout_s), self.said)


@contextmanager
def started(
    command: Sequence[str | Path], tmp_path: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Starts a process with a folder for temporary files of its own; stops it, if it runs, at the end."""
    tmp = tmp_path / "tmp"
    tmp.mkdir(exist_ok=True)
    output = tmp_path / f"output-{len(list(tmp_path.glob('output-*')))}"
    environ = clean_env({"TMPDIR": str(tmp), "HOME": str(tmp_path), **(env or {})})
    with output.open("wb") as sink:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    try:
        yield Running(child, output, tmp)
    finally:
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def up(tmp_path: Path, *args: str | Path, env: Mapping[str, str] | None = None) -> Ended:
    """``forebay up`` that must end by itself and leave nothing."""
    with started([UP, "up", *args], tmp_path, env=env) as running:
        ended = running.ended()
        assert_nothing_left(running)
    return ended


def service(tmp_path: Path, name: str, *args: str | Path, env: Mapping[str, str] | None = None) -> Ended:
    """A service (``master``, ``worker``, ``fuse``) that must end by itself."""
    with started([sys.executable, "-m", f"forebay_{name}", *args], tmp_path, env=env) as running:
        ended = running.ended()
        assert list(running.tmp.iterdir()) == []
    return ended


def children_of(pid: int) -> dict[str, int]:
    """Direct children of a process: the module that each runs, and its pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid:
            found[_name(command)] = int(entry.name)
    return found


def _name(command: list[bytes]) -> str:
    """What ``--member-id`` says, or that it is the keeper, else the program."""
    words = [word.decode(errors="replace") for word in command]
    if "forebay_fuse.keeper" in words:
        return "keeper"
    return words[words.index("--member-id") + 1] if "--member-id" in words else words[0]


def shm_of(pid: int) -> list[Path]:
    """Folders in memory that ``forebay up`` made."""
    return list(memory_folder().glob(f"forebay-{pid}-*"))


def assert_nothing_left(running: Running, *, pids: Sequence[int] = (), mounts: Sequence[Path] = ()) -> None:
    """No process, no folder, no mount."""
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert shm_of(running.child.pid) == []
    assert list(running.tmp.iterdir()) == []
    table = Path("/proc/self/mounts").read_text()
    assert [mount for mount in mounts if re.search(rf" {re.escape(str(mount))} ", table)] == []
