"""Waiting for something to become true, by many, without polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from forebay.errors import Overloaded

WAITERS_MAX = 10_000

CLOSED_PAUSE_S = 0.05
"""Nothing comes any more: who asks again and again until it is cancelled must not hold up the loop."""


class News:
    """Those who wait look again at each ``tell``. For one event loop."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._event = asyncio.Event()
        self._is_closed = False
        self.waiting = 0

    def tell(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    def close(self) -> None:
        """Nobody waits any more."""
        self._is_closed = True
        self.tell()

    async def until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Whether ``is_so`` became true within the time.

        Raises:
            Overloaded: ``WAITERS_MAX`` wait already.
        """
        if self.waiting >= WAITERS_MAX:
            raise Overloaded(f"too many wait for {self._what}; try again", limit=WAITERS_MAX)
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not (done := is_so()) and not self._is_closed:
                    await self._event.wait()
                if not done:
                    await asyncio.sleep(CLOSED_PAUSE_S)
                return done
        except TimeoutError:
            return is_so()
        finally:
            self.waiting -= 1
