"""The ``seals`` log of an open tier directory: appends, the watermark of what is on the disk, rewriting. Blocking."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Container

from forebay_worker import ondisk
from forebay_worker.steps import Steps

LOG_NAME, NEW_NAME = "seals", "seals.new"
FILE_MODE = 0o640
GARBAGE_MIN = 4096
"""Dead records that a log may have whatever its size."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def syncfs(fd: int) -> None:
    """syncfs(2), which the ``os`` module lacks; ctypes lets other threads run meanwhile."""
    if _LIBC.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class SealsLog:
    """Appends from any thread. What was torn behind the last whole record is cut off when the log is opened."""

    def __init__(
        self,
        root_fd: int,
        found: ondisk.Seals,
        *,
        steps: Steps,
        sync: Callable[[int], None],
        fsync: Callable[[int], None],
        extent_size: int,
    ) -> None:
        self.root_fd = root_fd
        self._extent_size = extent_size
        self._steps = steps
        self._sync = sync
        self._fsync = fsync
        self._lock = threading.Lock()
        self._numbers = {name: number for number, name in found.datasets.items()}
        self._fd = _open(root_fd, LOG_NAME, os.O_RDWR | os.O_CREAT)
        self._size = found.end
        self._records = found.records
        self._synced = 0
        os.pwrite(self._fd, ondisk.seals_head(), 0)  # lost power may have left zeros in its place
        os.ftruncate(self._fd, self._size)

    def append(self, block_id: str, length: int, crcs: tuple[int, ...], dataset: str) -> None:
        """Notes a complete block, before it gets its final name."""
        with self._lock:
            names, number = self._number(dataset)
            try:
                self._write(names + ondisk.encode_seal(block_id, length, crcs, number, int(time.time())))
            except OSError:
                if names:
                    del self._numbers[dataset]
                raise

    def sync(self) -> None:
        """Brings everything on the file system to the disk, then says so in the log; nothing if nothing is new."""
        with self._lock:
            until, fd = self._size, self._fd
        if until == self._synced:
            return
        self._sync(self.root_fd)
        with self._lock:
            if fd != self._fd:  # rewritten meanwhile: the offset is of another file
                return
            self._write(ondisk.encode_synced(until))
            if self._size == until + ondisk.RECORD_BYTES:
                self._synced = self._size
        self._steps("log.synced")

    def is_wasteful(self, live: int) -> bool:
        """Whether most of the log speaks of blocks that are gone."""
        return self._records > 2 * live + GARBAGE_MIN

    @property
    def end(self) -> int:
        """Where the next record will stand."""
        with self._lock:
            return self._size

    def rewrite(self, live: Container[bytes], until: int | None = None) -> None:
        """Keeps the last records of these blocks and drops the rest of what stands before byte ``until`` (by default:
        all that there is). Others may append meanwhile; they wait while what they appended is carried over."""
        with self._lock:
            old, until = self._fd, self._size if until is None else until
        before = ondisk.decode_seals(read_all(old, until), self._extent_size)
        if before is None:
            return
        data, numbers = ondisk.shortened(before, live)
        fd = _open(self.root_fd, NEW_NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(fd, data, 0)
            self._fsync(fd)
            self._steps("log.rewritten")
            with self._lock:
                if self._fd != old:
                    raise OSError(errno.EBADF, "the log was closed")
                tail = read_all(old, self._size, until)
                tail = ondisk.carried(tail, start=until, at=len(data), names=before.datasets, numbers=numbers)
                if tail:
                    write_all(fd, tail, len(data))
                    self._fsync(fd)
                self._replace(fd, len(data) + len(tail), numbers)
        except BaseException:
            if fd != self._fd:
                os.close(fd)
            raise

    def _replace(self, fd: int, size: int, numbers: dict[str, int]) -> None:
        os.rename(NEW_NAME, LOG_NAME, src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd)
        old, self._fd, self._size, self._numbers = self._fd, fd, size, numbers
        os.close(old)
        self._records = (size - ondisk.SEALS_HEAD_BYTES) // ondisk.RECORD_BYTES
        self._synced = 0
        self._steps("log.replaced")

    @property
    def is_linked(self) -> bool:
        """Whether the file still has its name."""
        with self._lock:
            return os.fstat(self._fd).st_nlink > 0

    def close(self) -> None:
        """Closes the file; a thread that appends after that is told that it cannot."""
        with self._lock:
            fd, self._fd = self._fd, -1
        os.close(fd)

    def _number(self, dataset: str) -> tuple[bytes, int]:
        """Records that must come first, and the mount's number; 0 is no mount."""
        number = self._numbers.get(dataset, 0) if dataset else 0
        if number or not dataset or len(self._numbers) >= ondisk.NUMBER_MAX:
            return b"", number
        number = self._numbers[dataset] = ondisk.free_number(self._numbers)
        return ondisk.encode_name(number, dataset), number

    def _write(self, data: bytes) -> None:
        """A failed or short write leaves no half of a record in front of the next one: it is written over."""
        write_all(self._fd, data, self._size)
        self._size += len(data)
        self._records += len(data) // ondisk.RECORD_BYTES


def read_log(root_fd: int, extent_size: int) -> ondisk.Seals | None:
    """What the directory's log says; nothing in it if there is none; ``None`` if it cannot be understood."""
    try:
        fd = _open(root_fd, LOG_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return ondisk.Seals()
    try:
        data = read_all(fd)
    finally:
        os.close(fd)
    return ondisk.Seals() if not data.strip(b"\0") else ondisk.decode_seals(data, extent_size)


def read_all(fd: int, until: int = 1 << 62, at: int = 0) -> bytes:
    """A file from byte ``at`` to its end, or to byte ``until``."""
    parts: list[bytes] = []
    while piece := os.pread(fd, min(16 << 20, until - at), at):
        parts.append(piece)
        at += len(piece)
    return b"".join(parts)


def write_all(fd: int, data: bytes, at: int) -> None:
    """Writes all of it; a write may be short."""
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written


def _open(root_fd: int, name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=root_fd)
