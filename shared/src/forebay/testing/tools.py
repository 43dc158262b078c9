"""Where the programs are that tests start, and how one is started, watched and ended: always by its own pid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT_S = 10.0
OUTPUT_TAIL_BYTES = 4000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ToolMissing(RuntimeError):
    """A program that the tests need is not there; the message says how to get it."""


def tools_dir() -> Path:
    """``FOREBAY_TOOLS``, or ``.tools`` in the checkout that holds this file or the working directory."""
    if configured := os.environ.get("FOREBAY_TOOLS"):
        return Path(configured)
    places = [*Path(__file__).resolve().parents, *Path.cwd().resolve().parents, Path.cwd()]
    return next((p / ".tools" for p in places if (p / ".tools").is_dir()), Path.cwd() / ".tools")


def tool(name: str) -> Path:
    """The program ``name`` of the tools environment.

    Raises:
        ToolMissing: it is not installed.
    """
    path = tools_dir() / "parts" / "bin" / name
    if not path.is_file():
        raise ToolMissing(f"{name} is not at {path}; run `make setup`, or set FOREBAY_TOOLS to the tools folder")
    return path


def free_ports(count: int, *, also_above: int = 0) -> list[int]:
    """Ports of loopback nobody holds now; with ``also_above`` the port that much higher is free as well."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = _held_port(held, 0)
            if also_above and (port + also_above > 65535 or not _try_hold(held, port + also_above)):
                continue
            found.append(port)
    return found


def _held_port(held: contextlib.ExitStack, port: int) -> int:
    listener = held.enter_context(socket.socket())
    listener.bind(("127.0.0.1", port))
    return int(listener.getsockname()[1])


def _try_hold(held: contextlib.ExitStack, port: int) -> bool:
    try:
        return bool(_held_port(held, port))
    except OSError:
        return False


class Process:
    """One child process with its output in a file. ``stop`` is by pid and waits until it is gone.

    The kernel sends it ``orphaned`` when the thread that started it ends without stopping it, as when tests are killed.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        orphaned: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = [str(part) for part in command]
        self.output = folder / "output.log"
        with self.output.open("ab") as sink:
            self._child = subprocess.Popen(
                self.command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, orphaned),  # noqa: PLW1509  # one system call; takes no lock
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Polls ``ready`` until it is true.

        Raises:
            RuntimeError: the process ended, or time ran out; the message holds the end of its output.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running or time.monotonic() > deadline:
                state = "not ready in time" if self.running else f"ended with {self._child.returncode}"
                raise RuntimeError(f"{self.command[0]}: {state}\n{self.tail()}")
            time.sleep(0.02)

    def tail(self) -> str:
        """The last lines of its output."""
        return self.output.read_bytes()[-OUTPUT_TAIL_BYTES:].decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if it still runs."""
        if self.running:
            self._child.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP, until no thread runs any more: on a busy machine some still answer after the signal was sent."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.running and not all(state in "Tt" for state in _thread_states(self.pid)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.command[0]} does not stand still")
            time.sleep(0.005)

    def stop(self, *, kill: bool = False, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, then SIGKILL after ``timeout_s``; with ``kill`` at once."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _thread_states(pid: int) -> list[str]:
    """One letter a thread, see proc(5); none of threads that end meanwhile."""
    found = list[str]()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            found.append(stat.read_text().rpartition(")")[2].split()[0])
    return found


def is_listening(port: int) -> bool:
    """Whether something accepts connections at that port of loopback."""
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


def temporary_folder(name: str, *, inside: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes away with the server that uses it."""
    return tempfile.TemporaryDirectory(prefix=f"forebay-{name}-", dir=inside, ignore_cleanup_errors=True)
