"""Mounting and unmounting: ``mount(2)`` as root, ``fusermount3`` otherwise, and clearing what a dead gateway left."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import queue
import re
import select
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forebay.errors import ConfigError
from forebay.runtime import logs

SETTING = "mountpoint"
FS_NAME = "forebay"
MOUNTINFO = Path("/proc/self/mountinfo")
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
FUSERMOUNT_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 10.0
FUSE_DEVICE = (10, 229)
LOG = logs.get(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Session:
    """A mount of the kernel. ``device`` is the open ``/dev/fuse``; ``privileged``: it was made by ``mount(2)``;
    ``number`` is its ``major:minor``, by which it is known from what others mount there later."""

    device: int
    mountpoint: Path
    privileged: bool
    number: str | None = None


def given(device: int, mountpoint: Path) -> Session:
    """The session of a device that somebody else has opened and mounted. Where we do not see the mount (it was made in
    another mount namespace), unmounting is the other's.

    Raises:
        ConfigError: it is no ``/dev/fuse``.
    """
    try:
        found = os.fstat(device)
    except OSError as e:
        raise ConfigError("fd", f"{device}: {e.strerror}") from e
    if not stat.S_ISCHR(found.st_mode) or (os.major(found.st_rdev), os.minor(found.st_rdev)) != FUSE_DEVICE:
        raise ConfigError("fd", f"{device} is no /dev/fuse")
    os.set_inheritable(device, False)
    where = mountpoint.absolute()
    return Session(device, where, os.geteuid() == 0, device_at(where))


def is_alive(device: int) -> bool:
    """Whether the kernel's end of a session still exists."""
    poll = select.poll()
    poll.register(device, 0)
    return not poll.poll(0)


def prepare(mountpoint: Path) -> Path:
    """The mount point, resolved and checked; a stale mount on it is detached first.

    Raises:
        ConfigError: missing, no directory, not empty, or something is mounted there already.
    """
    number = _probe(mountpoint)
    if number in (errno.ENOTCONN, errno.ECONNABORTED):
        LOG.warning("stale_mount_detached", mountpoint=str(mountpoint))
        detach(mountpoint)
    elif number == errno.ETIMEDOUT:
        raise ConfigError(SETTING, f"{mountpoint} does not answer: what is mounted there hangs")
    elif number:
        advice = "; create the directory first" if number == errno.ENOENT else ""
        raise ConfigError(SETTING, f"{mountpoint}: {os.strerror(number)}{advice}")
    resolved = mountpoint.resolve()
    if not resolved.is_dir():
        raise ConfigError(SETTING, f"{mountpoint} is no directory")
    if os.path.ismount(resolved):
        raise ConfigError(SETTING, f"{mountpoint} is a mount point already; unmount it or take another directory")
    try:
        names = os.listdir(resolved)
    except OSError as e:
        raise ConfigError(SETTING, f"{mountpoint}: {e.strerror}") from e
    if names:
        raise ConfigError(SETTING, f"{mountpoint} is not empty; files in it would be hidden")
    return resolved


def _probe(mountpoint: Path) -> int:
    """The errno of a look at the mount point; ETIMEDOUT if there is no answer (in a thread that may stay behind)."""
    found: queue.SimpleQueue[int] = queue.SimpleQueue()

    def look() -> None:
        try:
            os.statvfs(mountpoint)  # unlike stat, never answered from the kernel's cache
        except OSError as e:
            found.put(e.errno or errno.EIO)
        else:
            found.put(0)

    threading.Thread(target=look, name="mount-probe", daemon=True).start()
    try:
        return found.get(timeout=PROBE_TIMEOUT_S)
    except queue.Empty:
        return errno.ETIMEDOUT


def mount(mountpoint: Path, *, allow_other: bool, read_only: bool = True) -> Session:
    """Mounts on a prepared mount point; ``read_only``: the kernel refuses what would write, not we.

    Raises:
        ConfigError: no ``/dev/fuse``, no right to mount, no ``fusermount3``.
    """
    if os.geteuid() == 0:
        return _mount_as_root(mountpoint, allow_other=allow_other, read_only=read_only)
    return _mount_by_helper(mountpoint, allow_other=allow_other, read_only=read_only)


def _mount_as_root(mountpoint: Path, *, allow_other: bool, read_only: bool) -> Session:
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigError(SETTING, f"/dev/fuse cannot be opened: {e.strerror}; is the fuse module loaded?") from e
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions"
    options += ",allow_other" if allow_other else ""
    flags = (MS_RDONLY if read_only else 0) | MS_NOSUID | MS_NODEV
    target = os.fsencode(mountpoint)
    if _libc.mount(FS_NAME.encode(), target, f"fuse.{FS_NAME}".encode(), flags, options.encode()):
        number = ctypes.get_errno()
        os.close(device)
        advice = "; root needs CAP_SYS_ADMIN here" if number == errno.EPERM else ""
        raise ConfigError(SETTING, f"mounting on {mountpoint} failed: {os.strerror(number)}{advice}")
    return Session(device, mountpoint, True, device_at(mountpoint))


def _mount_by_helper(mountpoint: Path, *, allow_other: bool, read_only: bool) -> Session:
    helper = shutil.which("fusermount3")
    if helper is None:
        raise ConfigError(SETTING, "only root can mount without fusermount3; install it (Debian: fuse3) or run as root")
    options = f"{'ro' if read_only else 'rw'},nosuid,nodev,fsname={FS_NAME},subtype={FS_NAME},default_permissions"
    options += ",allow_other" if allow_other else ""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [helper, "-o", options, "--", str(mountpoint)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=FUSERMOUNT_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ConfigError(SETTING, f"fusermount3 refused: {done.stderr.strip()}")
        ours.settimeout(FUSERMOUNT_TIMEOUT_S)
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            device = array.array("i", data[:4])[0]
            os.set_inheritable(device, False)
            return Session(device, mountpoint, False, device_at(mountpoint))
    raise ConfigError(SETTING, "fusermount3 gave no device")


def unmount(session: Session) -> bool:
    """Unmounts; whether it could: not while files are open. Blocks; the device must be served meanwhile."""
    if session.privileged:
        if _libc.umount2(os.fsencode(session.mountpoint), UMOUNT_NOFOLLOW) == 0:
            return True
        return ctypes.get_errno() in (errno.EINVAL, errno.ENOENT)  # somebody else has unmounted it
    return _helper_unmount(session.mountpoint, lazy=False)


def detach(mountpoint: Path) -> None:
    """Takes a mount that a dead gateway left away from the tree.

    Raises:
        ConfigError: we may not.
    """
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), MNT_DETACH) == 0 or ctypes.get_errno() == errno.EINVAL:
            return
    elif _helper_unmount(mountpoint, lazy=True):
        return
    raise ConfigError(SETTING, f"the stale mount on {mountpoint} cannot be detached; run: umount -l {mountpoint}")


def abandon(session: Session) -> bool:
    """Takes our own mount away although it is in use, and ends every request that still waits (ECONNABORTED): nobody
    would answer them, and a notification that waits for one of them would keep this process from ending. Blocks."""
    if session.privileged:
        return not _libc.umount2(os.fsencode(session.mountpoint), MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW)
    return _helper_unmount(session.mountpoint, lazy=True)


def _helper_unmount(mountpoint: Path, *, lazy: bool) -> bool:
    helper = shutil.which("fusermount3")
    if helper is None:
        return False
    command = [helper, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, timeout=FUSERMOUNT_TIMEOUT_S, check=False)
    return done.returncode == 0


def is_there(session: Session) -> bool:
    """Whether this mount is still in the tree."""
    return session.number is not None and device_at(session.mountpoint) == session.number


def raise_read_ahead(session: Session, kib: int) -> bool:
    """Sets the mount's ``read_ahead_kb`` (INIT cannot go above 128); whether that was possible. The mount itself is not
    touched: the process that serves it must never wait for itself."""
    with contextlib.suppress(OSError):  # not root, or /sys is read-only (containers): it is only slower
        Path(f"/sys/class/bdi/{session.number}/read_ahead_kb").write_text(str(kib))
        return True
    return False


def device_at(mountpoint: Path) -> str | None:
    """``major:minor`` of what is mounted on a path, without touching it."""
    return device_of(MOUNTINFO.read_bytes(), os.fsencode(mountpoint))


def device_of(mountinfo: bytes, mountpoint: bytes) -> str | None:
    """``major:minor`` of what is mounted (last) on a path, from the text of ``mountinfo`` (proc(5))."""
    found = None
    for line in mountinfo.splitlines():
        fields = line.split(b" ")
        if len(fields) > 4 and _unescape(fields[4]) == mountpoint:
            found = fields[2].decode()
    return found


def give_memory_back() -> None:
    """Has the C library return the pages that nothing lies in; nothing where it cannot."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def stack_depth(paths: Iterable[Path]) -> int:
    """How deep file systems are stacked where files of ``paths`` pass through this mount: 2 if one lies on overlayfs
    (the root of a container), else 1. Deeper than needed would forbid an overlay on top of the mount."""
    numbers = set()
    for path in paths:
        with contextlib.suppress(OSError):
            number = os.stat(path).st_dev
            numbers.add(f"{os.major(number)}:{os.minor(number)}".encode())
    return 2 if numbers & overlays(MOUNTINFO.read_bytes()) else 1


def overlays(mountinfo: bytes) -> set[bytes]:
    """``major:minor`` of every overlayfs in the text of ``mountinfo`` (proc(5))."""
    return {line.split(b" ")[2] for line in mountinfo.splitlines() if b" - overlay " in line}


def _unescape(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), path)
