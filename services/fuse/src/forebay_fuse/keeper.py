"""The keeper: holds the descriptors of a mount, so that the mount outlives its gateway. Standard library only.

``python keeper.py SOCKET``. It knows nothing of what it holds. One gateway at a time is connected (SOCK_SEQPACKET):

* it is greeted with ``held`` and the descriptors, or with ``none``;
* ``hold`` with descriptors (first ``/dev/fuse``, then whatever the gateway needs) replaces what is held: ``ok``;
* ``over``: the mount is gone, the keeper ends: ``ok``.

A connection that ends otherwise is a gateway that died; the next one, which waits in the queue, gets what is held. The
keeper ends as well when the kernel says that the mount is gone, and at SIGTERM; the socket goes with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys

FDS_MAX = 8
MESSAGE_BYTES = 64
QUEUE = 8
PATH_BYTES_MAX = 107
LOOK_MS = 500
"""How often the mount is looked at; only somebody else's unmount is noticed so."""


class Over(Exception):
    """The mount is gone."""


class Keeper:
    """What is held, and the loop. Invariant: every descriptor in ``held`` is open and ours."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.held: list[int] = []

    def run(self) -> None:
        """One gateway after the other, until the mount is over."""
        with contextlib.suppress(Over):
            while True:
                self.wait(self.listener)
                gateway, _ = self.listener.accept()
                with gateway:
                    self.serve(gateway)

    def wait(self, sock: socket.socket) -> None:
        """Until there is something to read; raises `Over` when the kernel has ended what is held.

        The device is looked at now and then: whoever waits on it is woken by every request (5 to 8 µs each, seen).
        """
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while not poll.poll(LOOK_MS):
            if self.is_over():
                raise Over

    def is_over(self) -> bool:
        """Whether the mount is gone: POLLERR comes unasked."""
        if not self.held:
            return False
        device = select.poll()
        device.register(self.held[0], 0)
        return bool(device.poll(0))

    def serve(self, gateway: socket.socket) -> None:
        """One gateway, until it is gone."""
        if not is_ours(gateway):
            say("a stranger was refused")
            return
        try:
            socket.send_fds(gateway, [b"held" if self.held else b"none"], self.held)
            say("a gateway came")
            while self.heard(gateway):
                pass
        except OSError as e:
            say(f"the connection failed: {e.strerror}")
        say("the gateway is gone; its mount is kept" if self.held else "the gateway is gone")

    def heard(self, gateway: socket.socket) -> bool:
        """Does one thing that the gateway wants; False when it is gone."""
        self.wait(gateway)
        message, fds, _, _ = socket.recv_fds(gateway, MESSAGE_BYTES, FDS_MAX)
        if message == b"hold" and fds:
            old, self.held = self.held, fds
            close(old)
        else:
            close(fds)
        if message in (b"hold", b"over"):
            gateway.send(b"ok")
        if message == b"over":
            raise Over
        return bool(message)


def is_ours(gateway: socket.socket) -> bool:
    """Whether the peer is the user that we are, or root."""
    credentials = gateway.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # pid, uid, gid
    return int.from_bytes(credentials[4:8], sys.byteorder) in (0, os.geteuid())


def close(fds: list[int]) -> None:
    """Closes all."""
    for fd in fds:
        os.close(fd)


def listen(path: str) -> socket.socket:
    """The socket, for our user alone; one that a dead keeper left is replaced. Raises OSError."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {PATH_BYTES_MAX} bytes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, "another keeper is there")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(QUEUE)
    return listener


def say(text: str) -> None:
    """A log line."""
    sys.stderr.write(f"keeper: {text}\n")


def main() -> int:
    """The process; its exit code (2: it cannot listen)."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    path = sys.argv[1]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        listener = listen(path)
    except OSError as e:
        sys.stderr.write(f"error: keeper: {path}: {e.strerror}\n")
        return 2
    try:
        Keeper(listener).run()
        say("the mount is over")
    finally:
        os.unlink(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
