"""Requests that wait for the cluster: each a task, owned here, known by the kernel's number for it.

The kernel interrupts a request by that number (a signal came for the program), so a task can be cancelled alone. When
`limit` requests wait, ``on_full`` is called and the device is left unread: what comes next waits in the kernel, in
order and without an error, until one of ours has ended (``on_room``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from forebay.runtime import logs

CLOSE_S = 5.0
"""Time that cancelled tasks get to answer and clean up."""

LOG = logs.get(__name__)


def _nothing() -> None:
    """No device to stop."""


class Waits:
    """Invariant: with `limit` requests waiting it is ``paused``, until a quarter of them have ended."""

    def __init__(self, limit: int, on_cancelled: Callable[[int], None]) -> None:
        self._limit, self._on_cancelled = limit, on_cancelled
        self._room_at = limit * 3 // 4
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.paused = False
        self.on_full: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, unique: int, work: Coroutine[Any, Any, None]) -> None:
        """Runs ``work``, which answers the request ``unique`` unless it is cancelled: then ``on_cancelled`` does, for a
        task that never began to run cannot."""
        task = asyncio.get_running_loop().create_task(work, name=f"fuse-{unique}")
        self._tasks[unique] = task
        task.add_done_callback(lambda done: self._ended(unique, done))
        if len(self._tasks) >= self._limit and not self.paused:
            self.paused = True
            self.on_full()

    def interrupt(self, unique: int) -> None:
        """Cancels one request; one that is no longer here has been answered."""
        task = self._tasks.get(unique)
        if task is not None:
            task.cancel()

    def _ended(self, unique: int, task: asyncio.Task[None]) -> None:
        del self._tasks[unique]
        if task.cancelled():
            self._on_cancelled(unique)
        elif (error := task.exception()) is not None:
            LOG.error("request_task_failed", error=repr(error))
        if self.paused and len(self._tasks) <= self._room_at:
            self.paused = False
            self.on_room()

    async def close(self) -> None:
        """Cancels all and waits until they have answered."""
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
