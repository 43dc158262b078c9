"""Mounting and unmounting: ``mount(2)`` as root, ``fusermount3`` otherwise, and clearing what a dead gateway left."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from forebay.errors import ConfigError
from forebay.runtime import logs

SETTING = "mountpoint"
FS_NAME = "forebay"
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_DETACH = 2
FUSERMOUNT_TIMEOUT_S = 10.0
LOG = logs.get(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Session:
    """A mount of the kernel. ``device`` is the open ``/dev/fuse``; ``privileged``: it was made by ``mount(2)``."""

    device: int
    mountpoint: Path
    privileged: bool


def prepare(mountpoint: Path) -> Path:
    """The mount point, resolved and checked; a stale mount on it is detached first.

    Raises:
        ConfigError: missing, no directory, not empty, or something is mounted there already.
    """
    try:
        os.statvfs(mountpoint)  # unlike stat, never answered from the kernel's cache
    except OSError as e:
        if e.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            advice = "; create the directory first" if e.errno == errno.ENOENT else ""
            raise ConfigError(SETTING, f"{mountpoint}: {e.strerror}{advice}") from e
        LOG.warning("stale_mount_detached", mountpoint=str(mountpoint))
        detach(mountpoint)
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


def mount(mountpoint: Path, *, allow_other: bool) -> Session:
    """Mounts read-only on a prepared mount point.

    Raises:
        ConfigError: no ``/dev/fuse``, no right to mount, no ``fusermount3``.
    """
    if os.geteuid() == 0:
        return _mount_as_root(mountpoint, allow_other=allow_other)
    return _mount_by_helper(mountpoint, allow_other=allow_other)


def _mount_as_root(mountpoint: Path, *, allow_other: bool) -> Session:
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigError(SETTING, f"/dev/fuse cannot be opened: {e.strerror}; is the fuse module loaded?") from e
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions"
    options += ",allow_other" if allow_other else ""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    target = os.fsencode(mountpoint)
    if _libc.mount(FS_NAME.encode(), target, f"fuse.{FS_NAME}".encode(), flags, options.encode()):
        number = ctypes.get_errno()
        os.close(device)
        raise ConfigError(SETTING, f"mounting on {mountpoint} failed: {os.strerror(number)}")
    return Session(device, mountpoint, True)


def _mount_by_helper(mountpoint: Path, *, allow_other: bool) -> Session:
    helper = shutil.which("fusermount3")
    if helper is None:
        raise ConfigError(SETTING, "only root can mount without fusermount3; install it (Debian: fuse3) or run as root")
    options = f"ro,nosuid,nodev,fsname={FS_NAME},subtype={FS_NAME},default_permissions"
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
            return Session(device, mountpoint, False)
    raise ConfigError(SETTING, "fusermount3 gave no device")


def unmount(session: Session) -> bool:
    """Unmounts; whether it could: not while files are open. Blocks; the device must be served meanwhile."""
    if session.privileged:
        if _libc.umount2(os.fsencode(session.mountpoint), 0) == 0:
            return True
        return ctypes.get_errno() in (errno.EINVAL, errno.ENOENT)  # somebody else has unmounted it
    return _helper_unmount(session.mountpoint, lazy=False)


def detach(mountpoint: Path) -> None:
    """Takes the mount away from the tree at once; what is open ends with its last close.

    Raises:
        ConfigError: we may not.
    """
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), MNT_DETACH) == 0 or ctypes.get_errno() == errno.EINVAL:
            return
    elif _helper_unmount(mountpoint, lazy=True):
        return
    raise ConfigError(SETTING, f"the stale mount on {mountpoint} cannot be detached; run: umount -l {mountpoint}")


def _helper_unmount(mountpoint: Path, *, lazy: bool) -> bool:
    helper = shutil.which("fusermount3")
    if helper is None:
        return False
    command = [helper, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, timeout=FUSERMOUNT_TIMEOUT_S, check=False)
    return done.returncode == 0


def raise_read_ahead(mountpoint: Path, kib: int) -> bool:
    """Sets the mount's ``read_ahead_kb`` (INIT cannot go above 128); whether that was possible. Blocks: it stats the
    mount, so the device must be served by another thread."""
    device = os.stat(mountpoint).st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        path.write_text(str(kib))
        return True
    return False
