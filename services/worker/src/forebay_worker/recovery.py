"""What a start makes of what lies in a tier directory. Blocking calls on an open directory.

``prepare`` comes before anything is served: it reads the seals log, and if the machine was started anew since, takes
the name ``.blk`` from every block that may have been torn, so that the promise of the name holds before the first
reader can look. Then, while reads are served, ``scan_folder`` goes through the names; ``look`` finds a single block
that is asked for meanwhile, and ``mend`` sees which extents of a ``.part`` are right. Files that are not ours go to
``quarantine/``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

import google_crc32c

from forebay.contracts.blocks import is_block_id
from forebay.contracts.members import socket_name
from forebay_worker.directory import (
    DIRECTORY_MODE,
    NONCE_NAME,
    PROBE_NAME,
    TierDirectory,
    name_of,
)
from forebay_worker.extents import Geometry
from forebay_worker.ondisk import RECORD_BYTES
from forebay_worker.seals import LOG_NAME, NEW_NAME, SealsLog, read_log

BOOT_NAME, QUARANTINE = "boot", "quarantine"
RESERVED = frozenset(
    {"lock", NONCE_NAME, "nonce.new", BOOT_NAME, PROBE_NAME, LOG_NAME, NEW_NAME, QUARANTINE, "mounts.v1", "mounts.new"}
)
LEFT_ALONE = frozenset({"lost+found"})
QUARANTINED_MAX = 100_000
"""Entries of the quarantine that are counted."""


@dataclass(frozen=True)
class FoundBlock:
    """A complete block. ``crcs`` are at hand for small ones; those of large ones stay in the sidecar."""

    block_id: str
    length: int
    mtime_ns: int
    dataset: str = ""
    crcs: tuple[int, ...] = ()


@dataclass(frozen=True)
class FoundPart:
    """A half-filled block whose extents are not verified yet; or, without a sidecar, a small block that was complete
    and did not get its name."""

    block_id: str
    length: int
    dataset: str


@dataclass(frozen=True)
class Mended:
    """A ``.part`` whose bytes were compared with their sums. ``is_sealed``: it was complete and is a ``.blk`` now."""

    length: int
    dataset: str
    crcs: dict[int, int]
    is_sealed: bool


@dataclass
class Scan:
    """What a tier directory held. ``unknown`` were moved to quarantine, ``stuck`` could not be."""

    blocks: list[FoundBlock] = field(default_factory=list)
    parts: list[FoundPart] = field(default_factory=list)
    torn: int = 0
    unknown: int = 0
    stuck: list[str] = field(default_factory=list)


def prepare(tier: TierDirectory, boot_id: str) -> int:
    """Reads and opens the seals log, and after another boot of the machine makes ``.part`` again of every ``.blk``
    that was not certainly on the disk; their number."""
    known = read_log(tier.root_fd, tier.manner.extent_size)
    if known is None:
        quarantine(tier, LOG_NAME)
    tier.known = known if known is not None else tier.known
    doubted = 0
    if _read_boot(tier) != boot_id:
        doubted = sum(_doubt(tier, folder) for folder in folders(tier))
        tier.write_name(BOOT_NAME, boot_id.encode("ascii"))
        tier.manner.steps("start.booted")
    manner = tier.manner
    tier.log = SealsLog(
        tier.root_fd,
        tier.known,
        steps=manner.steps,
        sync=manner.syncfs,
        fsync=manner.fsync,
        extent_size=manner.extent_size,
    )
    return doubted


def _doubt(tier: TierDirectory, folder: str) -> int:
    """Large blocks were flushed before they got their name, and so was their sidecar."""
    doubted = 0
    names = set(_listed(tier, folder))
    for block_id in [name[:-4] for name in names if name.endswith(".blk") and is_block_id(name[:-4])]:
        sealed = tier.known.get(block_id)
        if f"{block_id}.map" in names and _has_large_map(tier, block_id):
            continue
        if sealed is None or not sealed.is_durable:
            tier.rename(name_of(block_id, "blk"), name_of(block_id, "part"))
            tier.manner.steps("start.doubted")
            doubted += 1
    return doubted


def _has_large_map(tier: TierDirectory, block_id: str) -> bool:
    found = tier.read_map(block_id)
    return found is not None and tier.is_large(found[0].geometry.length) and len(found[1]) == found[0].geometry.count


def _read_boot(tier: TierDirectory) -> str:
    try:
        fd = tier.open_name(BOOT_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, 256).decode("ascii", "replace")
    finally:
        os.close(fd)


# -- looking


def folders(tier: TierDirectory) -> list[str]:
    """The ``aa`` folders there are."""
    return [name for name in sorted(os.listdir(tier.root_fd)) if _is_folder(tier, name)]


def _is_folder(tier: TierDirectory, name: str) -> bool:
    if len(name) != 2 or not is_block_id(name * 16):
        return False
    return stat.S_ISDIR(os.stat(name, dir_fd=tier.root_fd, follow_symlinks=False).st_mode)


def scan_root(tier: TierDirectory, scan: Scan) -> list[str]:
    """Moves strangers beside the folders to quarantine; the folders."""
    found = folders(tier)
    for name in sorted(os.listdir(tier.root_fd)):
        if name not in RESERVED and name not in LEFT_ALONE and name not in found and name != socket_name(tier.nonce):
            _banish(tier, name, scan)
    return found


def scan_folder(tier: TierDirectory, folder: str, scan: Scan) -> None:
    """Adds what one folder holds to ``scan``; orphaned sidecars and hopeless ``.part`` files go."""
    by_id: dict[str, set[str]] = {}
    for name, is_regular in _kinds(tier, folder):
        block_id, _, suffix = name.partition(".")
        is_ours = suffix in {"part", "blk", "map"} and is_block_id(block_id) and block_id[:2] == folder
        if is_ours and is_regular:
            by_id.setdefault(block_id, set()).add(suffix)
        else:
            _banish(tier, f"{folder}/{name}", scan)
    for block_id, suffixes in by_id.items():
        _take(tier, block_id, suffixes, scan)


def _take(tier: TierDirectory, block_id: str, suffixes: set[str], scan: Scan) -> None:
    if "blk" in suffixes:
        block = _noted(tier, block_id) or look(tier, block_id)
        if block is None:
            _banish(tier, name_of(block_id, "blk"), scan)
        else:
            scan.blocks.append(block)
            if "map" in suffixes and not tier.is_large(block.length):
                tier.unlink(name_of(block_id, "map"))
        if "part" in suffixes:  # its block was complete before
            tier.unlink(name_of(block_id, "part"))
            scan.torn += 1
        return
    part = _look_part(tier, block_id) if "part" in suffixes else None
    if part is None:
        tier.remove(block_id, sealed=False)
        scan.torn += "part" in suffixes
    else:
        scan.parts.append(part)


def _noted(tier: TierDirectory, block_id: str) -> FoundBlock | None:
    """A small block by the log alone: a hundred thousand inodes of a cold disk need not be read. (Its length is
    compared when it is opened.)"""
    sealed = tier.known.get(block_id)
    if sealed is None:
        return None
    order = sealed.sealed_at_s * 10**9 + sealed.place // RECORD_BYTES
    return FoundBlock(block_id, sealed.length, order, sealed.dataset, sealed.crcs)


def look(tier: TierDirectory, block_id: str) -> FoundBlock | None:
    """The complete block of this id, if it is here and its sums are known."""
    try:
        info = os.stat(name_of(block_id, "blk"), dir_fd=tier.root_fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    length = info.st_size
    if not stat.S_ISREG(info.st_mode) or not length:
        return None
    sealed = tier.known.get(block_id)
    if not tier.is_large(length) and sealed is not None and sealed.length == length:
        return FoundBlock(block_id, length, info.st_mtime_ns, sealed.dataset, sealed.crcs)
    found = tier.read_map(block_id)
    if found is None or found[0].geometry != Geometry(length, tier.manner.extent_size):
        return None
    head, crcs = found
    if len(crcs) < head.geometry.count:
        return None
    inline = () if tier.is_large(length) else tuple(crcs.values())
    return FoundBlock(block_id, length, info.st_mtime_ns, head.dataset, inline)


def _look_part(tier: TierDirectory, block_id: str) -> FoundPart | None:
    length = os.stat(name_of(block_id, "part"), dir_fd=tier.root_fd, follow_symlinks=False).st_size
    found, sealed = tier.read_map(block_id), tier.known.get(block_id)
    if found is not None and found[0].geometry == Geometry(length, tier.manner.extent_size) and found[1]:
        return FoundPart(block_id, length, found[0].dataset)
    if sealed is not None and sealed.length == length:
        return FoundPart(block_id, length, sealed.dataset)
    return None


# -- mending


def mend(tier: TierDirectory, block_id: str) -> Mended | None:
    """Which extents of a ``.part`` have the sums that were noted; if all of them, it gets its name. ``None`` if nothing
    is right."""
    found, sealed = tier.read_map(block_id), tier.known.get(block_id)
    fd = tier.open_name(name_of(block_id, "part"), os.O_RDWR)
    try:
        length = os.fstat(fd).st_size
        geometry = Geometry(max(1, length), tier.manner.extent_size)
        claims: dict[int, int] = {}
        dataset = ""
        if sealed is not None and sealed.length == length:
            claims, dataset = dict(enumerate(sealed.crcs)), sealed.dataset
        if found is not None and found[0].geometry == geometry:
            claims, dataset = {**claims, **found[1]}, found[0].dataset
        right = {extent: crc for extent, crc in sorted(claims.items()) if sum_of(fd, geometry, extent) == crc}
        is_complete = len(right) == geometry.count
        if is_complete:
            _finish(tier, block_id, fd, right, dataset)
        elif right and not (found is not None and found[0].geometry == geometry):
            right = {}  # it has no sidecar to go on with
        return Mended(length, dataset, right, is_complete) if right else None
    finally:
        os.close(fd)


def _finish(tier: TierDirectory, block_id: str, fd: int, crcs: dict[int, int], dataset: str) -> None:
    length = os.fstat(fd).st_size
    tier.seal(block_id, fd, length, tuple(crcs[extent] for extent in range(len(crcs))), dataset)


def sum_of(fd: int, geometry: Geometry, extent: int) -> int | None:
    """The sum of an extent's bytes; ``None`` if they are not all there."""
    start, stop = geometry.span(extent)
    parts: list[bytes] = []
    while start < stop and (piece := os.pread(fd, stop - start, start)):
        parts.append(piece)
        start += len(piece)
    return google_crc32c.value(parts[0] if len(parts) == 1 else b"".join(parts)) if start == stop else None


# -- quarantine


def _banish(tier: TierDirectory, name: str, scan: Scan) -> None:
    try:
        quarantine(tier, name)
        scan.unknown += 1
    except OSError as e:
        scan.stuck.append(f"{name}: {e.strerror}")


def quarantine(tier: TierDirectory, name: str) -> None:
    """Moves a file or folder that is not ours out of the way, under a name that is free."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(QUARANTINE, DIRECTORY_MODE, dir_fd=tier.root_fd)
    flat = name.replace("/", "_")
    taken = set(_listed(tier, QUARANTINE))
    number, target = 0, flat
    while target in taken:
        number += 1
        target = f"{flat}.{number}"
    tier.rename(name, f"{QUARANTINE}/{target}")


def quarantined(tier: TierDirectory) -> tuple[int, int]:
    """Files and bytes in quarantine; counting ends at ``QUARANTINED_MAX``."""
    count = size = 0
    for info in _walk(tier, QUARANTINE):
        count += 1
        size += info.st_size
        if count >= QUARANTINED_MAX:
            break
    return count, size


def _walk(tier: TierDirectory, folder: str) -> Iterator[os.stat_result]:
    for name in _listed(tier, folder):
        info = os.stat(f"{folder}/{name}", dir_fd=tier.root_fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            yield from _walk(tier, f"{folder}/{name}")
        else:
            yield info


def _listed(tier: TierDirectory, folder: str) -> list[str]:
    try:
        fd = tier.open_name(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _kinds(tier: TierDirectory, folder: str) -> list[tuple[str, bool]]:
    """Names in a folder, and whether they are regular files, by what the folder itself says."""
    fd = tier.open_name(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            return sorted((entry.name, entry.is_file(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(fd)
