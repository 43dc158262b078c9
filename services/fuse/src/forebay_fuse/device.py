"""The device loop: requests out of ``/dev/fuse`` into the gateway, replies back. One reader; no request can end it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence

from forebay.runtime import logs

BURST = 32
"""Requests taken from the device before other callbacks of the loop get their turn."""

_RETRY = (errno.EINTR, errno.ENOENT, errno.EAGAIN)
LOG = logs.get(__name__)

Buffer = bytes | bytearray | memoryview


class Device:
    """``/dev/fuse`` on an event loop. ``handle`` gets each request's bytes, good until it returns.

    ``ended`` is set when the kernel has unmounted the file system.
    """

    def __init__(self, fd: int, handle: Callable[[memoryview], None], *, request_max: int) -> None:
        self._fd = fd
        self._handle = handle
        self._buffer = memoryview(bytearray(request_max))
        self._vector = [self._buffer]
        self.ended = asyncio.Event()

    def start(self) -> None:
        """Begins to read."""
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stops reading and closes the device: what still waits in the kernel gets ENOTCONN."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.ended.set()

    def _readable(self) -> None:
        for _ in range(BURST):
            try:
                n = os.readv(self._fd, self._vector)
            except OSError as e:
                if e.errno in _RETRY:
                    if e.errno == errno.EAGAIN:
                        return
                    continue
                if e.errno != errno.ENODEV:
                    LOG.error("device_failed", error=str(e))
                asyncio.get_running_loop().remove_reader(self._fd)
                self.ended.set()
                return
            self._handle(self._buffer[:n])

    def reply(self, parts: Sequence[Buffer]) -> None:
        """Sends one reply, in one write. A request that was interrupted meanwhile has nobody to get it."""
        if self._fd < 0:
            return
        try:
            os.writev(self._fd, parts)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def notify(self, message: bytes) -> None:
        """Sends a notification. Blocks while the kernel waits for one of our replies: not on the loop."""
        try:
            os.write(self._fd, message)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF):
                LOG.warning("notification_failed", error=str(e))
