"""Unix sockets by paths of any length, and never through a symlink in the last place.

The kernel takes 107 bytes of path (unix(7)), less than a folder deep in a tree. A descriptor's name in ``/proc`` is
short and stands for the folder, or for the socket itself.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATH_BYTES_MAX = 107
BACKLOG = 1024


@contextmanager
def reached(path: str) -> Iterator[str]:
    """A short name of the socket at ``path``, good inside the block.

    Raises:
        OSError: nothing is there, or no socket.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def listening(path: Path, mode: int) -> socket.socket:
    """A new socket that listens at ``path``. Raises OSError."""
    claim(path)
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX)
    try:
        fits = len(os.fsencode(path)) <= PATH_BYTES_MAX
        made.bind(str(path) if fits else f"/proc/self/fd/{fd}/{path.name}")
        os.chmod(path, mode)
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    finally:
        os.close(fd)
    return made


def claim(path: Path) -> None:
    """Unlinks a socket that nobody listens on any more (uvloop would unlink a living one as well).

    Raises:
        OSError: somebody listens there, or it is no socket.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.EEXIST, "it exists and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(f"/proc/self/fd/{fd}")
            except ConnectionRefusedError:
                path.unlink()
                return
    finally:
        os.close(fd)
    raise OSError(errno.EADDRINUSE, "somebody listens there")
