"""One tier directory as the store uses it, step by step, and the in-memory fake that says what it must do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import google_crc32c

from forebay_worker import recovery
from forebay_worker.directory import PRODUCTION, Manner, PartMap, TierDirectory, TierSpec
from forebay_worker.extents import Geometry
from forebay_worker.files import BlockFile
from forebay_worker.recovery import Scan
from forebay_worker.steps import Steps, nothing
from forebay_worker.tiers import open_tier

EXTENT = 64
SYNC_MIN = 4 * EXTENT
LENGTHS = (40, 200, 300)
"""A block of one extent; one of several that is small; one that is large."""


class Shelf(Protocol):
    """Blocks in one directory. A crash may come out of any call; after it only ``restart`` is called."""

    def begin(self, block_id: str, length: int) -> None:
        """A block starts to fill."""

    def land(self, block_id: str, extent: int, data: bytes) -> None:
        """One of its extents is written."""

    def seal(self, block_id: str) -> None:
        """All of them are."""

    def remove(self, block_id: str) -> None:
        """It is evicted, whatever its state."""

    def restart(self, boot: str) -> None:
        """The process ended, and another one took over."""

    def read(self, block_id: str) -> bytes | None:
        """A complete block."""

    def present(self, block_id: str) -> set[int] | None:
        """Extents of a block that is not complete; ``None`` if it is not here."""

    def complete(self) -> set[str]:
        """Ids of complete blocks."""


@dataclass
class MemoryShelf:
    """The fake: nothing is ever lost."""

    filling: dict[str, tuple[int, dict[int, bytes]]] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)

    def begin(self, block_id: str, length: int) -> None:
        self.filling[block_id] = (length, {})

    def land(self, block_id: str, extent: int, data: bytes) -> None:
        self.filling[block_id][1][extent] = data

    def seal(self, block_id: str) -> None:
        extents = self.filling.pop(block_id)[1]
        self.blocks[block_id] = b"".join(extents[extent] for extent in sorted(extents))

    def remove(self, block_id: str) -> None:
        self.filling.pop(block_id, None)
        self.blocks.pop(block_id, None)

    def restart(self, boot: str) -> None:
        """Blocks that have no extent, and single extents without a seal, are not kept."""
        self.filling = {name: (size, e) for name, (size, e) in self.filling.items() if e and size > EXTENT}

    def read(self, block_id: str) -> bytes | None:
        return self.blocks.get(block_id)

    def present(self, block_id: str) -> set[int] | None:
        held = self.filling.get(block_id)
        return None if held is None else set(held[1])

    def complete(self) -> set[str]:
        return set(self.blocks)


class DirectoryShelf:
    """The real one. ``before_restart`` is what happens to the directory while nobody holds it (lost power)."""

    def __init__(self, path: Path, manner: Manner | None = None) -> None:
        self.path = path
        self.manner = manner or small()
        self.files: dict[str, BlockFile] = {}
        self.tier: TierDirectory | None = None
        self.scanned = Scan()
        self.restart("boot-0")

    def _open(self) -> TierDirectory:
        assert self.tier is not None
        return self.tier

    def begin(self, block_id: str, length: int) -> None:
        tier = self._open()
        fd, part_map = tier.create_part(block_id, length, "m1")
        self.files[block_id] = self._file(fd, length, part_map)

    def _file(self, fd: int, length: int, part_map: PartMap | None, crcs: dict[int, int] | None = None) -> BlockFile:
        file = BlockFile(fd, length, in_memory=False, part_map=part_map)
        file.geometry = Geometry(length, EXTENT)
        file.crcs = [(crcs or {}).get(extent) for extent in range(file.geometry.count)]
        return file

    def land(self, block_id: str, extent: int, data: bytes) -> None:
        file = self.files[block_id]
        file.write([data], extent * EXTENT)
        file.land(extent, google_crc32c.value(data))

    def seal(self, block_id: str) -> None:
        file = self.files[block_id]
        self._open().seal(block_id, file.fd, file.length, file.all_crcs(), "m1")
        del self.files[block_id]

    def remove(self, block_id: str) -> None:
        is_filling = self.files.pop(block_id, None) is not None
        self._open().remove(block_id, sealed=not is_filling)

    def let_go(self) -> None:
        """What the end of a process does."""
        self.files.clear()
        if self.tier is not None:
            self.tier.close()
            self.tier = None

    def restart(self, boot: str) -> None:
        self.let_go()
        self.tier = open_tier(TierSpec("SSD", self.path, 1 << 20), setting="tier_dirs", manner=self.manner)
        recovery.prepare(self.tier, boot)
        self.check_names()
        self.scanned = Scan()
        for folder in recovery.scan_root(self.tier, self.scanned):
            recovery.scan_folder(self.tier, folder, self.scanned)
        for part in self.scanned.parts:
            mended = recovery.mend(self.tier, part.block_id)
            if mended is None:
                self.tier.remove(part.block_id, sealed=False)
            elif not mended.is_sealed:
                fd, part_map = self.tier.reopen_part(part.block_id, part.length, part.dataset, mended.crcs)
                self.files[part.block_id] = self._file(fd, part.length, part_map, mended.crcs)

    def check_names(self) -> None:
        """Overridden by tests that look before anything was scanned."""

    def read(self, block_id: str) -> bytes | None:
        try:
            fd, length = self._open().open_block(block_id)
        except FileNotFoundError:
            return None
        try:
            return os.pread(fd, length + 1, 0)
        finally:
            os.close(fd)

    def present(self, block_id: str) -> set[int] | None:
        file = self.files.get(block_id)
        return None if file is None else {extent for extent, crc in enumerate(file.crcs) if crc is not None}

    def complete(self) -> set[str]:
        return {path.stem for path in self.path.glob("??/*.blk")}

    def stray(self) -> set[str]:
        """Files that no block accounts for."""
        known = {f"{name}.{suffix}" for name in self.files for suffix in ("part", "map")}
        known |= {f"{name}.{suffix}" for name in self.complete() for suffix in ("blk", "map")}
        return {path.name for path in self.path.glob("??/*")} - known


def small(
    steps: Steps = nothing,
    *,
    fsync: Callable[[int], None] = PRODUCTION.fsync,
    syncfs: Callable[[int], None] = PRODUCTION.syncfs,
) -> Manner:
    """A directory's manner with extents that a test can count."""
    return Manner(steps, fsync, syncfs, sync_min_bytes=SYNC_MIN, extent_size=EXTENT)


def content(block_id: str, length: int) -> bytes:
    """What a block holds."""
    return (block_id.encode() * (length // 32 + 1))[:length]


def pieces(block_id: str, length: int) -> list[bytes]:
    """Its extents."""
    data = content(block_id, length)
    return [data[at : at + EXTENT] for at in range(0, length, EXTENT)]


def put(shelf: Shelf, block_id: str, length: int) -> None:
    """Fills and seals a block."""
    shelf.begin(block_id, length)
    for extent, data in enumerate(pieces(block_id, length)):
        shelf.land(block_id, extent, data)
    shelf.seal(block_id)


def forget(shelf: DirectoryShelf) -> None:
    """Closes it for good."""
    with contextlib.suppress(OSError):
        shelf.let_go()
