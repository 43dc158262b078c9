"""A data helper: answers READs on ``/dev/fuse`` for the gateway that reads it. Standard library only, no policy.

``python -m forebay_fuse.helper SOCKET DEVICE PIPE_BYTES PARENT``, started by the gateway (`helpers`) with two
descriptors of it. Each job that comes by the socket brings the block files with it, is spliced to the device, and is
told to be over. It holds nothing else, so it may be killed at any time: the gateway answers what was in its hands. It
ends with the gateway, at once.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Sequence

from forebay_fuse.parents import die_with_parent
from forebay_fuse.pipes import reply_pipe
from forebay_fuse.protocol import jobs
from forebay_fuse.splice import Piece, Pipe

GONE = (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED)
"""Nobody waits for this reply any more."""


class Helper:
    """One job after the other."""

    def __init__(self, sock: socket.socket, device: int, pipe: Pipe) -> None:
        self.sock, self.device, self.pipe = sock, device, pipe

    def run(self) -> None:
        """Until the gateway is gone."""
        while True:
            message, fds, _, _ = socket.recv_fds(self.sock, jobs.JOB_BYTES_MAX, jobs.FDS_MAX)
            if not message:
                return
            header, places = jobs.pieces_of(message)
            try:
                answered = self.answer(header, places, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            self.sock.send(jobs.end(jobs.unique_of(header), answered=answered))

    def answer(self, header: bytes, places: Sequence[tuple[int, int]], fds: Sequence[int]) -> bool:
        """One reply; False if the gateway must see to it."""
        pieces = [Piece(fd, offset, length) for fd, (offset, length) in zip(fds, places, strict=False)]
        if len(pieces) != len(places) or not self.pipe.fill(header, pieces):
            return False
        length = len(header) + sum(piece.length for piece in pieces)
        try:
            if len(fds) > len(places):
                self.pipe.send(fds[-1], length, offset=0)
            else:
                self.pipe.send(self.device, length)
        except OSError as e:
            return e.errno in GONE
        return True


def main() -> int:
    """The process; its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):  # of a terminal or a container: the gateway says when it is over
        signal.signal(number, signal.SIG_IGN)
    sock, device, pipe_bytes, parent = map(int, sys.argv[1:5])
    if not die_with_parent(parent):
        return 0
    with socket.socket(fileno=sock) as connection:
        try:
            Helper(connection, device, Pipe(lambda: reply_pipe(pipe_bytes))).run()
        except (ConnectionResetError, BrokenPipeError):
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
