"""One directory of a file system, whole: names with what `stat` says, as columns. Also a program that scans for others.

`stat` lets go of the interpreter's lock for each name, so a scan on a thread waits for a busy neighbour again and
again (CPython's switch interval is 5 ms). A process of its own does not: ``python scan.py`` answers on stdout what
stdin asks. For that it starts in 15 ms, with the standard library alone: nothing of Forebay is imported here.
"""

from __future__ import annotations

import marshal
import os
import stat as st
import sys
from typing import BinaryIO

DIRECTORY_MODE = st.S_IFDIR | 0o555
"""Directories are shown with these rights, whatever theirs are."""

LENGTH_BYTES = 4
"""In front of each message, big end first."""

Columns = tuple[list[str], list[int], list[int], list[int], list[str], list[str], int]
"""Names in byte order, modes, sizes, mtimes in ns, fingerprints (what changes with the content: mtime, size, inode;
"" for directories); apart, the names of links; how many names were left out for what they are."""


class OutsideError(Exception):
    """The directory is not below the root, links followed."""


def scan(root: str, directory: str, names_max: int) -> Columns | None:
    """The directory ``directory`` below the real path ``root``; ``None`` if it has more names than that.

    Raises:
        OutsideError: it lies elsewhere. OSError: it cannot be read.
    """
    descriptor = os.open(os.path.join(root, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        really = os.readlink(f"/proc/self/fd/{descriptor}")
        if not f"{really}/".startswith(root.rstrip("/") + "/"):
            raise OutsideError(directory)
        return _scan(descriptor, names_max)
    finally:
        os.close(descriptor)


def _scan(descriptor: int, names_max: int) -> Columns | None:
    rows: list[tuple[str, int, int, int, str]] = []
    links: list[str] = []
    skipped = 0
    is_link, is_file, is_directory = st.S_IFLNK, st.S_IFREG, st.S_IFDIR
    with os.scandir(descriptor) as found:
        for entry in found:
            name = entry.name
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                skipped += 1
                continue
            kind, changed_ns = status.st_mode & 0o170000, status.st_mtime_ns
            if not name.isascii() and not _is_text(name):
                skipped += 1
            elif kind == is_file:
                size = status.st_size
                version = f"{changed_ns:x}-{size:x}-{status.st_ino:x}"
                rows.append((name, status.st_mode & 0o777, size, changed_ns, version))
            elif kind == is_directory:
                rows.append((name, DIRECTORY_MODE, 0, changed_ns, ""))
            elif kind == is_link:
                links.append(name)
            else:
                skipped += 1
            if len(rows) + len(links) > names_max:
                return None
    rows.sort()
    names, modes, sizes, mtimes_ns, versions = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    return names, modes, sizes, mtimes_ns, versions, links, skipped


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer(asked: bytes) -> bytes:
    """What a request is answered with: columns or ``None``, or an error's number (0: `OutsideError`)."""
    try:
        return marshal.dumps((scan(*marshal.loads(asked)), None))
    except OutsideError:
        return marshal.dumps((None, 0))
    except OSError as e:
        return marshal.dumps((None, e.errno or 5))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers one request after the other until there are no more."""
    while head := source.read(LENGTH_BYTES):
        body = answer(source.read(int.from_bytes(head, "big")))
        sink.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        sink.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
