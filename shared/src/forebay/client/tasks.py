"""Owner of a client's background tasks: nothing outlives ``close``, and no failure passes in silence.

A service's ``Supervisor`` stops the service when a task fails. A library must not: here a failed task is reported to
whoever waits for it, and to the log when nobody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from forebay.errors import DeadlineExceeded, ForebayError

T = TypeVar("T")

CLOSE_S = 5.0
"""Time that cancelled tasks get to clean up."""


class Tasks:
    """A set of running tasks; ``failed`` hears of unexpected exceptions (anything but a ForebayError)."""

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, name: str, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``coro``; it is cancelled by ``close``."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        if self._closed:
            task.cancel()
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()  # also tells asyncio that the exception was seen
        if error is not None and not isinstance(error, ForebayError):
            self._failed(task.get_name(), error)

    async def close(self) -> None:
        """Cancel all and wait for them.

        Raises:
            DeadlineExceeded: a task did not end within ``CLOSE_S`` (a bug of ours).
        """
        self._closed = True
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            _, pending = await asyncio.wait(tuple(self._running), timeout=CLOSE_S)
            if pending:
                names = ", ".join(sorted(t.get_name() for t in pending))
                raise DeadlineExceeded(f"tasks did not stop: {names}")
