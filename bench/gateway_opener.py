"""Opens many small files and looks at many names: a program that knows nothing of us, the same for all sides.

``python -I gateway_opener.py MODE PROCESSES FOLDER`` forks, lets all start at once, and prints one JSON line. ``read``
opens, reads to the end and closes each file once; ``stat`` asks for each name's attributes; both take the names from
standard input, one a line, and deal them out in turn. ``list`` reads the folder with all attributes, once a process.
Names are relative: the folder's own path costs no side anything.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence

BUFFER_BYTES = 256 << 10
RESULT = struct.Struct("<qdd")
"""Count (bytes, or names seen), when it ended, the longest single step in seconds."""


def read_files(names: Sequence[str]) -> tuple[int, float]:
    """Bytes of all files, and the longest that one took."""
    buffers, total, longest, clock = [bytearray(BUFFER_BYTES)], 0, 0.0, time.perf_counter
    for name in names:
        began = clock()
        fd = os.open(name, os.O_RDONLY)
        while count := os.readv(fd, buffers):
            total += count
        os.close(fd)
        longest = max(longest, clock() - began)
    return total, longest


def stat_names(names: Sequence[str]) -> tuple[int, float]:
    """Names that have attributes; single steps are not timed."""
    for name in names:
        os.stat(name)
    return len(names), 0.0


def list_folder(_: Sequence[str]) -> tuple[int, float]:
    """Entries with attributes."""
    with os.scandir(".") as entries:
        return sum(entry.stat(follow_symlinks=False).st_nlink > 0 for entry in entries), 0.0


MODES: dict[str, Callable[[Sequence[str]], tuple[int, float]]] = {
    "read": read_files,
    "stat": stat_names,
    "list": list_folder,
}


def child(work: Callable[[Sequence[str]], tuple[int, float]], names: Sequence[str], go: int, result: int) -> None:
    """One process: says that it is there, waits for the start, works, reports."""
    os.write(result, b"\0")
    os.read(go, 1)
    count, longest = work(names)
    os.write(result, RESULT.pack(count, time.perf_counter(), longest))


def main() -> None:
    """The parent."""
    mode, processes, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    names = [] if mode == "list" else sys.stdin.read().splitlines()
    os.chdir(folder)
    go, start = os.pipe()
    results = []
    for number in range(processes):
        result, mine = os.pipe()
        if not os.fork():
            child(MODES[mode], names[number::processes], go, mine)
            os._exit(0)
        os.close(mine)
        results.append(result)
    for result in results:
        os.read(result, 1)
    began = time.perf_counter()
    os.write(start, bytes(processes))
    found = [RESULT.unpack(os.read(result, RESULT.size)) for result in results]
    seconds = max(ended for _, ended, _ in found) - began
    print(json.dumps({"seconds": seconds, "count": sum(f[0] for f in found), "longest_s": max(f[2] for f in found)}))


if __name__ == "__main__":
    main()
