"""What a program does to a mount while its gateway dies: ``python acts.py OP DIR``. Standard library only."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path


def drop_names() -> None:
    """The kernel forgets the names and inodes that nobody uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def look_up(mount: Path) -> object:
    """A name that the kernel does not know yet."""
    return (mount / "file-1").stat().st_size


def read_file(mount: Path) -> object:
    """Open, read, close."""
    return hashlib.sha256((mount / "file-2").read_bytes()).hexdigest()


def list_names(mount: Path) -> object:
    """Many names, with their attributes."""
    return sorted(p.name for p in (mount / "many").iterdir())


def forget(mount: Path) -> object:
    """The kernel gives back what was listed."""
    names = list_names(mount)
    drop_names()
    return names


ACTS: dict[str, Callable[[Path], object]] = {
    "LOOKUP": look_up, "OPEN": read_file, "READ": read_file, "RELEASE": read_file, "READDIRPLUS": list_names,
    "OPENDIR": list_names, "GETATTR": look_up, "BATCH_FORGET": forget,
}  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(str(ACTS[sys.argv[1]](Path(sys.argv[2]))))
