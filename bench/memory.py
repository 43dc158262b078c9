"""Memory of the machine as all benches need it: caches dropped, and free memory that stays free."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORGET_S = 0.3
KEPT_EVERY = 1 << 17


def drop_caches(what: int = 1) -> None:
    """Drops clean page cache (1), names and inodes (2) or both (3). Files on tmpfs keep theirs: they are the files.

    A file system hears of names that were dropped afterwards; it gets some time for that, whoever it is.
    """
    Path("/proc/sys/vm/drop_caches").write_text(str(what))
    if what & 2:
        time.sleep(FORGET_S)


@contextmanager
def kept_memory(size: int) -> Iterator[None]:
    """Meanwhile ``size`` bytes of free memory stay ours, if this is a virtual machine that reports what is free to its
    host: one page in 32 is in use, and what is reported is 2 MiB in one piece.

    The host takes such memory back within seconds, and its first use then was seen to take up to 1.8 s a GiB instead of
    0.2: in one run of three, and only on the side that needs new memory. It says nothing about either side.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE) as memory:
        for start in range(0, size, KEPT_EVERY):
            memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, KEPT_EVERY - mmap.PAGESIZE)
        yield
