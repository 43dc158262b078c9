"""A cluster of processes on this machine: who is started with which settings, in what order it comes and goes.

One master, some workers with tier directories in memory, a gateway for each mount directory. Everything lies in two
private folders that ``stop`` removes: one for state, key and logs, one in /dev/shm for blocks. ``forebay up``, the
demo, and tests and benches use the same class.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from forebay.cli.children import Child, ChildSpec, wait_ready
from forebay.cli.folders import OwnedFolder, sweep
from forebay.errors import ConfigError, NotReady
from forebay.runtime.tls import client_context

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
MASTER, GATEWAY, KEEPER, WORKER = "master", "gateway", "keeper", "worker"
_MODULES = {MASTER: "forebay_master", GATEWAY: "forebay_fuse", KEEPER: "forebay_fuse.keeper", WORKER: "forebay_worker"}


@dataclass(frozen=True)
class ClusterSpec:
    """What to start.

    ``mounts`` are the master's ``PATH=URI`` settings and ``ufs_roots`` what every service may touch; ``mount_dirs`` get
    a gateway each, and with ``keeper`` a keeper, so that the mount outlives its gateway; ``extra`` has further flags by
    service name (``master``, ``worker``, ``gateway``); ``environ`` is added to the services' environment.
    ``tls_dir`` has ``ca.pem`` and, key and chain in one file each, ``master.pem``, ``worker.pem``, ``gateway.pem`` and
    ``admin.pem`` (ours, to look whether they are ready).
    """

    mounts: tuple[str, ...]
    ufs_roots: tuple[str, ...]
    workers: int = 1
    worker_mem_bytes: int = 1 << 30
    mount_dirs: tuple[Path, ...] = ()
    registry: str = "embedded"
    short_circuit: bool = True
    keeper: bool = False
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    tls_dir: Path | None = None

    @property
    def scheme(self) -> str:
        """Of the services' addresses."""
        return "http" if self.tls_dir is None else "https"

    def tls_flags(self, service: str) -> tuple[str, ...]:
        """The certificate settings of a service."""
        if self.tls_dir is None:
            return ()
        own = str(self.tls_dir / f"{service}.pem")
        return ("--tls-cert", own, "--tls-key", own, "--tls-ca", str(self.tls_dir / "ca.pem"))

    def looking(self) -> ssl.SSLContext | None:
        """For a look at a service from here."""
        if self.tls_dir is None:
            return None
        own = self.tls_dir / "admin.pem"
        return client_context(cert=own, key=own, ca=self.tls_dir / "ca.pem")


@dataclass(frozen=True)
class Places:
    """Where this cluster lives. ``ports``: one per process, the master's first."""

    folder: Path
    shm: Path
    ports: tuple[int, ...]

    @property
    def key_file(self) -> Path:
        """The cluster key."""
        return self.folder / "cluster.key"

    @property
    def logs(self) -> Path:
        """The services' logs."""
        return self.folder / "logs"

    def keeper(self, number: int) -> Path:
        """The socket of the keeper of mount ``number``; here, for a socket's path has at most 107 bytes."""
        return self.shm / f"{KEEPER}-{number}.sock"

    def tier(self, number: int) -> Path:
        """The tier directory of worker ``number``."""
        return self.shm / f"worker-{number}"


def child_specs(spec: ClusterSpec, places: Places) -> list[ChildSpec]:
    """All processes with their settings, in the order in which they are shown."""
    ports = iter(places.ports)
    master_port = next(ports)
    embedded = spec.registry == "embedded"
    registry = f"{spec.scheme}://127.0.0.1:{master_port}" if embedded else spec.registry
    common = _flags("--registry", [registry]) + _flags("--cluster-key-file", [str(places.key_file)])
    roots = _flags("--ufs-roots", spec.ufs_roots)
    tls = spec.looking()

    def child(service: str, name: str, port: int, *args: str) -> ChildSpec:
        own = ("--host", "127.0.0.1", "--port", str(port), "--member-id", name, *args)
        more = (*spec.tls_flags(service), *spec.extra.get(service, ()))
        return ChildSpec(name, _MODULES[service], common + own + more, port, tls=tls)

    mounts = _flags("--mount", spec.mounts)
    children = [child(MASTER, MASTER, master_port, *roots, *mounts, "--state-dir", str(places.folder / MASTER))]
    for number in range(spec.workers):
        tier = f"MEM:{places.tier(number)}:{spec.worker_mem_bytes}"
        state = str(places.folder / f"{WORKER}-{number}")
        args = (*roots, "--tier-dirs", tier, "--state-dir", state)
        children.append(child(WORKER, f"{WORKER}-{number}", next(ports), *args))
    dirs = [str(places.tier(n)) for n in range(spec.workers)] if spec.short_circuit else []
    for number, directory in enumerate(spec.mount_dirs):
        suffix = "" if number == 0 else f"-{number}"
        args = ("--mountpoint", str(directory), *_flags("--short-circuit-dirs", dirs))
        if spec.keeper:
            path = places.keeper(number)
            children.append(ChildSpec(KEEPER + suffix, _MODULES[KEEPER], (str(path),), 0, socket=path))
            args += ("--keeper", str(path))
        children.append(child(GATEWAY, GATEWAY + suffix, next(ports), *args))
    return children


def _flags(name: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in (name, value))


class LocalCluster:
    """``with LocalCluster(spec) as cluster``: ready inside, gone outside."""

    def __init__(self, spec: ClusterSpec, *, folder: Path | None = None, shm: Path | None = None) -> None:
        self.spec = spec
        self._parents = (folder or Path(tempfile.gettempdir()), shm or memory_folder())
        self._places: Places | None = None
        self._owned: list[OwnedFolder] = []
        self.children: dict[str, Child] = {}

    @property
    def places(self) -> Places:
        """Where it lives; made by ``prepare``."""
        if self._places is None:
            raise NotReady("the cluster was not started")
        return self._places

    @property
    def registry(self) -> str:
        """The registry setting for clients."""
        return (
            f"{self.spec.scheme}://{self.address(MASTER)}" if self.spec.registry == "embedded" else self.spec.registry
        )

    def address(self, name: str) -> str:
        """``host:port`` of a process."""
        return f"127.0.0.1:{self.children[name].spec.port}"

    def prepare(self) -> None:
        """Make the folders and the key, choose ports. Starts nothing.

        Raises:
            ConfigError: the port is taken, or a folder can't be made.
        """
        count = 1 + self.spec.workers + len(self.spec.mount_dirs)
        ports = _ports(self.spec.port, count)
        folder, shm = self._make_folders()
        self._places = places = Places(folder, shm, ports)
        places.logs.mkdir()
        for number in range(self.spec.workers):
            places.tier(number).mkdir()
            (folder / f"{WORKER}-{number}").mkdir()
        (folder / MASTER).mkdir()
        with open(os.open(places.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"k1 {secrets.token_hex(32)}\n")
        env = {**os.environ, **self.spec.environ}
        for child in child_specs(self.spec, places):
            self.children[child.name] = Child(child, logs=places.logs, env=env)

    def _make_folders(self) -> tuple[Path, Path]:
        """Two private folders, after those of killed commands were swept; ``stop`` removes what was made."""
        try:
            for parent in self._parents:
                sweep(parent)
                self._owned.append(OwnedFolder(parent))
        except OSError as e:
            raise ConfigError("folder", f"{e.filename}: {e.strerror}") from e
        return self._owned[0].path, self._owned[1].path

    def start(self) -> None:
        """Start all, the master first, and wait until they are ready.

        Raises:
            ConfigError: a service refused its settings; the message is the service's own.
            NotReady: a service ended or was not ready in time; the message has the end of its log.
        """
        if self._places is None:
            self.prepare()
        groups = [
            [c for n, c in self.children.items() if not n.startswith(GATEWAY)],
            [c for n, c in self.children.items() if n.startswith(GATEWAY)],
        ]
        for group in groups:
            for child in group:
                child.start()
            late = wait_ready(group, READY_TIMEOUT_S)
            if late is not None:
                raise startup_error(late)

    def stop(self) -> list[str]:
        """Stop all, gateways first and the master last, and remove the folders. Gives the names that had to be killed.

        A gateway that had to be killed leaves a dead mount, which is detached here.
        """
        killed = [n for n, c in reversed(self.children.items()) if not c.stop(STOP_TIMEOUT_S)]
        for directory in self.spec.mount_dirs:
            detach_dead(directory)
        for owned in reversed(self._owned):
            owned.remove()
        return killed

    def kill(self, name: str) -> None:
        """``kill -9``, waited for."""
        child = self.children[name]
        child.signal(signal.SIGKILL)
        child.stop(STOP_TIMEOUT_S)

    def restart(self, name: str) -> None:
        """Start a process that ended anew, with the same name, port and folders, and wait until it is ready. The keeper
        of a gateway is started again as well if it went with an unmounted mount."""
        names = [name.replace(GATEWAY, KEEPER), name] if name.startswith(GATEWAY) else [name]
        ended = [self.children[n] for n in names if n in self.children and not self.children[n].running]
        for child in ended:
            child.start()
        late = wait_ready(ended, READY_TIMEOUT_S)
        if late is not None:
            raise startup_error(late)

    def __enter__(self) -> LocalCluster:
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


def startup_error(child: Child) -> ConfigError | NotReady:
    """What to say of a service that did not come up: its own ``error:`` line if it has one, else the log's end."""
    lines = child.tail()
    said = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    if child.returncode == 2 and said is not None:
        setting, _, message = said.removeprefix("error: ").partition(": ")
        return ConfigError(setting, message, service=child.spec.name)
    state = "is not ready in time" if child.running else f"ended with status {child.returncode}"
    return NotReady(f"{child.spec.name} {state}; the end of its log:\n" + "\n".join(lines), service=child.spec.name)


def detach_dead(directory: Path) -> bool:
    """Detach a mount whose server is gone (ENOTCONN); whether there was one. ``stat`` may be answered from the kernel's
    cache."""
    try:
        os.statvfs(directory)
    except OSError as e:
        if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            return subprocess.run([*command, str(directory)], check=False, stdin=subprocess.DEVNULL).returncode == 0
    return False


def memory_folder() -> Path:
    """Where tier directories in memory go: /dev/shm, or what there is."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else Path(tempfile.gettempdir())


def _ports(first: int, count: int) -> tuple[int, ...]:
    """``first`` (if not 0) and free ones. They are let go again, so a race is possible: the service then says so."""
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            sock = socket.socket()
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", first if number == 0 else 0))
        return tuple(s.getsockname()[1] for s in sockets)
    except OSError as e:
        raise ConfigError("--port", f"{first}: {e.strerror}") from e
    finally:
        for sock in sockets:
            sock.close()
