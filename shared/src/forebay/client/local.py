"""Short circuit by file: blocks of workers on this host, opened in place.

A directory is known to be a live worker's by the nonce file that the worker keeps there, new at every start; host
names and paths from registrations mean nothing (DESIGN 6). Everything is opened beneath the configured directory with
no symlink followed, regular files only, and a block only if its length is right. A name ending in ``.blk`` is a
promise of completeness, and an open descriptor keeps its bytes whatever the worker evicts.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from forebay.contracts import Member
from forebay.contracts.records import TierName

_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class LocalDir:
    """A tier directory on this host that a live worker owns; ``fd`` is the open directory, ``subs`` are those below it
    (at most 256, by the first two digits of the blocks' ids)."""

    fd: int
    member_id: str
    tier: TierName
    subs: dict[str, int] = field(default_factory=dict, compare=False)

    def close(self) -> None:
        """Closes them."""
        for fd in (*self.subs.values(), self.fd):
            os.close(fd)
        self.subs.clear()


class LocalBlock:
    """An open, complete block file. A reader's: use it before the next await, don't close it. ``Client.open_block``'s:
    close it.

    ``fd`` is read-only (-1 once given up); ``length`` is the block's; ``count`` tells that bytes were read past the
    worker, which hears of it in a touch report.
    """

    __slots__ = ("_dirs", "block_id", "fd", "length", "member_id", "opens", "read_bytes", "tier")

    def __init__(self, dirs: LocalDirs, fd: int, block_id: str, length: int, owner: LocalDir) -> None:
        self._dirs = dirs
        self.fd = fd
        self.block_id = block_id
        self.length = length
        self.member_id = owner.member_id
        self.tier: TierName = owner.tier
        self.opens = 1
        self.read_bytes = 0

    def count(self, read_bytes: int) -> None:
        """``read_bytes`` were read from ``fd``, or from a mapping of it that outlived ``close``."""
        if self.fd < 0 and not self.read_bytes:
            self._dirs.ended.append(self)
        self.read_bytes += read_bytes
        self._dirs.on_read(read_bytes)

    def detach(self) -> None:
        """Close the descriptor, but go on telling the worker that the block is open: the kernel holds the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._dirs.detached(self)

    def again(self) -> None:
        """A detached block was opened once more."""
        self._dirs.opened_again(self)

    def close(self) -> None:
        """Close the descriptor (once); what was counted goes into the next report."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._dirs.closed(self)
        else:
            self._dirs.detached_blocks.discard(self)


class LocalDirs:
    """The configured directories, which of them belong to live workers, and the blocks open in them."""

    def __init__(
        self, paths: tuple[Path, ...], *, blocks_max: int, on_read: Callable[[int], None] = lambda _: None
    ) -> None:
        self.on_read = on_read
        self._paths = paths
        self._blocks_max = blocks_max
        self._dirs: tuple[LocalDir, ...] = ()
        self.open_blocks: set[LocalBlock] = set()
        self.detached_blocks: set[LocalBlock] = set()
        self.ended: list[LocalBlock] = []

    @property
    def usable(self) -> bool:
        """Whether a live worker's directory was found here."""
        return bool(self._dirs)

    @property
    def member_ids(self) -> frozenset[str]:
        """Workers that were found on this host."""
        return frozenset(d.member_id for d in self._dirs)

    def refresh(self, members: Iterable[Member]) -> None:
        """Read the nonces anew and match them with ``members``; blocks that are open stay open."""
        known = {t.nonce: (m.member_id, t.tier) for m in members for t in m.tiers}
        found: list[LocalDir] = []
        for path in self._paths if known else ():
            fd = _open_dir(path)
            if fd is None:
                continue
            owner = known.get(_read_nonce(fd) or "")
            if owner is None:
                os.close(fd)
            else:
                found.append(LocalDir(fd, *owner))
        old, self._dirs = self._dirs, tuple(found)
        _close_all(old)

    def open(self, block_id: str, length: int, *, home: str | None = None) -> LocalBlock | None:
        """The whole block ``block_id`` if a directory here holds it (its home's is tried first), else ``None``."""
        if not self._dirs or len(self.open_blocks) >= self._blocks_max:
            return None
        dirs = self._dirs
        for owner in dirs if len(dirs) == 1 else sorted(dirs, key=lambda d: d.member_id != home):
            fd = _open_block(owner, block_id, length)
            if fd is not None:
                block = LocalBlock(self, fd, block_id, length, owner)
                self.open_blocks.add(block)
                return block
        return None

    def has(self, block_id: str, length: int) -> bool:
        """Whether a directory here holds the whole block; it does not count as a read."""
        for owner in self._dirs:
            fd = _open_block(owner, block_id, length)
            if fd is not None:
                os.close(fd)
                return True
        return False

    def closed(self, block: LocalBlock) -> None:
        """A block was closed; its counts wait for the next report."""
        self.open_blocks.discard(block)
        if block.opens or block.read_bytes:
            self.ended.append(block)

    def detached(self, block: LocalBlock) -> None:
        """A block gave up its descriptor; that it was opened waits for the next report."""
        self.open_blocks.discard(block)
        self.detached_blocks.add(block)
        self.ended.append(block)

    def opened_again(self, block: LocalBlock) -> None:
        """One open more of a detached block."""
        if not block.opens and not block.read_bytes:
            self.ended.append(block)
        block.opens += 1

    def close(self) -> None:
        """Close every block and directory."""
        for block in tuple(self.open_blocks):
            block.close()
        old, self._dirs = self._dirs, ()
        _close_all(old)


def _close_all(dirs: tuple[LocalDir, ...]) -> None:
    for d in dirs:
        d.close()


def _open_dir(path: Path) -> int | None:
    try:
        return os.open(path, _DIR_FLAGS)
    except OSError:  # not there (yet), or not ours to read: the remote way is always open
        return None


def _read_nonce(dir_fd: int) -> str | None:
    fd = _open_regular("nonce", dir_fd)
    if fd is None:
        return None
    try:
        text = os.read(fd, 64).decode("ascii", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)
    return text if _NONCE.fullmatch(text) else None


def _open_block(owner: LocalDir, block_id: str, length: int) -> int | None:
    name, prefix = f"{block_id}.blk", block_id[:2]
    sub = owner.subs.get(prefix)
    if sub is not None:
        fd = _open_regular(name, sub, length)
        if fd is not None:
            return fd
        os.close(owner.subs.pop(prefix))  # it may have been removed and made anew
    try:
        sub = owner.subs[prefix] = os.open(prefix, _DIR_FLAGS | os.O_NOFOLLOW, dir_fd=owner.fd)
    except OSError:
        return None
    return _open_regular(name, sub, length)


def _open_regular(name: str, dir_fd: int, length: int | None = None) -> int | None:
    """An open regular file, of this length if one is given."""
    try:
        fd = os.open(name, _FILE_FLAGS, dir_fd=dir_fd)
    except OSError:
        return None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and length in (None, found.st_size):
        return fd
    os.close(fd)
    return None
