"""What this process may use, from its control group (v1, v2 and hybrid) and the machine: memory and CPUs.

A container sees the host's core count and memory; its control group knows the truth. Limits are hierarchical, so the
smallest on the way from our group up to the mount's root counts. Every function takes the file system's root, so that
tests hand in a fixture tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
UNLIMITED_V1 = 1 << 60
"""v1 has no word for "no limit", only a number near 2**63."""


@dataclass(frozen=True)
class CgroupMount:
    """Where a hierarchy is mounted; ``root`` is the group that the mount point shows; v2 has no controllers here."""

    version: int
    controllers: frozenset[str]
    root: str
    mount_point: str


def parse_groups(text: str) -> dict[str, str]:
    """``/proc/self/cgroup`` as controller -> group path; the unified hierarchy (v2) is under the empty name."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            groups |= dict.fromkeys(fields[1].split(","), fields[2])
    return groups


def parse_mounts(text: str) -> list[CgroupMount]:
    """The cgroup lines of ``/proc/self/mountinfo`` (proc(5): optional fields end with a single dash)."""
    mounts = []
    for line in text.splitlines():
        fields = line.split()
        try:
            dash = fields.index("-", 6)
            kind, options = fields[dash + 1], fields[dash + 3]
        except (ValueError, IndexError):
            continue
        if kind == "cgroup2":
            mounts.append(CgroupMount(2, frozenset(), fields[3], fields[4]))
        elif kind == "cgroup":
            mounts.append(CgroupMount(1, frozenset(options.split(",")), fields[3], fields[4]))
    return mounts


def parse_cpu_max(text: str) -> float | None:
    """``cpu.max`` of v2 as a number of CPUs; ``None`` without a limit or for anything else."""
    fields = text.split()
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def parse_bytes(text: str) -> int | None:
    """``memory.max`` or ``memory.limit_in_bytes``; ``None`` for "max" and for v1's near-infinite numbers."""
    text = text.strip()
    return int(text) if text.isdecimal() and int(text) < UNLIMITED_V1 else None


def parse_meminfo(text: str) -> int | None:
    """``MemTotal`` of ``/proc/meminfo`` in bytes."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == "MemTotal:" and fields[1].isdecimal():
            return int(fields[1]) << 10
    return None


def memory_limit_bytes(root: Path = ROOT) -> int:
    """Bytes of memory this process may use: the smallest limit above it, never more than the machine has."""
    limits = [parse_meminfo(_read(root / "proc/meminfo"))]
    for version, folder in _folders(root, "memory"):
        limits.append(parse_bytes(_read(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))))
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpu_quota(root: Path = ROOT, *, cpus: int | None = None) -> float:
    """CPUs this process may use at once, at most ``cpus`` (default: those it may be scheduled on); never under 0.01."""
    quotas: list[float] = [len(os.sched_getaffinity(0)) if cpus is None else cpus]
    for version, folder in _folders(root, "cpu"):
        quota = (
            parse_cpu_max(_read(folder / "cpu.max"))
            if version == 2
            else _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
        )
        quotas += [quota] if quota is not None else []
    return max(min(quotas), 0.01)


def cpu_used_s(root: Path = ROOT) -> float:
    """CPU seconds that our control group has used, since it was made; this process's own where no group counts."""
    for version, folder in _folders(root, "cpuacct"):
        if version == 2:
            for line in _read(folder / "cpu.stat").splitlines():
                name, _, value = line.partition(" ")
                if name == "usage_usec" and value.strip().isdecimal():
                    return int(value) / 1e6
        elif (text := _read(folder / "cpuacct.usage").strip()).isdecimal():
            return int(text) / 1e9
    times = os.times()
    return times.user + times.system


def _folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Folders whose limits bind us for ``controller``, own group first, as (cgroup version, folder)."""
    groups = parse_groups(_read(root / "proc/self/cgroup"))
    for mount in parse_mounts(_read(root / "proc/self/mountinfo")):
        if mount.version == 1 and controller not in mount.controllers:
            continue
        group = groups.get("" if mount.version == 2 else controller)
        if group is None:
            continue
        top = root / mount.mount_point.lstrip("/")
        for folder in _upward(group, mount.root):
            yield mount.version, top / folder


def _upward(group: str, shown: str) -> list[str]:
    """``group`` relative to the group the mount shows, then each parent; just the top if it lies outside."""
    path = PurePosixPath(group)
    inner = path.relative_to(shown) if path.is_relative_to(shown) else PurePosixPath()
    return [str(p) for p in (inner, *inner.parents) if ".." not in p.parts]


def _ratio(quota: str, period: str) -> float | None:
    quota, period = quota.strip(), period.strip()
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
