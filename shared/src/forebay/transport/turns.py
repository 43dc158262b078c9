"""Bulk shares the event loop with RPCs: how much of it moves in one turn of the loop.

An RPC waits for the turn that is running, so what bounds its time is not how many streams there are but how many of
them write, or read, megabytes in one turn. Streams beyond that wait for theirs, first come first served; one that waits
for its peer has no turn and takes none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

BULK_BYTES = 64 << 10
"""A piece of this much is bulk."""


class Turns:
    """Lets at most ``streams_max`` streams write a piece of bulk in one turn of the loop.

    Invariant: whoever waits is let in within ``waiting / streams_max`` turns.
    """

    def __init__(self, streams_max: int) -> None:
        self.taken = 0
        self._streams_max = streams_max
        self._left = streams_max
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    def try_take(self) -> bool:
        """Takes a place in this turn if there is one."""
        if not self._left or self._waiters:
            return False
        self._take()
        return True

    async def take(self) -> None:
        """Waits for a place."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._due()
        try:
            await waiter
        finally:
            if not waiter.done() or waiter.cancelled():
                self._waiters = deque(other for other in self._waiters if other is not waiter)

    def _take(self) -> None:
        self._left -= 1
        self.taken += 1
        self._due()

    def _due(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._left, self._is_due = self._streams_max, False
        while self._left and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._take()


class Reading(Protocol):
    """A connection whose reading can be stopped."""

    def resume_reading(self) -> None:
        """Goes on."""


class Arrivals:
    """Stops connections that bring bulk once ``bytes_max`` of it came in this turn of the loop; ``streams_max`` of them
    go on in each following turn."""

    def __init__(self, bytes_max: int, streams_max: int) -> None:
        self._bytes_max = bytes_max
        self._streams_max = streams_max
        self._left = bytes_max
        self._stopped: deque[Reading] = deque()
        self._is_due = False

    def came(self, count: int) -> bool:
        """Bulk came in; whether its connection may go on reading. If not, it stops and calls `stopped`."""
        self._left -= count
        self._due()
        return self._left > 0

    def stopped(self, connection: Reading) -> None:
        """A connection waits for its turn."""
        self._stopped.append(connection)

    def _due(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._left, self._is_due = self._bytes_max, False
        for _ in range(min(self._streams_max, len(self._stopped))):
            self._stopped.popleft().resume_reading()
        if self._stopped:
            self._due()

    def __len__(self) -> int:
        return len(self._stopped)
