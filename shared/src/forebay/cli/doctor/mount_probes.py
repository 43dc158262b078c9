"""Measures at a mount: reads a file of it, and looks at what the gateway counted meanwhile (``.forebay/stats``).

The files of ``.forebay`` are read past the caches and count in the gateway's figures as well; looking at them costs a
known number of requests, which is measured first and taken off.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from forebay.cli.doctor import judges
from forebay.cli.doctor.findings import Finding
from forebay.cli.doctor.judges import Counted, ProbeFile
from forebay.errors import ConfigError
from forebay.runtime.cgroup import cpu_quota

OWN = ".forebay"
LOOKED_AT_MAX = 10_000
"""Names that are looked at to find a file for the probe."""

PROBE_BYTES_MAX = 64 << 20
STATS_BYTES_MAX = 1 << 20
"""What the kernel asks for at once: a READ is never longer."""

CACHED_WAIT_S = 10.0
PIECE_BYTES = 1 << 20
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([-+0-9.eE]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[tuple[str, str], float]
"""Numbers by metric's name and the value of its label (the first; empty without one)."""


def parse(text: str) -> Samples:
    """Samples of a metrics' page that have at most one label. Pure."""
    found: Samples = {}
    for name, labels, value in _SAMPLE.findall(text):
        pairs = _LABEL.findall(labels)
        if len(pairs) <= 1:
            found[name, pairs[0][1] if pairs else ""] = float(value)
    return found


def difference(before: Samples, after: Samples, own: Samples) -> Counted:
    """What was counted between two looks, without what a look itself costs. Pure."""

    def of(metric: str) -> dict[str, float]:
        found = {label: n - before.get((name, label), 0.0) for (name, label), n in after.items() if name == metric}
        return {label: n - own.get((metric, label), 0.0) for label, n in found.items()}

    return Counted(
        bytes_by=of("forebay_client_read_bytes_total"),
        opens_by=of("forebay_fuse_opens_total"),
        requests=of("forebay_fuse_requests_total"),
        socket_reads=of("forebay_client_socket_reads_total").get("", 0.0),
        lookups=of("forebay_client_lookups_total"),
    )


@dataclass
class MountEye:
    """What a mount says of itself. ``own``: what one look costs."""

    mountpoint: Path
    settings: dict[str, Any] = field(default_factory=dict)
    own: Samples = field(default_factory=dict)

    @classmethod
    def open(cls, mountpoint: Path) -> MountEye:
        """A look at a mount.

        Raises:
            ConfigError: it is none of ours, or its ``.forebay`` is switched off.
        """
        try:
            settings = orjson.loads((mountpoint / OWN / "config").read_bytes())
        except (OSError, orjson.JSONDecodeError) as e:
            why = "is it a forebay mount, and not --virtual off?"
            raise ConfigError("MOUNT", f"{mountpoint / OWN / 'config'} cannot be read: {e} ({why})") from e
        eye = cls(mountpoint, settings)
        eye.samples()
        first, second = eye.samples(), eye.samples()
        eye.own = {key: n - first.get(key, 0.0) for key, n in second.items()}
        return eye

    def samples(self) -> Samples:
        """The gateway's figures now."""
        return parse(_look(self.mountpoint / OWN / "stats"))

    def during(self, work: Callable[[], object]) -> Counted:
        """What the gateway counted while ``work`` was done."""
        before = self.samples()
        work()
        return difference(before, self.samples(), self.own)

    def number(self, name: str) -> float | None:
        """One figure without a label."""
        return self.samples().get((name, ""))


def _look(path: Path) -> str:
    """A text of the mount by one READ, however long it is, so that each look costs the same."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, STATS_BYTES_MAX).decode()
    finally:
        os.close(fd)


def find_file(mountpoint: Path) -> Path:
    """A file for the probe: the first of at most ``PROBE_BYTES_MAX`` that is not empty.

    Raises:
        ConfigError: there is none among the first names.
    """
    seen = 0
    for folder, _, names in os.walk(mountpoint):
        for name in sorted(names):
            path = Path(folder, name)
            seen += 1
            if OWN not in path.parts and 0 < path.stat().st_size <= PROBE_BYTES_MAX:
                return path
            if seen > LOOKED_AT_MAX:
                break
    raise ConfigError("--file", f"no file of 1 to {PROBE_BYTES_MAX >> 20} MiB was found below {mountpoint}; name one")


def read_all(path: Path, *, drop: bool = False) -> int:
    """Reads a file; with ``drop`` its pages are dropped first. Its bytes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if drop:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        count = 0
        while piece := os.pread(fd, PIECE_BYTES, count):
            count += len(piece)
        return count
    finally:
        os.close(fd)


def cached(path: Path) -> tuple[int, int]:
    """Whole blocks of the file on this host, of how many."""
    try:
        here, _, blocks = os.getxattr(path, "user.forebay.cached").decode().partition("/")
        return int(here), int(blocks)
    except (OSError, ValueError):
        return 0, 0


def fill_cache(path: Path) -> ProbeFile:
    """Reads the file until it is cached on this host, or for a while."""
    until_s = time.monotonic() + CACHED_WAIT_S
    while True:
        size = read_all(path, drop=True)
        here, blocks = cached(path)
        if here == blocks or time.monotonic() > until_s:
            return ProbeFile(str(path), size, here, blocks)
        time.sleep(0.2)


def read_ahead_kib(mountpoint: Path) -> int | None:
    """The kernel's word on the mount's readahead."""
    device = os.stat(mountpoint).st_dev
    try:
        number = f"{os.major(device)}:{os.minor(device)}"
        return int(Path(f"/sys/class/bdi/{number}/read_ahead_kb").read_text())
    except (OSError, ValueError):
        return None


def probe_mount(mountpoint: Path, file: Path | None) -> list[Finding]:
    """Every switch of a mount, each by its effect.

    Raises:
        ConfigError: no mount of ours, or no file to read.
    """
    eye = MountEye.open(mountpoint)
    path = file if file is not None else find_file(mountpoint)
    try:
        return [*_reads(eye, path), *_looks(eye, path), *probe_process(eye)]
    except OSError as e:
        raise ConfigError("MOUNT", f"the probe could not read {path}: {e.strerror}") from e


def _reads(eye: MountEye, path: Path) -> list[Finding]:
    settings: Mapping[str, Any] = eye.settings
    found = fill_cache(path)
    before_ns = os.stat(path).st_atime_ns
    first = eye.during(lambda: read_all(path, drop=True))
    second = eye.during(lambda: read_all(path))
    after_ns = os.stat(path).st_atime_ns
    version = judges.parse_release(os.uname().release)
    return [
        judges.short_circuit(settings, found, first),
        judges.kernel_cache(settings, second),
        judges.direct_io(settings, second),
        judges.passthrough(settings, found, first, version, os.geteuid()),
        judges.access_time(settings, before_ns, after_ns),
    ]


def _looks(eye: MountEye, path: Path) -> list[Finding]:
    os.stat(path)
    start_s = time.monotonic()
    again = eye.during(lambda: os.stat(path))
    took_s = time.monotonic() - start_s
    return [
        judges.metadata_cache(eye.settings, again),
        judges.kept_by_kernel("entry_timeout", eye.settings, again.requests.get("lookup", 0), took_s=took_s),
        judges.kept_by_kernel("attr_timeout", eye.settings, again.requests.get("getattr", 0), took_s=took_s),
        _missing(eye),
        judges.read_ahead(eye.settings, read_ahead_kib(eye.mountpoint)),
    ]


def _missing(eye: MountEye) -> Finding:
    """Two looks at a name that is not there. The first one is a request."""
    path, times_s = eye.mountpoint / f"no-{secrets.token_hex(8)}", []

    def look() -> None:
        times_s.append(time.monotonic())
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)

    def twice() -> None:
        look()
        look()

    lookups = eye.during(twice).requests.get("lookup", 0)
    took_s = time.monotonic() - times_s[0]
    return judges.kept_by_kernel("negative_timeout", eye.settings, max(0.0, lookups - 1), took_s=took_s)


def probe_process(eye: MountEye) -> list[Finding]:
    """What the gateway says of itself."""
    helpers = int(eye.number("forebay_fuse_helpers") or 0)
    is_connected = bool(eye.number("forebay_discovery_connected"))
    return [
        judges.threads(eye.settings, helpers, cpu_quota(), os.cpu_count() or 1),
        judges.registry(is_connected, eye.number("forebay_discovery_map_age_seconds")),
        judges.worker_list_refresh(eye.settings, eye.number("forebay_discovery_map_age_seconds")),
    ]
