"""Opening a tier directory: made if needed, locked, with a new nonce. Blocking calls; ``directory`` has the layout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from forebay.contracts.blocks import is_block_id
from forebay.contracts.members import socket_name
from forebay.errors import ConfigError
from forebay_worker.directory import (
    DIRECTORY_MODE,
    FILE_MODE,
    NONCE_NAME,
    PRODUCTION,
    Manner,
    TierDirectory,
    TierSpec,
)
from forebay_worker.recovery import RESERVED, prepare


def open_tier(
    spec: TierSpec, *, setting: str, mountinfo: str | None = None, manner: Manner = PRODUCTION
) -> TierDirectory:
    """Makes the directory if needed (not those above it: a disk that is not mounted must not fill another one), locks
    it, and writes a new nonce.

    Raises:
        ConfigError: not a writable directory, or another worker holds it.
    """
    try:
        is_new = not spec.path.exists()
        spec.path.mkdir(DIRECTORY_MODE, exist_ok=True)
        root_fd = os.open(spec.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as e:
        message = f"{spec.path.parent} does not exist; mount its disk or make it, {spec.path.name} is made in it"
        raise ConfigError(setting, message) from e
    except OSError as e:
        raise ConfigError(setting, f"{spec.path} is no directory that this worker can use: {e.strerror}") from e
    try:
        lock_fd = _lock(root_fd, spec.path, setting)
    except BaseException:
        os.close(root_fd)
        raise
    device = os.fstat(root_fd).st_dev
    in_memory = _is_tmpfs(device, mountinfo or _mountinfo())
    nonce = secrets.token_hex(16)
    tier = TierDirectory(spec, root_fd, lock_fd, nonce=nonce, in_memory=in_memory, is_new=is_new, manner=manner)
    try:
        tier.mount_point = _mount_point(spec.path)
        tier.nonce_before = _nonce(root_fd)
        if tier.nonce_before is not None:
            tier.unlink(socket_name(tier.nonce_before))  # its worker was killed
        _replace_small(root_fd, NONCE_NAME, nonce)
    except OSError as e:
        undo(tier)
        raise ConfigError(setting, f"{spec.path} is not writable: {e.strerror}") from e
    return tier


def _nonce(root_fd: int) -> str | None:
    """What the directory's last owner wrote: it is dead, for we hold the lock. ``None`` if it is no nonce."""
    try:
        with open(os.open(NONCE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root_fd), "rb") as file:
            text = file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if is_block_id(text) else None


def reopen(tier: TierDirectory, boot: str) -> bool:
    """Opens the directory at a tier's path again after it was removed or replaced, and lets the tier go on in it.
    Whether it could be: while the disk is not mounted, what lies at the path is not ours, and nothing is made there.
    Raises what the file system says."""
    path = tier.spec.path
    if not _has_file_system(tier):
        return False
    path.parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    tier.unlock()
    fresh = open_tier(tier.spec, setting="tier_dirs", manner=tier.manner)
    try:
        prepare(fresh, boot)
    except BaseException:
        fresh.close()
        raise
    tier.take_over(fresh)
    return True


def _has_file_system(tier: TierDirectory) -> bool:
    """Whether the path lies on the file system that was opened, or on another one mounted at the same place."""
    path = tier.spec.path
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if os.stat(nearest).st_dev == tier.device:
        return True
    return tier.mount_point != Path("/") and tier.mount_point.is_mount()


def _mount_point(path: Path) -> Path:
    real = Path(os.path.realpath(path))
    return next(parent for parent in (real, *real.parents) if parent.is_mount())


def undo(tier: TierDirectory) -> None:
    """Closes, and removes the directory if this worker made it and put no block there: for a failed start."""
    if tier.is_new and set(os.listdir(tier.root_fd)) <= RESERVED:
        for name in os.listdir(tier.root_fd):
            with contextlib.suppress(IsADirectoryError):
                tier.unlink(name)
        with contextlib.suppress(OSError):
            tier.spec.path.rmdir()
    tier.close()


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
            message = f"{path} belongs to another running worker or is given twice; each needs a directory of its own"
            raise ConfigError(setting, message) from e
        os.close(fd)


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


def _replace_small(root_fd: int, name: str, text: str) -> None:
    """Writes a small file so that a reader sees the old text or the new one."""
    new = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=root_fd)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=root_fd)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode("ascii"))
    os.rename(new, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
