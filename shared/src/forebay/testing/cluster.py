"""A cluster of real processes for tests and benches: ``with Cluster.of_folder(folder, mounts=1) as cluster``.

What ``forebay up`` starts, with handles to hurt it (``kill``, ``pause``), to look at it (``metrics``, ``status``), and
a check afterwards that nothing of it is left: processes, mounts, folders. For the main thread (the kernel ends the
processes with the thread that started them).
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from forebay.cli.children import get
from forebay.cli.cluster import ClusterSpec, LocalCluster
from forebay.cli.sources import SourceOptions, mount_setting, root_setting
from forebay.client import ClientOptions
from forebay.ufs import UfsUri

MEM_BYTES = 256 << 20
HTTP_TIMEOUT_S = 5.0
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^}]*\})?) ([-+0-9.eEinfa]+)$", re.MULTILINE)


class Cluster:
    """See the module. ``mounts`` is how many gateways there are; their directories are made and removed here."""

    def __init__(self, spec: ClusterSpec, *, mounts: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forebay-test-", ignore_cleanup_errors=True)
        self.mount_dirs = tuple(Path(self._folder.name) / f"mount-{n}" for n in range(mounts))
        for directory in self.mount_dirs:
            directory.mkdir()
        self.local = LocalCluster(replace(spec, mount_dirs=self.mount_dirs), folder=Path(self._folder.name))
        self._pids: set[int] = set()

    @staticmethod
    def spec(
        source: str,
        *,
        workers: int = 1,
        options: SourceOptions | None = None,
        environ: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> ClusterSpec:
        """What to start for one source mounted at ``/``; ``changes`` are fields of ``ClusterSpec``."""
        uri, how = UfsUri.parse(source), options or SourceOptions()
        spec = ClusterSpec(
            mounts=(mount_setting("/", uri, how),),
            ufs_roots=(root_setting(uri, how),),
            workers=workers,
            worker_mem_bytes=MEM_BYTES,
            environ=environ or {},
        )
        return replace(spec, **changes)

    @classmethod
    def of_folder(cls, folder: Path, *, mounts: int = 0, workers: int = 1, **changes: Any) -> Cluster:
        """A cluster that shows a folder of this machine."""
        return cls(cls.spec(f"file://{folder}", workers=workers, **changes), mounts=mounts)

    @property
    def mount(self) -> Path:
        """The first mount directory."""
        return self.mount_dirs[0]

    @property
    def registry(self) -> str:
        """The registry setting for clients."""
        return self.local.registry

    def client_options(self, **changes: Any) -> ClientOptions:
        """Options of a client of this cluster that reads blocks of its workers in place."""
        tiers = tuple(self.local.places.tier(n) for n in range(self.local.spec.workers))
        options = ClientOptions(registry=self.registry, client_id="test", short_circuit_dirs=tiers)
        return replace(options, **changes)

    # -- hurting it

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self.local.kill(name)

    def restart(self, name: str) -> None:
        """Start what was killed, and wait until it is ready."""
        self.local.restart(name)
        self._remember()

    def pause(self, name: str) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self.local.children[name].signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.local.children[name].signal(signal.SIGCONT)

    # -- looking at it

    def http(self, name: str, path: str) -> bytes:
        """A GET that must succeed."""
        spec = self.local.children[name].spec
        reply = get(spec.port, path, timeout_s=HTTP_TIMEOUT_S, tls=spec.tls)
        if reply is None or reply[0] != 200:
            raise RuntimeError(f"{name}{path}: {reply}\n{self.log(name)}")
        return reply[1]

    def metrics(self, name: str) -> dict[str, float]:
        """All samples of ``/metrics`` by name and labels as written."""
        return parse_metrics(self.http(name, "/metrics"))

    def status(self, name: str) -> dict[str, Any]:
        """``/v1/status``."""
        found: dict[str, Any] = orjson.loads(self.http(name, "/v1/status"))
        return found

    def log(self, name: str) -> str:
        """The end of a service's log."""
        return "\n".join(self.local.children[name].tail(200))

    # -- its life

    def start(self) -> None:
        """See ``LocalCluster.start``."""
        self.local.start()
        self._remember()

    def stop(self) -> list[str]:
        """Stop, check that nothing is left, and give what had to be killed."""
        self._remember()
        killed = self.local.stop()
        try:
            self._check_nothing_left()
        finally:
            self._folder.cleanup()
        return killed

    def _remember(self) -> None:
        self._pids |= {c.pid for c in self.local.children.values() if c.pid is not None}

    def _check_nothing_left(self) -> None:
        left = [pid for pid in self._pids if Path(f"/proc/{pid}").exists()]
        assert not left, f"processes are left: {left}"
        mounted = [d for d in self.mount_dirs if os.path.ismount(d)]
        assert not mounted, f"mounts are left: {mounted}"
        if self.local.children:
            folders = [p for p in (self.local.places.folder, self.local.places.shm) if p.exists()]
            assert not folders, f"folders are left: {folders}"

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def parse_metrics(text: bytes) -> dict[str, float]:
    """Samples of the Prometheus text form, by name and labels as written."""
    return {name: float(value) for name, value in _SAMPLE.findall(text.decode())}


def eventually(condition: Callable[[], bool], *, timeout_s: float = 10.0, what: str = "condition") -> None:
    """Poll until ``condition`` is true.

    Raises:
        AssertionError: it was not, within ``timeout_s``.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.02)
