"""The gateway's side of the keeper: gets what is held, has it held, finds a keeper that was started anew."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from forebay.errors import ConfigError, NotReady
from forebay.runtime import Deadline, logs
from forebay_fuse.keeper import FDS_MAX, MESSAGE_BYTES

SETTING = "keeper"
RETRY_S = 0.1
REPLY_S = 5.0
LOG = logs.get(__name__)


class Keeping:
    """A connection to a keeper; ``held`` is what it had when we came (ours to close)."""

    def __init__(self, path: Path, sock: socket.socket, held: Sequence[int]) -> None:
        self._path, self._sock = path, sock
        self.held = tuple(held)
        self._ours: tuple[int, ...] = tuple(held)

    @classmethod
    async def connect(cls, path: Path, deadline: Deadline | None) -> Keeping:
        """Waits until the keeper is there, by ``deadline``, and then, for as long as it takes, until the gateway that
        is connected to it has ended.

        Raises:
            ConfigError: it may not be reached. NotReady: it did not come by the deadline, or does not want us.
        """
        while True:
            sock = await _connected(path, deadline)
            LOG.info("waits", path=str(path), what="until the gateway before us has ended")
            try:
                message, fds = await _receive(sock, None)
            except BaseException:
                sock.close()
                raise
            if message in (b"held", b"none"):
                for fd in fds:
                    os.set_inheritable(fd, False)
                return cls(path, sock, fds)
            sock.close()  # the keeper has ended meanwhile, or is another user's
            if deadline is None or deadline.expired:
                raise NotReady(f"the keeper at {path} hung up; is it another user's?", path=str(path))
            await asyncio.sleep(RETRY_S)

    async def hold(self, fds: Sequence[int]) -> None:
        """Has the keeper hold these, when it returns."""
        self._ours = tuple(fds)
        socket.send_fds(self._sock, [b"hold"], fds)
        await _answer(self._sock, self._path)

    async def over(self) -> None:
        """The mount is gone: the keeper ends. It may have seen so itself. ``watch`` must not be running any more."""
        with suppress(OSError, NotReady):
            self._sock.send(b"over")
            await _answer(self._sock, self._path)

    async def watch(self) -> None:
        """Returns never: comes back to a keeper that was started anew, and has it hold the mount."""
        while True:
            await _readable(self._sock)
            LOG.warning("keeper_lost", path=str(self._path), hint="until it is back the mount dies with this process")
            self._sock.close()
            while not await self._again():
                await asyncio.sleep(RETRY_S)
            LOG.info("keeper_back", path=str(self._path))

    async def _again(self) -> bool:
        try:
            other = await Keeping.connect(self._path, None)
        except (OSError, ConfigError, NotReady) as e:
            LOG.debug("keeper_not_back", error=str(e))
            return False
        for fd in other.held:
            os.close(fd)
        self._sock = other._sock
        try:
            await self.hold(self._ours)
        except (OSError, NotReady) as e:
            LOG.warning("keeper_refused", error=str(e))
            self._sock.close()
            return False
        return True

    def close(self) -> None:
        """Leaves; what is held stays held."""
        self._sock.close()


async def _connected(path: Path, deadline: Deadline | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    while True:
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as e:
            if deadline is not None and deadline.expired:
                sock.close()
                raise NotReady(f"no keeper at {path}: {e.strerror}", path=str(path)) from e
        except OSError as e:
            sock.close()
            raise ConfigError(SETTING, f"{path}: {e.strerror}") from e
        else:
            return sock
        await asyncio.sleep(RETRY_S)


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())


async def _receive(sock: socket.socket, timeout_s: float | None) -> tuple[bytes, list[int]]:
    async with asyncio.timeout(timeout_s):
        await _readable(sock)
    try:
        message, fds, _, _ = socket.recv_fds(sock, MESSAGE_BYTES, FDS_MAX)
    except ConnectionResetError:
        return b"", []
    return message, fds


async def _answer(sock: socket.socket, path: Path) -> None:
    try:
        message, _ = await _receive(sock, REPLY_S)
    except TimeoutError as e:
        raise NotReady(f"the keeper at {path} does not answer", path=str(path)) from e
    if message != b"ok":
        raise NotReady(f"the keeper at {path} is gone", path=str(path))
