"""A gateway that is killed at a named point of its life: ``python -m tests.crash.mortal POINT OP MARK arguments``.

``POINT`` is ``came`` (the request is in its slot), ``written`` (its effects are in the journal, the reply is not out)
or ``answered`` (the reply is out, the slot is not cleared). It dies at the first request ``OP`` for which the file
``MARK`` exists, and takes the file with it: its successor lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from forebay.runtime import load, run
from forebay_fuse.app import Service, serve
from forebay_fuse.command import arguments
from forebay_fuse.memfd import MemfdJournal
from forebay_fuse.protocol import layout
from forebay_fuse.settings import FuseSettings


class Mortal(MemfdJournal):
    """A journal that kills its process."""

    point, opcode, mark = "", 0, Path()

    def __init__(self, fds: Sequence[int]) -> None:
        super().__init__(fds)
        self.doomed = -1

    def came(self, request: memoryview) -> bool:
        """A request is here."""
        good = super().came(request)
        if int.from_bytes(request[4:8], "little") == self.opcode and self.mark.exists():
            self.doomed = int.from_bytes(request[8:16], "little")
            self.die_at("came", self.doomed)
        return good

    def write(self, unique: int) -> None:
        """What has no reply has its effects only here."""
        super().write(unique)
        if self.opcode in layout.SILENT:
            self.die_at("written", unique)

    def answering(self, unique: int) -> None:
        """The reply is next."""
        super().answering(unique)
        self.die_at("written", unique)

    def answered(self, unique: int) -> None:
        """The reply is out."""
        self.die_at("answered", unique)
        super().answered(unique)

    def die_at(self, point: str, unique: int) -> None:
        """Dies, if this is the point and the request."""
        if point == self.point and unique == self.doomed:
            self.mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class MortalService(Service):
    """The gateway, with that journal."""

    make_journal = staticmethod(Mortal.make)
    open_journal = staticmethod(Mortal.open_kept)


def main() -> int:
    """The process."""
    Mortal.point, Mortal.opcode, Mortal.mark = sys.argv[1], layout.Op[sys.argv[2]], Path(sys.argv[3])
    settings = load(FuseSettings, arguments(sys.argv[4:]), prog="mortal", version="0", description="dies")
    return run(lambda: serve(settings, MortalService))


if __name__ == "__main__":
    sys.exit(main())
