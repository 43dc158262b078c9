"""``forebay up``: a cluster of processes, watched until the user stops it or it can't go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forebay.cli.children import Child
from forebay.cli.cluster import GATEWAY, KEEPER, WORKER, LocalCluster
from forebay.errors import ConfigError, ForebayError, NotReady
from forebay.ufs import UfsUri

RESTARTS_MAX = 3
RESTART_WINDOW_S = 60.0
"""A service that ends more often than this within the window stops the whole."""

WATCH_PERIOD_S = 0.2

Say = Callable[[str], None]


@dataclass
class Restarts:
    """When each service was started again; decides whether it may be once more. Pure."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def may(self, name: str, now_s: float) -> bool:
        """Whether ``name`` may be restarted now; counts it if so."""
        recent = [t for t in self.times.get(name, ()) if now_s - t < RESTART_WINDOW_S]
        self.times[name] = [*recent, now_s]
        return len(recent) < RESTARTS_MAX


def source_uri(source: str) -> UfsUri:
    """The source as written: ``s3://bucket/prefix``, ``file:///folder`` or a folder that exists and may be listed.

    Raises:
        ConfigError: it is none of these.
    """
    text = source if "://" in source else f"file://{Path(source).resolve()}"
    try:
        uri = UfsUri.parse(text)
    except ForebayError as e:
        raise ConfigError("SOURCE", f"{source}: {e.message}") from e
    if uri.scheme == "file":
        _check_folder(Path(f"/{uri.prefix}"))
    return uri


def _check_folder(folder: Path) -> None:
    try:
        with os.scandir(folder):
            pass
    except OSError as e:
        raise ConfigError("SOURCE", f"{folder}: {e.strerror}") from e


def check_mount_dir(directory: Path, uri: UfsUri) -> None:
    """Fail early, and in the words of this command, on what the gateway would refuse after everything has started.

    A stale mount (its server died) passes: the gateway detaches it.

    Raises:
        ConfigError: missing, no directory, not empty, mounted already, or overlapping the source.
    """
    try:
        os.stat(directory)
    except NotADirectoryError as e:
        raise ConfigError("--mount", f"{directory} is no directory") from e
    except FileNotFoundError as e:
        raise ConfigError("--mount", f"{directory} does not exist; create it first") from e
    except OSError:
        return
    if not directory.is_dir():
        raise ConfigError("--mount", f"{directory} is no directory")
    if os.path.ismount(directory):
        raise ConfigError("--mount", f"{directory} is a mount point already; unmount it or take another directory")
    if any(os.scandir(directory)):
        raise ConfigError("--mount", f"{directory} is not empty; files in it would be hidden")
    if uri.scheme == "file":
        here, source = directory.resolve(), Path(f"/{uri.prefix}").resolve()
        if here.is_relative_to(source) or source.is_relative_to(here):
            raise ConfigError("--mount", f"{directory} and the source {source} overlap")


def stop_on_signals() -> None:
    """SIGTERM interrupts like Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def ignore_signals() -> None:
    """From here on the command only cleans up, whatever is pressed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def watch(cluster: LocalCluster, say: Say, until: Callable[[], bool] = lambda: False) -> None:
    """Until ``until``; ends by KeyboardInterrupt before, or by NotReady when a service can't be kept running.

    Raises:
        NotReady: a service ended too often, or the mount was taken away; the message has the end of its log.
    """
    restarts = Restarts()
    while not until():
        time.sleep(WATCH_PERIOD_S)
        for name, child in cluster.children.items():
            child.trim()
            if not child.running:
                _ended(name, child, restarts, say)


def _ended(name: str, child: Child, restarts: Restarts, say: Say) -> None:
    code = child.returncode
    log_end = "\n".join(child.tail())
    if name.startswith((GATEWAY, KEEPER)) and code == 0:
        raise NotReady("the mount was taken away from outside")
    say(f"{name} ended with {_status(code)}")
    if not restarts.may(name, time.monotonic()):
        raise NotReady(f"{name} ended {RESTARTS_MAX + 1} times within a minute; the end of its log:\n{log_end}")
    say(f"{name} is started again")
    child.start()


def _status(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"status {code}"


def curl_lines(cluster: LocalCluster) -> list[str]:
    """What to look at, ready to be pasted."""
    lines = [f"curl {cluster.registry}/v1/cluster"] if cluster.registry.startswith("http") else []
    names = [n for n in cluster.children if n.startswith((WORKER, GATEWAY))]
    lines += [f"curl http://{cluster.address('master')}/v1/status"]
    lines += [f"curl http://{cluster.address(n)}/metrics    # {n}" for n in names]
    return lines
