"""The verdicts: from settings and measured numbers, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forebay.cli.doctor.findings import Finding
from forebay.cli.output import size

LEEWAY_S = 60.0
"""Skew that tickets bear; more than half of it is said."""

LATE_TIMES, LATE_S = 1.5, 2.0
"""How much older than asked for a map may be found: a call takes its time."""

PASSTHROUGH_KERNEL = (6, 9)
FEATURES = {
    (6, 6): "shared mappings with direct_io",
    (6, 9): "passthrough, requests sent again to a successor",
}
"""What kernels bring for FUSE, by version."""


@dataclass(frozen=True)
class Counted:
    """What the gateway counted while a file was read: bytes by source, opens by mode, requests by kind."""

    bytes_by: Mapping[str, float] = field(default_factory=dict)
    opens_by: Mapping[str, float] = field(default_factory=dict)
    requests: Mapping[str, float] = field(default_factory=dict)
    socket_reads: float = 0.0
    lookups: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the kernel was given the block file itself."""
        return self.opens_by.get("passthrough", 0) > 0


@dataclass(frozen=True)
class ProbeFile:
    """The file that is read: whole blocks here of how many there are."""

    path: str
    size: int
    here: int
    blocks: int


Settings = Mapping[str, Any]


def short_circuit(settings: Settings, file: ProbeFile, read: Counted) -> Finding:
    """A second read of a cached file (its pages dropped) moved bytes by file."""
    name, way = "short_circuit", str(settings.get("short_circuit", "off"))
    if way == "off":
        return Finding(name, "not set", "short_circuit=off: all bytes come over the network")
    by_file = file.size if read.passed else read.bytes_by.get("local", 0.0)
    if way == "uds":
        if read.socket_reads or by_file:
            return Finding(name, "ok", f"{read.socket_reads:.0f} reads went over a worker's Unix socket")
        return Finding(name, "no effect", "uds is set and no read used a Unix socket; does a worker run on this host?")
    if by_file > 0:
        how = "passed through to the kernel" if read.passed else "read in place"
        return Finding(name, "ok", f"{size(by_file)} moved by file ({how})")
    if not settings.get("short_circuit_dirs"):
        return Finding(name, "no effect", "short_circuit=file and short_circuit_dirs names no tier directory")
    return Finding(
        name,
        "no effect",
        f"0 bytes moved by file; {file.here} of {file.blocks} blocks lie in short_circuit_dirs"
        " (do they name the directories of a worker on this host?)",
    )


def kernel_cache(settings: Settings, second: Counted) -> Finding:
    """The second read of a file that was just read made no READ request."""
    name, reads = "kernel_cache", second.requests.get("read", 0)
    if settings.get("direct_io"):
        return Finding(name, "not set", f"direct_io is on; the second read made {reads:.0f} requests")
    if not settings.get("kernel_cache", True):
        return Finding(name, "not set", f"kernel_cache is off; the second read made {reads:.0f} requests")
    if reads == 0:
        by = "the block file's own pages, passed through" if second.passed else "the page cache"
        return Finding(name, "ok", f"the second read was answered by {by}, with no request to the gateway")
    return Finding(name, "no effect", f"the second read made {reads:.0f} requests to the gateway")


def direct_io(settings: Settings, second: Counted) -> Finding:
    """With ``direct_io`` every read reaches the gateway."""
    name, reads = "direct_io", second.requests.get("read", 0)
    if not settings.get("direct_io"):
        return Finding(name, "not set", "reads may use the page cache")
    if reads > 0:
        return Finding(name, "ok", f"the second read made {reads:.0f} requests to the gateway")
    return Finding(name, "no effect", "the second read made no request: something else answered it")


def passthrough(settings: Settings, file: ProbeFile, read: Counted, kernel: tuple[int, int], uid: int) -> Finding:
    """The open was answered with a backing file, or which condition is missing."""
    name = "passthrough"
    if not settings.get("passthrough"):
        return Finding(
            name, "not set", "passthrough is off: the gateway answers every read that is not in the page cache"
        )
    if settings.get("direct_io"):
        return Finding(name, "no effect", "direct_io is on, and with it every read is to come to the gateway")
    if read.passed:
        return Finding(name, "ok", "the kernel read the block file itself")
    if file.blocks != 1:
        return Finding(name, "cannot tell", f"the probe file has {file.blocks} blocks; only files of one pass through")
    return Finding(name, "no effect", f"missing: {_missing(settings, file, kernel, uid)}")


def _missing(settings: Settings, file: ProbeFile, kernel: tuple[int, int], uid: int) -> str:
    if kernel < PASSTHROUGH_KERNEL:
        return f"Linux 6.9 (this is {kernel[0]}.{kernel[1]})"
    if settings.get("short_circuit") != "file" or not settings.get("short_circuit_dirs"):
        return "short_circuit=file with the tier directories of this host's workers"
    if file.here < file.blocks:
        return "the whole block in a directory of this host (its home is another host, or it is not cached)"
    if uid != 0:
        return "CAP_SYS_ADMIN for the gateway"
    return "CAP_SYS_ADMIN for the gateway, or a tier directory on a file system that is not stacked; see its log"


def access_time(settings: Settings, before_ns: int, after_ns: int) -> Finding:
    """Reading changed the access time if it was to."""
    name, changed = "update_access_time", before_ns != after_ns
    if settings.get(name):
        if changed:
            return Finding(name, "ok", "reading changed the access time; masters are told in batches")
        return Finding(name, "no effect", "reading did not change the access time, though that is on")
    if changed:
        return Finding(name, "no effect", "reading changed the access time, though that is off")
    return Finding(name, "ok", "off: reading changed no access time")


def metadata_cache(settings: Settings, again: Counted) -> Finding:
    """A second look at a name asked no master."""
    name = "metadata_cache"
    kept = [float(settings.get(s) or 0) for s in ("metadata_cache_s", "entry_timeout", "attr_timeout")]
    asked = again.lookups.get("miss", 0)
    if not settings.get("metadata_cache", True):
        return Finding(name, "not set", f"metadata_cache is off; a second look asked a master {asked:.0f} times")
    if not any(kept):
        return Finding(name, "not set", f"no name is kept anywhere; a second look asked a master {asked:.0f} times")
    if asked:
        return Finding(name, "no effect", f"a second look asked a master {asked:.0f} times (is the mount's max_age 0?)")
    requests = again.requests.get("lookup", 0) + again.requests.get("getattr", 0)
    by = f"the gateway's cache ({requests:.0f} requests)" if requests else "the kernel, with no request to the gateway"
    return Finding(name, "ok", f"a second look was answered by {by}")


def kept_by_kernel(name: str, settings: Settings, requests: float, *, took_s: float) -> Finding:
    """``entry_timeout``, ``attr_timeout`` or ``negative_timeout``: a second look ``took_s`` after the first one made no
    such request."""
    lasts_s = float(settings.get(name) or 0)
    made = f"a second look made {requests:.0f} requests"
    if lasts_s <= 0:
        return Finding(name, "not set", f"{name} is 0; {made}")
    if not requests:
        return Finding(name, "ok", "a second look was answered by the kernel, with no request to the gateway")
    if took_s >= lasts_s:
        return Finding(name, "cannot tell", f"{made}; it came after {took_s:.1f} s, and {lasts_s:g} s are asked for")
    why = "is the mount's max_age 0?"
    return Finding(name, "no effect", f"{made} after {took_s:.1f} s, and {lasts_s:g} s are asked for ({why})")


def client_metadata_cache(first_misses: float, second_misses: float, valid_s: float | None) -> Finding:
    """As above, for a client of the SDK."""
    if second_misses == 0:
        return Finding("metadata_cache", "ok", f"the second look asked no master (the first {first_misses:.0f} times)")
    if valid_s is not None and valid_s <= 0:
        return Finding("metadata_cache", "not set", "the mount's consistency class is always: each look asks")
    return Finding("metadata_cache", "no effect", f"the second look asked a master {second_misses:.0f} times")


def replicas(wanted: int, owners: int, copies: Sequence[str]) -> Finding:
    """Copies of a probe block in the cluster."""
    held = f"{len(copies)} copies ({', '.join(copies) or 'nowhere'}) after several reads, {wanted} wanted"
    if len(copies) >= wanted:
        return Finding("replicas", "ok", held)
    if owners < wanted:
        return Finding("replicas", "no effect", f"{held}; only {owners} workers own blocks")
    return Finding("replicas", "no effect", f"{held}; is there room, and does the policy admit it?")


def threads(settings: Settings, helpers: int | None, quota: float, cores: int) -> Finding:
    """What the gateway runs with, against the control group's grant."""
    name, wanted = "threads", settings.get("threads", 0)
    grant = f"the control group grants {quota:g} of {cores} processors"
    if helpers is None:
        return Finding(name, "cannot tell", f"no gateway's process is seen from here; {grant}")
    if wanted == 0:
        return Finding(name, "ok" if helpers == 0 else "no effect", f"no data helpers, as set ({helpers} run); {grant}")
    most = int(wanted) if wanted != "auto" else max(1, int(quota))
    if wanted != "auto" and helpers != most:
        return Finding(name, "no effect", f"threads={wanted} and {helpers} data helpers run; {grant}")
    if helpers > max(most, 1):
        return Finding(name, "no effect", f"{helpers} data helpers run; {grant}")
    return Finding(name, "ok", f"{helpers} data helpers run; {grant}")


def clocks(skews_s: Mapping[str, float], uncertain_s: float) -> Finding:
    """How far the services' clocks are from ours (give or take half a round trip)."""
    if not skews_s:
        return Finding("clocks", "cannot tell", "no service told its time")
    name, most = max(skews_s.items(), key=lambda pair: abs(pair[1]))
    said = f"{name} is {most:+.2f} s from here (± {uncertain_s:.2f} s); tickets bear {LEEWAY_S:.0f} s"
    return Finding("clocks", "no effect" if abs(most) - uncertain_s > LEEWAY_S / 2 else "ok", said)


def http_version(by_version: Mapping[str, float]) -> Finding:
    """What workers were spoken to with while the probe read."""
    two, others = by_version.get("2", 0.0), {v: n for v, n in by_version.items() if v != "2" and n}
    if two and not others:
        return Finding("http2", "ok", f"{two:.0f} reads of blocks, all by HTTP/2")
    if others:
        said = ", ".join(f"{n:.0f} by HTTP/{v}" for v, n in others.items())
        return Finding("http2", "no effect", f"reads of blocks came {said}: is a proxy between?")
    return Finding("http2", "cannot tell", "no block was read over the network (all by file)")


def read_ahead(settings: Settings, found_kib: int | None) -> Finding:
    """The mount's readahead, as the kernel says."""
    wanted = int(settings.get("read_ahead_kib") or 0)
    if not wanted:
        return Finding("read_ahead_kib", "not set", "the kernel's own readahead")
    if found_kib is None:
        return Finding("read_ahead_kib", "cannot tell", "/sys does not show the mount's read_ahead_kb")
    if found_kib >= wanted:
        return Finding("read_ahead_kib", "ok", f"read_ahead_kb is {found_kib}")
    return Finding(
        "read_ahead_kib",
        "no effect",
        f"read_ahead_kb is {found_kib}, not {wanted}: /sys cannot be written by the gateway (containers often can't)",
    )


def kernel(release: str) -> Finding:
    """The kernel's version, and what FUSE has there."""
    version = parse_release(release)
    has = [what for since, what in FEATURES.items() if version >= since]
    lacks = [f"{what} (from {since[0]}.{since[1]})" for since, what in FEATURES.items() if version < since]
    said = f"Linux {release}: {', '.join(has) or 'the least that is needed'}"
    return Finding("kernel", "ok", f"{said}; not here: {', '.join(lacks)}" if lacks else said)


def parse_release(release: str) -> tuple[int, int]:
    """``6.9.1-x`` as (6, 9)."""
    numbers = [
        int("".join(c for c in part if c.isdigit()) or 0) for part in release.split("-", maxsplit=1)[0].split(".")[:2]
    ]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def zookeeper(registry: str, round_trip_s: float | None, error: str = "") -> Finding:
    """A connection to the ensemble and one answer."""
    if not registry.startswith("zookeeper://"):
        return Finding("zookeeper", "not set", "the registry is embedded in the master")
    if round_trip_s is None:
        return Finding("zookeeper", "no effect", f"no server of {registry} answers: {error}")
    return Finding("zookeeper", "ok", f"the registry was reached and read in {round_trip_s * 1e3:.0f} ms")


def registry(connected: bool, age_s: float | None) -> Finding:
    """Whether the map that is held is kept up to date."""
    if not connected:
        return Finding("cluster map", "no effect", "the gateway is not connected to its registry; its map is old")
    return Finding("cluster map", "ok", f"connected; the map was confirmed {age_s or 0.0:.1f} s ago")


def worker_list_refresh(settings: Settings, age_s: float | None) -> Finding:
    """The cluster map in use was confirmed as lately as the switch asks."""
    name, most_s = "worker_list_refresh_interval", float(settings.get("worker_list_refresh_interval") or 0)
    if not most_s:
        return Finding(name, "not set", "the map is as old as the registry's watches leave it")
    if age_s is None:
        return Finding(name, "cannot tell", "the gateway does not say how old its map is")
    said = f"the map was confirmed {age_s:.1f} s ago; {most_s:g} s are asked for"
    late = age_s > most_s * LATE_TIMES + LATE_S
    return Finding(name, "no effect" if late else "ok", f"{said}: its registry does not answer" if late else said)


@dataclass(frozen=True)
class Entered:
    """Whom a client with a policy asked for ``blocks`` blocks: reads by address (``localhost``: by a Unix socket of
    this host). ``homes``: those that may hold them. ``roomiest``: the worker with the most free bytes."""

    policy: str
    asked: Mapping[str, int]
    homes: frozenset[str] = frozenset()
    roomiest: str = ""
    workers: int = 0
    blocks: int = 0


def location_policy(seen: Entered) -> Finding:
    """The workers that were asked are those that the policy names."""
    name, policy = "location_policy", seen.policy
    peers = {peer for peer, count in seen.asked.items() if count}
    reads = sum(seen.asked.values())
    said = f"{policy}: {reads} reads of {seen.blocks} blocks went to {', '.join(sorted(peers)) or 'nobody'}"
    if not peers:
        return Finding(name, "cannot tell", said)
    if policy == "round-robin":
        wanted = min(seen.workers, seen.blocks)
        if seen.workers < 2:
            return Finding(name, "no effect", f"{said}; there is only one worker")
        if wanted < 2:
            return Finding(name, "cannot tell", f"{said}; with one block there is no turn to take")
        return Finding(name, "ok" if len(peers) >= 2 else "no effect", said)
    if policy == "most-available":
        return Finding(name, "ok" if seen.roomiest in peers else "no effect", f"{said}; {seen.roomiest} has most room")
    if policy == "deterministic-hash":
        strange = peers - seen.homes
        why = f"; {', '.join(sorted(strange))} is home of none (did a home not answer?)" if strange else ""
        return Finding(name, "no effect" if strange else "ok", said + why)
    if "localhost" in peers:
        return Finding(name, "ok", f"{policy}: reads went to a worker of this host, by its Unix socket")
    return Finding(
        name, "no effect", f"{said}; no worker of this host was asked (do short_circuit_dirs name its directories?)"
    )


def read_type(told: str, home: str, *, was_here: bool, is_here: bool, promoted: float = 0.0) -> Finding:
    """What reading left at the block's home."""
    name = "read_type"
    if told == "NO_CACHE":
        if was_here:
            return Finding(name, "cannot tell", f"NO_CACHE on {home}, which holds every probe block already")
        kept = f"NO_CACHE is set and {home} kept the block" if is_here else f"NO_CACHE: {home} kept nothing of a read"
        return Finding(name, "no effect" if is_here else "ok", kept)
    if not is_here:
        return Finding(name, "no effect", f"{told} is set and {home} did not keep the block: no room, or its policy")
    if told == "CACHE_PROMOTE":
        if promoted:
            return Finding(name, "ok", f"CACHE_PROMOTE: {home} moved {promoted:.0f} blocks from a disk to memory")
        return Finding(name, "cannot tell", f"CACHE_PROMOTE: {home} moved nothing (was the block in memory?)")
    return Finding(name, "ok", f"{told}: {home} {'holds' if was_here else 'kept'} the block that was read")


def passive_cache(is_on: bool, asked: str, *, is_here: bool) -> Finding:
    """What a read through a block's home left at the worker that was asked."""
    name = "passive_cache"
    if is_on:
        kept = f"{asked} kept a copy of a block that it read through its home"
        lost = f"passive_cache is on, and {asked} kept no copy of a block that it read through its home: has it room?"
        return Finding(name, "ok", kept) if is_here else Finding(name, "no effect", lost)
    if is_here:
        return Finding(name, "no effect", f"passive_cache is off, and {asked} kept a copy all the same")
    return Finding(name, "not set", f"{asked} kept no copy of a block that it read through its home")
