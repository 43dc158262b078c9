"""Child processes of one command: started, watched, logged within bounds, and stopped by their own pids.

A child has a session of its own, so Ctrl-C reaches the command alone and the order of stopping is ours; the kernel
sends it SIGTERM if the command dies without stopping it (``prctl(2)``, PR_SET_PDEATHSIG). Its output goes straight to
a file that is cut when it grows: nothing of a child waits for us.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOG_BYTES_MAX = 4 << 20
"""Size at which a log is cut; the last ``LOG_BYTES_KEPT`` stay, so a folder holds about this much a service."""

LOG_BYTES_KEPT = 1 << 20
TAIL_LINES = 20
PROBE_TIMEOUT_S = 1.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class ChildSpec:
    """``python -m module args`` under ``name``, serving HTTP (with ``tls``, HTTPS) on ``port`` of loopback, or anything
    on ``socket``."""

    name: str
    module: str
    args: tuple[str, ...]
    port: int
    socket: Path | None = None
    tls: ssl.SSLContext | None = None


class Child:
    """One service process; ``start`` may be called again after it ended."""

    def __init__(self, spec: ChildSpec, *, logs: Path, env: Mapping[str, str]) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, while it runs or until it was waited for."""
        return self._process.pid if self._process is not None else None

    @property
    def returncode(self) -> int | None:
        """``None`` while it runs (or before it was started); negative for a signal."""
        return self._process.poll() if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; its output is appended to its log."""
        command = [sys.executable, "-P", "-m", self.spec.module, *self.spec.args]
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # one system call; takes no lock
            )

    def is_ready(self) -> bool:
        """Whether ``/readyz`` answers 200, or the socket is there."""
        return probe(self.spec.port, self.spec.tls) == 200 if self.spec.socket is None else self.spec.socket.is_socket()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def stop(self, timeout_s: float) -> bool:
        """SIGTERM, and SIGKILL after ``timeout_s``; whether SIGTERM was enough."""
        if self._process is None:
            return True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The last lines of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - (64 << 10)))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-lines:]

    def trim(self) -> None:
        """Cut the log if it has grown (the child appends, so it goes on at the new end)."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size <= LOG_BYTES_MAX:
                return
            with self.log.open("r+b") as file:
                file.seek(-LOG_BYTES_KEPT, os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.truncate()
                os.write(file.fileno(), kept[kept.find(b"\n") + 1 :])


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def get(
    port: int, path: str, *, timeout_s: float = PROBE_TIMEOUT_S, tls: ssl.SSLContext | None = None
) -> tuple[int, bytes] | None:
    """Status and body of a GET on loopback; ``None`` when nothing answers."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=tls)
    )
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def probe(port: int, tls: ssl.SSLContext | None = None) -> int | None:
    """Status of ``/readyz``; ``None`` when nothing answers."""
    reply = get(port, "/readyz", tls=tls)
    return reply[0] if reply is not None else None


def wait_ready(children: Sequence[Child], timeout_s: float) -> Child | None:
    """Wait until all are ready; gives the first that ended or is late, ``None`` when all are."""
    waiting = list(children)
    end = time.monotonic() + timeout_s
    while waiting:
        ended = next((c for c in waiting if not c.running), None)
        if ended is not None:
            return ended
        waiting = [c for c in waiting if not c.is_ready()]
        if waiting and time.monotonic() > end:
            return waiting[0]
        if waiting:
            time.sleep(0.05)
    return None
