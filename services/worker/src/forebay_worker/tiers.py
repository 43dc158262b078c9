"""Tier directories on disk: lock, nonce, names of block files, and what is found in them at start. Blocking calls.

Layout of a tier directory (format 1)::

    lock                   flock'ed by the worker that owns the directory; never removed
    nonce                  32 hex digits, new at each start: whoever reads the same nonce sees the same directory
    boot                   boot id of the machine at the last start (see ``_survives``)
    <aa>/<block id>.part   being filled; sparse; thrown away at start
    <aa>/<block id>.blk    complete and immutable; only ever unlinked, never truncated

``aa`` are the first two digits of the id. Anything else is left alone and reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forebay.contracts.blocks import is_block_id
from forebay.contracts.records import TierName
from forebay.errors import ConfigError

SYNC_MIN_BYTES = 16 << 20
"""Blocks this large are fsynced before they get their final name; smaller ones would fill 4 to 7 times slower."""

DIRECTORY_MODE, FILE_MODE = 0o750, 0o640
_RESERVED = frozenset({"lock", "nonce", "nonce.new", "boot", "mounts.v1", "mounts.new"})


@dataclass(frozen=True)
class TierSpec:
    """One ``tier_dirs`` setting, resolved."""

    tier: TierName
    path: Path
    capacity_bytes: int


@dataclass(frozen=True)
class FoundBlock:
    """A sealed block found at start."""

    block_id: str
    length: int
    mtime_ns: int


@dataclass(frozen=True)
class Scan:
    """What a tier directory held at start. ``unknown`` are paths relative to it, at most ``UNKNOWN_MAX`` of them."""

    blocks: tuple[FoundBlock, ...]
    torn: int
    unsafe: int
    unknown: tuple[str, ...]


UNKNOWN_MAX = 20


class TierDirectory:
    """An open, locked tier directory. ``in_memory``: it lies on tmpfs, so mapping and reading it never waits."""

    def __init__(self, spec: TierSpec, root_fd: int, lock_fd: int, *, in_memory: bool, is_new: bool) -> None:
        self.spec = spec
        self.in_memory = in_memory
        self.nonce = secrets.token_hex(16)
        self._is_new = is_new
        self._root_fd = root_fd
        self._lock_fd = lock_fd

    def create_part(self, block_id: str, length: int) -> int:
        """A new, empty, sparse ``.part`` of ``length`` bytes, open for reading and writing."""
        name = _name(block_id, "part")
        try:
            fd = self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(block_id[:2], DIRECTORY_MODE, dir_fd=self._root_fd)
            fd = self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(fd, length)
        except OSError:
            os.close(fd)
            self._unlink(name)
            raise
        return fd

    def seal(self, block_id: str, fd: int, length: int) -> None:
        """Gives a complete ``.part`` its final name; large blocks on a disk are flushed to it first."""
        if length >= SYNC_MIN_BYTES and not self.in_memory:
            os.fsync(fd)
        part, block = _name(block_id, "part"), _name(block_id, "blk")
        os.rename(part, block, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)

    def open_block(self, block_id: str) -> tuple[int, int]:
        """Descriptor and length of a sealed block."""
        fd = self._open(_name(block_id, "blk"), os.O_RDONLY)
        return fd, os.fstat(fd).st_size

    def remove(self, block_id: str, *, sealed: bool) -> None:
        """Unlinks a block's file; it may be gone already."""
        self._unlink(_name(block_id, "blk" if sealed else "part"))

    def close(self) -> None:
        """Gives the directory back; its blocks stay."""
        os.close(self._root_fd)
        os.close(self._lock_fd)

    def undo(self) -> None:
        """As ``close``, and removes the directory if this worker made it and put no block there: for a failed start."""
        if self._is_new and set(os.listdir(self._root_fd)) <= _RESERVED:
            for name in os.listdir(self._root_fd):
                self._unlink(name)
            with contextlib.suppress(OSError):
                self.spec.path.rmdir()
        self.close()

    def scan(self, boot_id: str) -> Scan:
        """Reads the names: throws away ``.part`` files, and blocks that another boot may have torn."""
        same_boot = self._note_boot(boot_id)
        blocks: list[FoundBlock] = []
        unknown: list[str] = []
        torn = unsafe = 0
        for name, info in self._files(unknown):
            found = _found(name, info)
            if found is None:
                unknown.append(name)
            elif name.endswith(".part"):
                self._unlink(name)
                torn += 1
            elif not self._survives(found.length, same_boot=same_boot):
                self._unlink(name)
                unsafe += 1
            else:
                blocks.append(found)
        blocks.sort(key=lambda block: block.mtime_ns)
        return Scan(tuple(blocks), torn, unsafe, tuple(unknown[:UNKNOWN_MAX]))

    def _survives(self, length: int, *, same_boot: bool) -> bool:
        """A block that was not flushed may be torn after a crash of the machine; an empty one always is."""
        return length > 0 and (same_boot or length >= SYNC_MIN_BYTES)

    def _note_boot(self, boot_id: str) -> bool:
        try:
            before = _read_small(self._open("boot", os.O_RDONLY))
        except FileNotFoundError:
            before = ""
        if before != boot_id:
            _write_small(self._open("boot", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), boot_id)
        return before == boot_id

    def _files(self, unknown: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        for name in sorted(os.listdir(self._root_fd)):
            if name in _RESERVED:
                continue
            info = os.stat(name, dir_fd=self._root_fd, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode) or len(name) != 2 or not is_block_id(name * 16):
                unknown.append(name)
                continue
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root_fd)
            try:
                for inner in os.listdir(folder):
                    yield f"{name}/{inner}", os.stat(inner, dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=self._root_fd)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._root_fd)


def open_tier(spec: TierSpec, *, setting: str, mountinfo: str | None = None) -> TierDirectory:
    """Makes the directory if needed, locks it, and writes a new nonce.

    Raises:
        ConfigError: not a writable directory, or another worker holds it.
    """
    is_new = not spec.path.exists()
    try:
        spec.path.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        root_fd = os.open(spec.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigError(setting, f"{spec.path} is no directory that this worker can use: {e.strerror}") from e
    try:
        lock_fd = _lock(root_fd, spec.path, setting)
    except BaseException:
        os.close(root_fd)
        raise
    device = os.fstat(root_fd).st_dev
    in_memory = _is_tmpfs(device, mountinfo or _mountinfo())
    tier = TierDirectory(spec, root_fd, lock_fd, in_memory=in_memory, is_new=is_new)
    try:
        _replace_small(root_fd, "nonce", tier.nonce)
    except OSError as e:
        tier.undo()
        raise ConfigError(setting, f"{spec.path} is not writable: {e.strerror}") from e
    return tier


def boot_id() -> str:
    """The kernel's id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _lock(root_fd: int, path: Path, setting: str) -> int:
    """The locked descriptor. The file may be removed by a worker that failed to start: then there is a new one."""
    while True:
        try:
            fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=root_fd)
        except OSError as e:
            raise ConfigError(setting, f"{path} is not writable: {e.strerror}") from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat("lock", dir_fd=root_fd).st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:
            pass
        except OSError as e:
            os.close(fd)
            message = f"{path} belongs to another running worker; each needs a directory of its own"
            raise ConfigError(setting, message) from e
        os.close(fd)


def _name(block_id: str, suffix: str) -> str:
    return f"{block_id[:2]}/{block_id}.{suffix}"


def _found(name: str, info: os.stat_result) -> FoundBlock | None:
    folder, _, file = name.partition("/")
    block_id, _, suffix = file.partition(".")
    known = suffix in {"part", "blk"} and is_block_id(block_id) and block_id[:2] == folder
    if not known or not stat.S_ISREG(info.st_mode):
        return None
    return FoundBlock(block_id, info.st_size, info.st_mtime_ns)


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")


def _is_tmpfs(device: int, mountinfo: str) -> bool:
    """Whether the file system with this device number is tmpfs (proc(5): field 3 is major:minor, the type follows
    the lone hyphen)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        if head.split(" ")[2:3] == [wanted]:
            return tail.split(" ")[0] == "tmpfs"
    return False


def _read_small(fd: int) -> str:
    with os.fdopen(fd, "rb") as file:
        return file.read(256).decode("ascii", "replace")


def _write_small(fd: int, text: str) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode("ascii"))


def _replace_small(root_fd: int, name: str, text: str) -> None:
    """Writes a small file so that a reader sees the old text or the new one."""
    new = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=root_fd)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=root_fd)
    _write_small(fd, text)
    os.rename(new, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
