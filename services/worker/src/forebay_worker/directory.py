"""Block files of one open tier directory, and every step in which they change. Blocking calls; see ``tiers`` for how a
directory is opened and ``recovery`` for what is done with what lies in it.

Layout (format 1)::

    lock                   flock'ed by the worker that owns the directory; never removed
    nonce                  32 hex digits, new at each start: whoever reads the same nonce sees the same directory
    boot                   boot id of the machine at the last start
    seals                  log of complete blocks under 16 MiB (``ondisk``)
    quarantine/            what a start found and did not know; never deleted
    <aa>/<block id>.part   being filled; sparse
    <aa>/<block id>.map    sidecar of a block of more than one extent: sums of what is present (``ondisk``)
    <aa>/<block id>.blk    complete, verified, immutable; only ever unlinked, never truncated

``aa`` are the first two digits of the id. The order of steps is what makes a crash harmless: bytes, then their sum,
then the bit; the record in the log or the flush, then the name; the ``.blk`` goes before its sidecar.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forebay.contracts.records import EXTENT_SIZE, TierName
from forebay_worker import ondisk
from forebay_worker.extents import Geometry
from forebay_worker.ondisk import MapHead
from forebay_worker.seals import SealsLog, read_all, syncfs
from forebay_worker.steps import Steps, nothing

SYNC_MIN_BYTES = 16 << 20
"""Blocks this large are flushed before they get their final name and keep their sidecar; smaller ones would fill 4 to
7 times slower and have the seals log."""

DIRECTORY_MODE, FILE_MODE = 0o750, 0o640
PROBE_BYTES = 4096
NOWHERE = "/proc/self/ns"
"""A directory in which nothing of ours is and nothing can be made."""

PROBE_NAME, NONCE_NAME = "probe", "nonce"


@dataclass(frozen=True)
class TierSpec:
    """One ``tier_dirs`` setting, resolved."""

    tier: TierName
    path: Path
    capacity_bytes: int


@dataclass(frozen=True)
class Manner:
    """How a directory goes about its files. ``fsync`` and ``syncfs`` are the system's; a test of lost power records
    them, and has smaller numbers."""

    steps: Steps = nothing
    fsync: Callable[[int], None] = os.fsync
    syncfs: Callable[[int], None] = syncfs
    sync_min_bytes: int = SYNC_MIN_BYTES
    extent_size: int = EXTENT_SIZE


PRODUCTION = Manner()


class PartMap:
    """The sidecar of a block that is being filled, opened for each write: half-filled blocks hold no descriptor."""

    def __init__(self, directory: TierDirectory, head: MapHead, present: int = 0) -> None:
        self._directory = directory
        self._head = head
        self._lock = threading.Lock()
        self._bits = present

    def note(self, extent: int, crc: int) -> None:
        """The extent's bytes are written and have this sum."""
        steps, head = self._directory.manner.steps, self._head
        steps("extent.written")
        with self._lock:
            fd = self._directory.open_name(name_of(head.block_id, "map"), os.O_WRONLY)
            try:
                os.pwrite(fd, ondisk.encode_crc(crc), head.crc_at(extent))
                steps("extent.summed")
                self._bits |= 1 << extent
                byte = self._bits >> (extent // 8 * 8) & 0xFF
                os.pwrite(fd, bytes([byte]), head.bit_at(extent))
            finally:
                os.close(fd)
        steps("extent.mapped")


class TierDirectory:
    """An open, locked tier directory. ``in_memory``: it lies on tmpfs, so mapping and reading it never waits, and
    nothing in it outlives the machine."""

    def __init__(
        self,
        spec: TierSpec,
        root_fd: int,
        lock_fd: int,
        *,
        nonce: str,
        in_memory: bool,
        is_new: bool,
        manner: Manner = PRODUCTION,
    ) -> None:
        self.spec = spec
        self.in_memory = in_memory
        self.nonce = nonce
        self.nonce_before: str | None = None
        self.mount_point = Path("/")
        self.manner = manner
        self.is_new = is_new
        self.root_fd = root_fd
        self.log: SealsLog | None = None
        self.known = ondisk.Seals()
        """What the log said at start, for blocks that are not in the index yet."""
        self._lock_fd = lock_fd
        self.device = os.fstat(root_fd).st_dev

    # -- a block's life

    def has_map(self, length: int) -> bool:
        """Whether a block of this length has a sidecar while it fills: all but those of a single extent."""
        return length > self.manner.extent_size

    def is_large(self, length: int) -> bool:
        """Whether a complete block of this length is flushed and keeps its sidecar."""
        return length >= self.manner.sync_min_bytes

    def create_part(
        self, block_id: str, length: int, dataset: str = "", *, sparse: bool = True
    ) -> tuple[int, PartMap | None]:
        """A new, empty ``.part`` of ``length`` bytes, open for reading and writing, and its sidecar. One that is not
        ``sparse`` gets its length when all of it is written at once."""
        name = name_of(block_id, "part")
        try:
            fd = self.open_name(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(block_id[:2], DIRECTORY_MODE, dir_fd=self.root_fd)
            fd = self.open_name(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if sparse:
                os.ftruncate(fd, length)
            self.manner.steps("part.created")
            return fd, self._create_map(block_id, length, dataset)
        except OSError:
            os.close(fd)
            self.remove(block_id, sealed=False)
            raise

    def _create_map(self, block_id: str, length: int, dataset: str) -> PartMap | None:
        if not self.has_map(length):
            return None
        head = MapHead(block_id, Geometry(length, self.manner.extent_size), dataset)
        self.write_name(name_of(block_id, "map"), ondisk.empty_map(head))
        self.manner.steps("map.created")
        return PartMap(self, head)

    def reopen_part(self, block_id: str, length: int, dataset: str, present: dict[int, int]) -> tuple[int, PartMap]:
        """A ``.part`` that a crash left, with the extents that were verified since."""
        head = MapHead(block_id, Geometry(length, self.manner.extent_size), dataset)
        fd = self.open_name(name_of(block_id, "part"), os.O_RDWR)
        return fd, PartMap(self, head, sum(1 << extent for extent in present))

    def seal(self, block_id: str, fd: int, length: int, crcs: tuple[int, ...], dataset: str = "") -> None:
        """Gives a complete, verified ``.part`` its final name."""
        steps = self.manner.steps
        if self.is_large(length):
            if not self.in_memory:
                self._flush_map(block_id)
                self.manner.fsync(fd)
            steps("seal.synced")
        else:
            if self.log is None:
                raise OSError(errno.ENOENT, "the tier directory is not there")
            self.log.append(block_id, length, crcs, dataset)
            steps("seal.recorded")
        self.rename(name_of(block_id, "part"), name_of(block_id, "blk"))
        steps("seal.renamed")
        if self.has_map(length) and not self.is_large(length):
            self.unlink(name_of(block_id, "map"))
            steps("seal.unmapped")

    def _flush_map(self, block_id: str) -> None:
        fd = self.open_name(name_of(block_id, "map"), os.O_WRONLY)
        try:
            self.manner.fsync(fd)
        finally:
            os.close(fd)

    def open_block(self, block_id: str) -> tuple[int, int]:
        """Descriptor and length of a sealed block."""
        fd = self.open_name(name_of(block_id, "blk"), os.O_RDONLY)
        return fd, os.fstat(fd).st_size

    def read_map(self, block_id: str) -> tuple[MapHead, dict[int, int]] | None:
        """Head and claimed sums of a block's sidecar; ``None`` if there is none that can be believed."""
        try:
            fd = self.open_name(name_of(block_id, "map"), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return None if os.fstat(fd).st_size > ondisk.MAP_BYTES_MAX else ondisk.decode_map(read_all(fd), block_id)
        finally:
            os.close(fd)

    def read_crcs(self, block_id: str, length: int) -> tuple[int, ...]:
        """Sums of a complete block by its sidecar; none if it does not have them all."""
        found = self.read_map(block_id)
        if found is None or found[0].geometry != Geometry(length, self.manner.extent_size):
            return ()
        crcs = found[1]
        return tuple(crcs.values()) if len(crcs) == found[0].geometry.count else ()

    def remove(self, block_id: str, *, sealed: bool) -> None:
        """Unlinks a block's file, then its sidecar; either may be gone already."""
        self.unlink(name_of(block_id, "blk" if sealed else "part"))
        self.manner.steps("remove.unlinked")
        self.unlink(name_of(block_id, "map"))
        self.manner.steps("remove.unmapped")

    def remove_all(self, block_id: str) -> None:
        """Unlinks all files of a block, whatever its state."""
        self.remove(block_id, sealed=True)
        self.remove(block_id, sealed=False)

    def sync(self) -> None:
        """Brings small blocks to the disk and notes how far."""
        if self.log is not None and not self.in_memory:
            self.log.sync()

    # -- health

    def probe(self) -> None:
        """Writes, flushes and reads back a small file; raises what the file system says."""
        data = os.urandom(PROBE_BYTES)
        fd = self.open_name(PROBE_NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(fd, data)
            if not self.in_memory:
                os.fsync(fd)
            if os.pread(fd, PROBE_BYTES, 0) != data:
                raise OSError(5, "the directory gave back other bytes than were written")
        finally:
            os.close(fd)
            self.unlink(PROBE_NAME)

    def is_itself(self) -> bool:
        """Whether the directory at the path is still the one that was opened, with the files that make it ours."""
        try:
            at_path = os.stat(self.spec.path)
            here = os.fstat(self.root_fd)
            os.stat(NONCE_NAME, dir_fd=self.root_fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        is_same = (at_path.st_dev, at_path.st_ino) == (here.st_dev, here.st_ino)
        is_locked = self._lock_fd >= 0 and os.fstat(self._lock_fd).st_nlink > 0
        return is_same and is_locked and (self.log is None or self.log.is_linked)

    def free_bytes(self) -> int:
        """What the file system has left for us."""
        found = os.fstatvfs(self.root_fd)
        return found.f_bavail * found.f_frsize

    def let_go(self) -> None:
        """The directory is not at its path any more: nothing here keeps its file system from being unmounted. The
        number of its descriptor stays valid, for a thread may be about to use it, and leads nowhere."""
        self._close_log()
        self.unlock()
        nowhere = os.open(NOWHERE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, self.root_fd, inheritable=False)
        finally:
            os.close(nowhere)

    def take_over(self, other: TierDirectory) -> None:
        """Goes on in a directory that was opened anew at the same path, under the old number."""
        self._close_log()
        os.dup2(other.root_fd, self.root_fd, inheritable=False)
        os.close(other.root_fd)
        if other.log is not None:
            other.log.root_fd = self.root_fd
        self._lock_fd, self.log, self.device = other._lock_fd, other.log, other.device
        self.nonce, self.known, self.in_memory = other.nonce, other.known, other.in_memory
        self.mount_point = other.mount_point

    def close(self) -> None:
        """Gives the directory back; its blocks stay."""
        self._close_log()
        self.unlock()
        os.close(self.root_fd)

    def _close_log(self) -> None:
        log, self.log = self.log, None
        if log is not None:
            log.close()

    def unlock(self) -> None:
        """Lets another descriptor lock the directory."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # -- names

    def open_name(self, name: str, flags: int) -> int:
        """Opens a file beneath the directory; never through a symlink."""
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=self.root_fd)

    def write_name(self, name: str, data: bytes) -> None:
        """Writes a whole small file in place."""
        fd = self.open_name(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Renames within the directory."""
        os.rename(old, new, src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd)

    def unlink(self, name: str) -> None:
        """Unlinks what may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.root_fd)


def name_of(block_id: str, suffix: str) -> str:
    """A block's file, relative to the directory."""
    return f"{block_id[:2]}/{block_id}.{suffix}"


def is_open_elsewhere(fd: int) -> bool:
    """Whether anybody but the owner of ``fd`` (read-only) has the file open or mapped: a write lease is only given to
    the sole user (fcntl(2), F_SETLEASE). Where leases are not to be had the answer is no."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
