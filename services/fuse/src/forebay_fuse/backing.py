"""Backing files of passthrough: the kernel takes an open block file and gives a number for it, and takes that back.

Needs ``CAP_SYS_ADMIN`` and Linux 6.9. The kernel keeps a reference of its own, so our descriptor may be closed at once
and thousands of files may be open without any of ours.
"""

from __future__ import annotations

import errno
import fcntl
from typing import Protocol

from forebay.runtime import logs
from forebay_fuse.protocol import layout

HOPELESS = (errno.EPERM, errno.ENOTTY, errno.ENOSYS)
"""Refusals that the next file would meet as well: no privilege, or a kernel without passthrough."""

LOG = logs.get(__name__)


class Backings(Protocol):
    """Who registers backing files."""

    def open(self, fd: int) -> int:
        """The backing id of an open file. Raises OSError."""

    def close(self, backing_id: int) -> None:
        """Gives it back. Raises OSError."""


class DeviceBackings:
    """Backing files of the session behind ``device`` (``/dev/fuse``)."""

    def __init__(self, device: int) -> None:
        self._device = device

    def open(self, fd: int) -> int:
        """See `Backings`."""
        wanted = bytearray(layout.BACKING_MAP.pack(fd, 0, 0))  # of bytes, ioctl would give bytes back and not the id
        backing_id: int = fcntl.ioctl(self._device, layout.IOC_BACKING_OPEN, wanted, True)
        return backing_id

    def close(self, backing_id: int) -> None:
        """See `Backings`."""
        fcntl.ioctl(self._device, layout.IOC_BACKING_CLOSE, layout.BACKING_ID.pack(backing_id))
