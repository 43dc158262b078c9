"""Is the mount alive? ``forebay-fuse --probe DIR`` (or ``python probe.py DIR``), for health checks.

Standard library only. A child process asks the mount for its ``statvfs``, which the kernel never answers by itself. If
there is no answer within the deadline the child is left behind, for who waits for a dead mount cannot be ended; this
process never waits.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence

DEADLINE_S = 2.0
ALIVE, DEAD, USAGE = 0, 1, 2


def ask(directory: str) -> str:
    """What is wrong with the mount on ``directory``; an empty text: nothing. May wait for ever."""
    try:
        os.statvfs(directory)
        if os.stat(directory).st_dev == os.stat(os.path.dirname(os.path.abspath(directory))).st_dev:
            return "nothing is mounted there"
    except OSError as e:
        return e.strerror or str(e.errno)
    return ""


def probe(directory: str, deadline_s: float = DEADLINE_S) -> str:
    """As `ask`, but within ``deadline_s``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.write(writing, ask(directory).encode() or b"\0")
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        if select.select([answer], [], [], deadline_s)[0]:
            said = answer.read()
            os.waitpid(child, 0)
            return said.decode().strip("\0") if said else "the probe died"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, os.WNOHANG)
    return f"no answer within {deadline_s} s"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 if the mount answers, else 1 and a line that says why."""
    parser = argparse.ArgumentParser(prog="forebay-fuse --probe", description="Asks a mount whether it is alive.")
    parser.add_argument("directory")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds to wait for an answer")
    args = parser.parse_args(argv)
    wrong = probe(args.directory, args.deadline)
    if wrong:
        sys.stderr.write(f"{args.directory}: {wrong}\n")
    return DEAD if wrong else ALIVE


if __name__ == "__main__":
    sys.exit(main())
