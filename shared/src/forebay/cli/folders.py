"""Private folders of a running cluster, and sweeping those that a killed command left behind.

Each folder holds a file that its owner keeps locked (flock(2)); the kernel lets go of the lock with the owner. So a
folder whose lock can be taken belongs to nobody any more, and the next command removes it: blocks in /dev/shm would
hold memory until the machine restarts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "forebay-"
LOCK_NAME = "owner.lock"


class OwnedFolder:
    """A new private folder below ``parent``; ``remove`` takes it away."""

    def __init__(self, parent: Path) -> None:
        """Raises OSError where it cannot be made."""
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
        self._fd = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with all that it holds; a second time does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sweep(parent: Path) -> list[Path]:
    """Remove folders of ours below ``parent`` that no living process owns; gives what was removed."""
    removed = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        try:
            fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # no lock (not such a folder, or just being made), or another user's
            continue
        try:
            if os.fstat(fd).st_uid != os.getuid():
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
        finally:
            os.close(fd)
    return removed
