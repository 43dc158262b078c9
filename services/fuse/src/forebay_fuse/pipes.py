"""Pipes that replies are spliced through."""

from __future__ import annotations

import contextlib
import fcntl
import os

PIPE_BYTES_ALLOWED = 1 << 20


def reply_pipe(size: int) -> tuple[int, int, int]:
    """A non-blocking pipe for replies: both ends, and its capacity, which is ``size`` bytes or as near as the system
    allows (an ordinary user may have 1 MiB, ``/proc/sys/fs/pipe-max-size``)."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for wanted in (size, PIPE_BYTES_ALLOWED):
        with contextlib.suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, wanted)
            break
    return reading, writing, fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
