"""A request and what helps it along: whichever gives an answer first ends the other.

The request runs in the caller's task; the helper is a task that begins only when the request is late, so a request in
time costs a timer (2 µs) and no task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from forebay.client.tasks import Tasks
from forebay.errors import ForebayError

T = TypeVar("T")


class Race(Generic[T]):
    """``await Race(tasks, late_s, helper).run(request)``. ``helper`` makes the coroutine that runs once ``late_s`` have
    passed; it may call ``win`` or ``lose``, once."""

    def __init__(self, tasks: Tasks, late_s: float, helper: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks = tasks
        self._late_s = late_s
        self._make_helper = helper
        self._helper: asyncio.Task[None] | None = None
        self._bound = asyncio.timeout(None)
        self._is_done = False
        self._take: Callable[[], T] | None = None
        self.error: ForebayError | None = None
        self.started_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the helper ended it."""
        return self._take is not None or self.error is not None

    def win(self, take: Callable[[], T]) -> None:
        """The helper has the answer: the request is stopped, and then ``take`` gives it (never, if the request has its
        own by now)."""
        self._take = take
        self._end()

    def lose(self, error: ForebayError) -> None:
        """The helper knows that there will be no answer: the request is stopped with ``error``."""
        self.error = error
        self._end()

    async def run(self, request: Coroutine[Any, Any, T]) -> T:
        """The request's answer, or the helper's.

        Raises:
            ForebayError: what the request raised, unless the helper has an answer by then or soon.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._late_s, self._begin)
        try:
            async with self._bound:
                return await request
        except TimeoutError:
            if self._take is not None:
                return self._take()
            if self.error is not None:
                raise self.error from None
            raise
        finally:
            self._is_done = True
            timer.cancel()
            if self._helper is not None:
                self._helper.cancel()

    def _begin(self) -> None:
        self._helper = self._tasks.spawn("race", self._make_helper())

    def _end(self) -> None:
        if not self._is_done:
            self._bound.reschedule(asyncio.get_running_loop().time())
