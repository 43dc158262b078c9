"""Requests that wait for the cluster: each a task, owned here, known by the kernel's number for it.

The kernel interrupts a request by that number, so a task can be cancelled alone. It does so for any signal, and also
where there is none (a thread whose io_uring is closed is woken in the same way). Programs do not expect EINTR of a
listing or a `stat`, so a request gets `PATIENCE_S` to be answered before it is cancelled.

When `limit` requests wait, ``on_full`` is called and the device is left unread: what comes next waits in the kernel, in
order and without an error, until one of ours has ended (``on_room``).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

from forebay.runtime import logs

CLOSE_S = 5.0
"""Time that cancelled tasks get to answer and clean up."""

PATIENCE_S = 0.5
"""How long a request that was interrupted may still be answered: a killed program is held for so long at most."""

LOG = logs.get(__name__)


def _nothing() -> None:
    """No device to stop."""


class Waits:
    """Invariant: with `limit` requests waiting it is ``paused``, until a quarter of them have ended."""

    def __init__(self, limit: int, on_cancelled: Callable[[int, int], None], *, patience_s: float = PATIENCE_S) -> None:
        self._limit, self._on_cancelled, self._patience_s = limit, on_cancelled, patience_s
        self._room_at = limit * 3 // 4
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._interrupted: dict[int, asyncio.TimerHandle] = {}
        self._is_closing = self.paused = False
        self.on_full: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, unique: int, work: Coroutine[Any, Any, None]) -> None:
        """Runs ``work``, which answers the request ``unique`` unless it is cancelled: then ``on_cancelled`` does, for a
        task that never began to run cannot. It gets an errno: EINTR, or EIO if nobody had asked for that."""
        task = asyncio.get_running_loop().create_task(work, name=f"fuse-{unique}")
        self._tasks[unique] = task
        task.add_done_callback(lambda done: self._ended(unique, done))
        if len(self._tasks) >= self._limit and not self.paused:
            self.paused = True
            self.on_full()

    def interrupt(self, unique: int) -> None:
        """Cancels one request, unless it ends soon; one that is no longer here has been answered."""
        task = self._tasks.get(unique)
        if task is not None and unique not in self._interrupted:
            loop = asyncio.get_running_loop()
            self._interrupted[unique] = loop.call_later(self._patience_s, task.cancel)

    def _ended(self, unique: int, task: asyncio.Task[None]) -> None:
        del self._tasks[unique]
        interrupted = self._interrupted.pop(unique, None)
        if interrupted is not None:
            interrupted.cancel()
        if task.cancelled():
            is_asked = interrupted is not None or self._is_closing
            if not is_asked:  # a cancellation of something below that reached us: no signal, whatever it was
                LOG.error("request_cancelled_by_itself", unique=unique, exc_info=_cancellation(task))
            self._on_cancelled(unique, errno.EINTR if is_asked else errno.EIO)
        elif (error := task.exception()) is not None:
            LOG.error("request_task_failed", error=repr(error))
        if self.paused and len(self._tasks) <= self._room_at:
            self.paused = False
            self.on_room()

    async def close(self) -> None:
        """Cancels all and waits until they have answered."""
        self._is_closing = True
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
            if left:
                LOG.error("request_tasks_left", count=len(left))

    def validate(self) -> None:
        """Checks the invariant."""
        assert self.paused or len(self._tasks) < self._limit
        assert self._interrupted.keys() <= self._tasks.keys()


def _cancellation(task: asyncio.Task[None]) -> BaseException | None:
    """Where a cancelled task was cancelled."""
    try:
        return task.exception()
    except asyncio.CancelledError as e:
        return e
