"""The worker's settings, and what follows from them before anything is opened: tier directories and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from forebay.contracts.records import ReadType, TierName
from forebay.errors import ConfigError
from forebay.runtime import MemberSettings, Size, parse_size
from forebay.ufs import AllowedRoots
from forebay_worker.block import CHARGE_UNIT
from forebay_worker.directory import TierSpec
from forebay_worker.policies import POLICIES, PolicyName
from forebay_worker.tuning import Tuning

TIER_SETTING = "tier_dirs"
MEM_SHARE = 0.25
"""Default capacity of memory: share of what the cgroup grants."""

DISK_SHARE = 0.20
"""Default capacity on a disk: share of what is free there."""

FILE_SYSTEM_SHARE = 0.80
"""A default never takes more than this share of a file system (a container's /dev/shm may have 64 MiB)."""


class WorkerSettings(MemberSettings):
    """What a worker can be told."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_WORKER_")

    tier_dirs: tuple[str, ...] = Field(
        (),
        description="tier directories, MEM:/path[:SIZE] or SSD:/path[:SIZE]; repeatable; sizes default to 25% of the"
        " cgroup's memory and 20% of the free disk, no directory at all to one in /dev/shm",
    )
    state_dir: Path | None = Field(None, description="where the last good mount table is kept; default: the first tier")
    uds_dir: Path | None = Field(
        None, description="directory of the Unix socket for clients of this host; default: the first tier"
    )
    capacity_weight: float | None = Field(None, ge=0, le=1e15, description="share of blocks; default: capacity in GiB")
    passive_cache: bool = Field(False, description="keep copies of blocks that were read through their home")
    read_type: ReadType = Field("CACHE", description="CACHE, CACHE_PROMOTE or NO_CACHE, where a request says nothing")
    policy: PolicyName = Field("hold", description=f"what to keep: {', '.join(POLICIES)}")
    high_watermark: float = Field(0.95, gt=0, le=1, description="share of a tier above which blocks are evicted")
    low_watermark: float = Field(0.90, gt=0, le=1, description="share of a tier down to which they are")
    reserved_bytes: Size = Field(0, ge=0, description="room of a tier that copies in spare room leave free")
    idle_ttl_s: float = Field(
        600.0, gt=0, le=1e9, description="how long a dataset may be unread before hold gives it up"
    )
    fill_streams: int = Field(8, ge=1, le=256, description="requests to one source at the same time, to begin with")
    fill_request_extents: int = Field(
        4, ge=1, le=64, description="neighbouring extents (4 MiB) in one such request at most, to begin with"
    )
    fill_tuning: bool = Field(True, description="tune both for each source by measured goodput")
    fill_streams_max: int = Field(64, ge=1, le=256, description="requests to all fill sources at the same time at most")
    fill_request_extents_max: int = Field(16, ge=1, le=64, description="extents in one request at most")
    ufs_requests_per_s: float = Field(0, ge=0, description="data requests to under stores; 0: no limit")
    ufs_bytes_per_s: Size = Field(0, ge=0, description="bytes from under stores a second; 0: no limit")
    mount_requests_per_s: float = Field(0, ge=0, description="data requests for each mount; 0: no limit")
    mount_bytes_per_s: Size = Field(0, ge=0, description="bytes for each mount a second; 0: no limit")
    scrub_rate: Size = Field(16 << 20, ge=0, description="bytes a second that the scrubber reads; 0 is off")
    scrub_pause_s: float = Field(3600.0, ge=1, description="pause between two passes of the scrubber")
    hint_bytes: Size = Field(512 << 20, ge=0, description="fetched ahead by hints, at most a quarter of the tiers")
    io_threads: int = Field(4, ge=1, le=64, description="threads for file systems")
    files_max: int = Field(1024, ge=16, le=100_000, description="block files kept open")
    reads_max: int = Field(256, ge=1, le=100_000, description="block reads answered at the same time")
    heap_reserve: Size = Field(256 << 20, ge=0, description="memory that MEM tiers must leave to the process")
    health_checks: tuple[str, ...] = Field(
        (),
        description="what says how well this worker is: exec:/path ARGUMENT, http://host/path, entry:NAME (of the group"
        " forebay.health) or python:module:function, each with ;period=10;deadline=2;fail=closed (or open); repeatable",
    )
    registry_timeout_s: float = Field(60.0, gt=0, description="how long to try to reach the registry at start")
    ticket_leeway_s: float = Field(60.0, ge=0, le=3600, description="clock difference that a ticket survives")
    ticket_grace_s: float = Field(86_400.0, ge=0, description="how long expired tickets count when no master is seen")
    drain_timeout_s: float = Field(10.0, ge=0, description="how long running reads may take at the end")

    @field_validator("tier_dirs")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_tier(text)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> WorkerSettings:
        if self.low_watermark > self.high_watermark:
            raise ValueError("low_watermark is above high_watermark")
        return self


def tuning_of(settings: WorkerSettings) -> Tuning:
    """What can be changed while the worker runs, as it is at start."""
    return Tuning(
        passive_cache=settings.passive_cache,
        read_type=settings.read_type,
        policy=settings.policy,
        idle_ttl_s=settings.idle_ttl_s,
        high_watermark=settings.high_watermark,
        low_watermark=settings.low_watermark,
        reserved_bytes=settings.reserved_bytes,
        scrub_rate=settings.scrub_rate,
    )


@dataclass(frozen=True)
class TierText:
    """A ``tier_dirs`` entry as written; ``size`` is ``None`` for the default."""

    tier: TierName
    path: Path
    size: int | None


def parse_tier(text: str) -> TierText:
    """Reads ``MEM:/path[:SIZE]`` or ``SSD:/path[:SIZE]``. Raises ValueError."""
    kind, separator, rest = text.partition(":")
    head, _, tail = rest.rpartition(":")
    path, size = (head, parse_size(tail)) if head else (rest, None)
    if kind not in {"MEM", "SSD"} or not separator or not path.startswith("/") or "\0" in path:
        raise ValueError(f"{text!r} is none of MEM:/path, MEM:/path:4GiB, SSD:/path, SSD:/path:1TiB")
    if size is not None and size < CHARGE_UNIT:
        raise ValueError(f"{text!r} has a size under {CHARGE_UNIT} bytes")
    return TierText("MEM" if kind == "MEM" else "SSD", Path(os.path.normpath(path)), size)


@dataclass(frozen=True)
class Space:
    """What a file system has, in bytes."""

    total: int
    free: int


def space_at(path: Path) -> Space:
    """Of the file system that ``path`` lies on or will lie on.

    Raises:
        ConfigError: it cannot be looked at.
    """
    try:
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        found = os.statvfs(existing)
    except OSError as e:
        raise ConfigError(TIER_SETTING, f"{path} cannot be looked at: {e.strerror}") from e
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def default_tier(settings: WorkerSettings) -> TierText:
    """One MEM directory in /dev/shm, named so that a restarted worker finds its blocks and two workers do not meet."""
    name = settings.member_id or (str(settings.port) if settings.port else "any")
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"forebay-{settings.cluster_id}-{name}")
    return TierText("MEM", Path("/dev/shm") / safe, None)


def resolve_tiers(texts: Sequence[TierText], spaces: Sequence[Space], *, memory: int, reserve: int) -> list[TierSpec]:
    """Sizes filled in and checked. Pure: ``spaces`` are the directories' file systems, ``memory`` is the cgroup's.

    Raises:
        ConfigError: a directory twice or inside another, more than its file system has, or MEM directories that
            leave less than ``reserve`` of the memory.
    """
    specs = [_sized(text, space, memory) for text, space in zip(texts, spaces, strict=True)]
    for number, spec in enumerate(specs):
        for other in specs[number + 1 :]:
            if spec.path.is_relative_to(other.path) or other.path.is_relative_to(spec.path):
                raise ConfigError(TIER_SETTING, f"{spec.path} and {other.path} overlap")
    held = sum(spec.capacity_bytes for spec in specs if spec.tier == "MEM")
    if held + reserve > memory:
        raise ConfigError(
            TIER_SETTING,
            f"{held} bytes of MEM and {reserve} for the process are more than the {memory} bytes this process may use",
        )
    return specs


def smallest(specs: Iterable[TierSpec]) -> dict[str, int]:
    """Bytes of the smallest directory of each kind."""
    capacities: dict[str, int] = {}
    for spec in specs:
        capacities[spec.tier] = min(spec.capacity_bytes, capacities.get(spec.tier, spec.capacity_bytes))
    return capacities


def check_apart(specs: Sequence[TierSpec]) -> None:
    """Directories that are one behind links.

    Raises:
        ConfigError: names both.
    """
    real = [Path(os.path.realpath(spec.path)) for spec in specs]
    for number, one in enumerate(real):
        for other in range(number + 1, len(real)):
            if one.is_relative_to(real[other]) or real[other].is_relative_to(one):
                raise ConfigError(TIER_SETTING, f"{specs[number].path} and {specs[other].path} overlap behind a link")


def _sized(text: TierText, space: Space, memory: int) -> TierSpec:
    if text.size is not None and text.size > space.total:
        raise ConfigError(TIER_SETTING, f"{text.path} lies on a file system of {space.total} bytes, not {text.size}")
    wanted = int(memory * MEM_SHARE) if text.tier == "MEM" else int(space.free * DISK_SHARE)
    size = text.size if text.size is not None else min(wanted, int(space.total * FILE_SYSTEM_SHARE))
    return TierSpec(text.tier, text.path, size // CHARGE_UNIT * CHARGE_UNIT)


def check_outside_sources(specs: Sequence[TierSpec], roots: AllowedRoots) -> None:
    """A tier directory below a root that may be mounted would show every mount's blocks as files of that one.

    Raises:
        ConfigError: one lies inside an allowed ``file://`` root, or holds one.
    """
    for spec in specs:
        here = Path(os.path.realpath(spec.path))
        for root in roots.roots:
            source = Path(os.path.realpath(f"/{root.uri.prefix}"))
            if root.uri.scheme == "file" and (here.is_relative_to(source) or source.is_relative_to(here)):
                raise ConfigError(TIER_SETTING, f"{spec.path} and the source {root.uri} overlap; put it elsewhere")
