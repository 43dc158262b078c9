"""The device loop: requests out of ``/dev/fuse`` into the gateway, replies back. One reader; no request can end it."""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

from forebay.runtime import logs
from forebay_fuse.journal import Intake
from forebay_fuse.protocol import layout, recovery, replies
from forebay_fuse.protocol.layout import Op
from forebay_fuse.splice import Piece, Pipe

BURST = 32
BURST_S = 0.003
"""Requests taken from the device, and time spent on them, before other callbacks of the loop get their turn: bytes that
arrive from workers are read by the same loop."""

SPIN_S = 30e-6
"""How long the device is asked again after a request that was not a READ, before the loop sleeps: a program that looks
at one name after the other sends the next within that time, and to wake this process takes longer than to answer it
(cold ``stat``: 1.6 times the rate for 1.07 times the CPU)."""

SPIN_CPUS = 2.0
"""With fewer, asking takes from the program what it waits for."""

NOTICES_MAX = 4096
"""Notifications that wait for the kernel. More are dropped: they save time, nothing depends on them."""

NOTICES_PAUSE_S = 0.002

_unique = layout.UNIQUE.unpack_from

_AGAIN = (errno.EINTR, errno.ENOENT)  # ENOENT: the request was interrupted before we could read it
_GONE = (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED)  # nobody waits for this reply any more
LOG = logs.get(__name__)

Buffer = bytes | bytearray | memoryview


class Device:
    """``/dev/fuse`` on an event loop. ``handle`` gets each request's bytes, good until it returns.

    ``ended`` is set when the kernel has unmounted the file system. ``spin_s``: see `SPIN_S`; ``burst_s``: see `BURST`.
    """

    def __init__(
        self,
        fd: int,
        handle: Callable[[memoryview], None],
        pipe: Pipe,
        intake: Intake,
        *,
        spin_s: float = 0.0,
        burst_s: float = BURST_S,
    ) -> None:
        self._fd = fd
        self._spin_s = spin_s
        self._burst_s = burst_s
        self._pipe = pipe
        self._handle = handle
        self._intake = intake
        self._reading = False
        self._full = False
        self._notices = Notices(self._write_notice)
        self.ended = asyncio.Event()

    @property
    def fd(self) -> int:
        """The open device; -1 once closed."""
        return self._fd

    def start(self) -> None:
        """Begins to read."""
        os.set_blocking(self._fd, False)
        self.resume()

    def pause(self) -> None:
        """Leaves further requests in the kernel."""
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._fd)

    def resume(self) -> None:
        """Reads (again)."""
        if not self._reading and self._fd >= 0 and not self.ended.is_set():
            self._reading = True
            asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stops reading and closes the device: what still waits in the kernel gets ENOTCONN."""
        self.pause()
        if self._fd >= 0:
            self._notices.close()
            os.close(self._fd)
            self._fd = -1
            self._pipe.close()
        self.ended.set()

    def _readable(self) -> None:
        until_s, next_until_s = time.monotonic() + self._burst_s, 0.0
        for _ in range(BURST):
            room = self._intake.room()
            if room is None:
                self._full = True
                self.pause()
                return
            try:
                n = self._receive(room, next_until_s)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in _AGAIN:
                    continue
                self._end(e)
                return
            is_read = room[layout.OPCODE_AT] == Op.READ
            self._take(room[:n])
            now_s = time.monotonic()
            if not self._reading or now_s > until_s:
                return
            next_until_s = 0.0 if is_read else now_s + self._spin_s

    def _receive(self, room: memoryview, until_s: float) -> int:
        """The next request's length; raises BlockingIOError if none comes until then."""
        while True:
            try:
                return os.readv(self._fd, [room])
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise

    def _take(self, request: memoryview) -> None:
        if self._intake.came(request):
            self._handle(request)
        else:
            self.reply([poisonous(request)])
        self._intake.handled(request)

    def resend(self) -> bool:
        """Has the kernel send again what was read and not answered; False if it cannot."""
        try:
            os.write(self._fd, recovery.resend())
        except OSError as e:
            LOG.warning("no_resend", error=str(e))
            return False
        return True

    def again(self, request: memoryview, *, poisoned: bool) -> None:
        """Handles a request that an earlier process has read; if ``poisoned`` it is given up (EIO)."""
        if poisoned:
            self.reply([poisonous(request)])
        else:
            self._handle(request)
        self._intake.handled(request)

    def _end(self, error: OSError) -> None:
        if error.errno not in (errno.ENODEV, errno.ECONNABORTED):  # not by an unmount
            LOG.error("device_failed", error=str(error))
        self.pause()
        self.ended.set()

    def reply(self, parts: Sequence[Buffer]) -> bool:
        """Sends one reply, in one write; whether the kernel took it. It does not when nobody waits any more."""
        if self._fd < 0:
            return False
        unique = _unique(parts[0], layout.UNIQUE_AT)[0]
        self._intake.answering(unique)
        try:
            if len(parts) == 1:
                os.write(self._fd, parts[0])
            else:
                os.writev(self._fd, parts)
        except OSError as e:
            return self._refused(e, sum(map(len, parts)))
        finally:
            self.answered(unique)
        return True

    def answered(self, unique: int) -> None:
        """The kernel has the reply, or does not want it."""
        self._intake.answered(unique)
        if self._full:
            self._full = False
            self.resume()

    def is_awaited(self, unique: int) -> bool:
        """Whether the kernel still waits for the reply to a request."""
        return self._fd >= 0 and is_awaited(self._fd, unique)

    def reply_files(self, header: bytes, pieces: Sequence[Piece]) -> bool:
        """Sends one reply whose bytes lie in files on tmpfs; False if that could not be tried, and nothing was sent."""
        if self._fd < 0 or not self._pipe.fill(header, pieces):
            return False
        unique = int.from_bytes(header[8:16], "little")
        length = len(header) + sum(piece.length for piece in pieces)
        self._intake.answering(unique)
        try:
            self._pipe.send(self._fd, length)
        except OSError as e:
            self._refused(e, length)
        finally:
            self.answered(unique)
        return True

    def _refused(self, error: OSError, length: int) -> bool:
        if error.errno not in _GONE:
            LOG.error("reply_refused", errno=errno.errorcode.get(error.errno or 0), bytes=length)
        return False

    def notify(self, message: bytes) -> None:
        """Sends a notification, later and from another thread: the kernel may first want replies of ours."""
        if self._fd >= 0:
            self._notices.put(message)

    async def notice_room(self) -> None:
        """Until less than half of the notifications wait that may."""
        while self._fd >= 0 and self._notices.crowded:
            await asyncio.sleep(NOTICES_PAUSE_S)

    def _write_notice(self, message: bytes) -> None:
        try:
            os.write(self._fd, message)
        except OSError as e:
            if e.errno not in (*_GONE, errno.EBADF):
                LOG.warning("notification_failed", error=str(e))


def is_awaited(device: int, unique: int) -> bool:
    """Whether the kernel still waits for the reply to a request, which another process may have answered."""
    try:
        os.write(device, recovery.is_awaited(unique))
    except OSError as e:
        if e.errno not in _GONE:
            LOG.error("device_failed", error=str(e))
        return False
    return True


def poisonous(request: memoryview) -> bytes:
    """The reply to a request with which one gateway after the other has died: it could be the reason."""
    unique = int.from_bytes(request[8:16], "little")
    LOG.error("request_given_up", opcode=int.from_bytes(request[4:8], "little"))
    return replies.error(unique, errno.EIO)


class Notices:
    """One thread that writes notifications, begun by the first. INVAL_ENTRY takes the directory's lock, which a program
    may hold while it waits for our answer: written by the loop it would stop both for ever."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._queue: queue.Queue[bytes | None] = queue.Queue(NOTICES_MAX)
        self._thread: threading.Thread | None = None

    def put(self, message: bytes) -> None:
        """Queues one; drops it when the queue is full."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fuse-notices", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            LOG.warning("notification_dropped", limit=NOTICES_MAX)

    @property
    def crowded(self) -> bool:
        """Whether half of the queue is full."""
        return self._queue.qsize() * 2 > NOTICES_MAX

    def close(self) -> None:
        """Ends the thread after what it is writing; what still waits is dropped."""
        if self._thread is None:
            return
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put_nowait(None)
        self._thread.join(timeout=1.0)
        self._thread = None

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            self._write(message)
