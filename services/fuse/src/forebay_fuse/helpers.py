"""The data helpers of a gateway: processes that answer READs of local blocks on the device, while this one goes on.

One process reads the device and knows the mount; a helper gets a READ with the block files it needs, and says when the
kernel has the reply. (It writes to the descriptor that the request was read from: a clone of ``/dev/fuse`` knows only
the requests that were read from it.) Until then the request stays in its slot of the journal, so it outlives this
process; and it stays in our table, so it outlives the helper: what a dead helper had in hand is answered here, at worst
twice, and the kernel takes the first reply.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from forebay.runtime import logs
from forebay.telemetry import Metrics
from forebay_fuse.protocol import jobs

IN_HAND_MAX = 16
"""READs in one helper's hands; with more, the gateway answers itself."""

OVERDUE_S = 5.0
"""A helper that has not answered for so long is killed: bytes in memory take less than a millisecond."""

LOOK_S = 0.5
ENDS_A_TURN = 64
END_S = 1.0
YOUNG_S = 2.0
DELAY_S, DELAY_MAX_S = 0.05, 5.0
LOG = logs.get(__name__)

Done = Callable[[bool], None]
"""Told once, when a job is over; False: the gateway must answer itself."""


class Job(NamedTuple):
    """A READ in a helper's hands."""

    began_s: float
    done: Done


def delay_s(deaths: int) -> float:
    """How long to wait before a helper is started again that died young so often in a row. Pure."""
    return 0.0 if deaths <= 1 else min(DELAY_S * 2.0**deaths, DELAY_MAX_S)


class Helper:
    """One helper's process and what it has in hand. ``gone`` is set when its socket has ended."""

    def __init__(self, sock: socket.socket, process: asyncio.subprocess.Process) -> None:
        self._sock, self.process = sock, process
        self.jobs: dict[int, Job] = {}
        self.gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    @classmethod
    async def start(cls, device: int, pipe_bytes: int) -> Helper:
        """Starts one. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                command = [sys.executable, "-P", "-m", "forebay_fuse.helper"]
                numbers = map(str, (theirs.fileno(), device, pipe_bytes, os.getpid()))
                passed = (theirs.fileno(), device)
                process = await asyncio.create_subprocess_exec(*command, *numbers, pass_fds=passed)
            ours.setblocking(False)
            return cls(ours, process)
        except BaseException:
            ours.close()
            raise

    def hand(self, unique: int, message: bytes, fds: Sequence[int], done: Done) -> bool:
        """Gives it one READ; False if it takes no more."""
        try:
            socket.send_fds(self._sock, [message], fds)
        except OSError as e:
            if not isinstance(e, BlockingIOError):
                self.gone.set()
            return False
        self.jobs[unique] = Job(time.monotonic(), done)
        return True

    def _readable(self) -> None:
        for _ in range(ENDS_A_TURN):
            try:
                message = self._sock.recv(jobs.END.size)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self.gone.set()
                asyncio.get_running_loop().remove_reader(self._sock.fileno())
                return
            unique, answered = jobs.end_of(message)
            job = self.jobs.pop(unique, None)
            if job is not None:
                job.done(answered)

    async def wait(self, overdue_s: float) -> None:
        """Until it has died, or has had a job for longer than ``overdue_s``."""
        while not self.gone.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.gone.wait()
            oldest = next(iter(self.jobs.values()), None)
            if oldest is not None and time.monotonic() - oldest.began_s > overdue_s:
                LOG.error("helper_hangs", pid=self.process.pid, in_hand=len(self.jobs))
                return

    async def close(self, *, wait_s: float = 0.0) -> None:
        """Ends it, by force after ``wait_s``. First it is dead, then what it had in hand is given back."""
        loop, pid = asyncio.get_running_loop(), self.process.pid
        loop.remove_reader(self._sock.fileno())
        self._sock.close()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.process.wait()
        finally:
            if self.process.returncode is None:
                LOG.info("helper_killed", pid=pid)
                self.process.kill()
        await self.process.wait()
        held, self.jobs = self.jobs, {}
        for job in held.values():
            job.done(False)


class Helpers:
    """So many helpers, each started anew when it dies. Invariant: a job is in one helper's table until it is over."""

    def __init__(
        self, device: int, count: int, *, pipe_bytes: int, metrics: Metrics, overdue_s: float = OVERDUE_S
    ) -> None:
        self._device, self._count, self._pipe_bytes = device, count, pipe_bytes
        self._overdue_s = overdue_s
        self._alive: list[Helper] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._deaths = metrics.counter("forebay_fuse_helper_deaths_total", "data helpers that died or hung")
        metrics.observed("forebay_fuse_helpers", "data helpers that serve", lambda: len(self._alive))
        metrics.observed("forebay_fuse_helper_reads", "READs in data helpers' hands", lambda: self.in_hand)

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def in_hand(self) -> int:
        """READs that helpers have."""
        return sum(len(helper.jobs) for helper in self._alive)

    @property
    def pids(self) -> tuple[int, ...]:
        """Their processes."""
        return tuple(helper.process.pid for helper in self._alive)

    def start(self) -> None:
        """Begins to start them."""
        self._tasks = [asyncio.create_task(self._keep(), name=f"helper-{n}") for n in range(self._count)]

    async def started(self) -> None:
        """Until all are there."""
        while len(self._alive) < self._count:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Ends all; what they have in hand is answered by them first, or given back."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                LOG.error("helper_task_failed", error=repr(ended))
        self._tasks = []

    def hand(self, unique: int, message: bytes, fds: Sequence[int], done: Done) -> bool:
        """Gives a READ to the helper that has the least to do; False if none takes it."""
        helper = min(self._alive, key=lambda each: len(each.jobs), default=None)
        return helper is not None and len(helper.jobs) < IN_HAND_MAX and helper.hand(unique, message, fds, done)

    async def _keep(self) -> None:
        deaths = 0
        while True:
            began_s = time.monotonic()
            try:
                await self._live()
            except OSError as e:
                LOG.error("helper_not_started", error=str(e))
            self._deaths.add(1)
            deaths = deaths + 1 if time.monotonic() - began_s < YOUNG_S else 1
            await asyncio.sleep(delay_s(deaths))

    async def _live(self) -> None:
        """One life."""
        helper = await Helper.start(self._device, self._pipe_bytes)
        self._alive.append(helper)
        self._changed.set()
        wait_s = 0.0
        try:
            await helper.wait(self._overdue_s)
        except asyncio.CancelledError:
            wait_s = END_S  # it is well, and finishes what it has
            raise
        finally:
            self._alive.remove(helper)
            await helper.close(wait_s=wait_s)
        LOG.warning("helper_died", pid=helper.process.pid, status=helper.process.returncode)

    def validate(self) -> None:
        """Checks the invariant, and the count."""
        seen = [unique for helper in self._alive for unique in helper.jobs]
        assert len(seen) == len(set(seen))
        assert len(self._alive) <= self._count
