"""The owner of a service's background tasks, and the way into and out of the event loop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

import uvloop

from forebay.errors import ConfigError, ForebayError, Overloaded
from forebay.runtime import logs

TASKS_MAX = 10_000

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_INTERRUPTED = 130


class Supervisor:
    """Runs tasks inside ``async with``. One that fails stops the body and all others, and its error is raised; at
    the end of the body those still running are cancelled and awaited."""

    def __init__(self, *, tasks_max: int = TASKS_MAX) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tasks_max = tasks_max

    async def __aenter__(self) -> Supervisor:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, name: str, coro: Coroutine[Any, Any, None]) -> None:
        """Starts ``coro`` as the task ``name``.

        Raises:
            Overloaded: `TASKS_MAX` tasks are running; ``coro`` is closed, not run.
        """
        if len(self._tasks) >= self._tasks_max:
            coro.close()
            raise Overloaded(f"{self._tasks_max} background tasks are running", limit=self._tasks_max)
        task = self._group.create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logs.get("forebay.runtime").error("task_failed", task=task.get_name(), error=repr(error))


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single error in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs ``main`` on uvloop and gives the process's exit code.

    Errors of ours become one line on standard error (code 2 for a setting, 1 for the rest); a bug keeps its traceback.
    """
    try:
        return uvloop.run(main())
    except ConfigError as error:
        sys.stderr.write(f"error: {logs.redact(str(error))}\n")
        return EXIT_CONFIG
    except ForebayError as error:
        sys.stderr.write(f"error: {error.code}: {logs.redact(error.message)}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. Call it in the running loop, once per process."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event
