"""A bound on how many may be inside, first come first served, with a bounded queue before it.

Who is inside and has nothing to do there for a while may lend its place to the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from forebay.errors import Overloaded


class Gate:
    """Lets at most ``capacity()`` in at once; the capacity may change, then call `admit`.

    Invariants: (1) ``inside`` and ``lent`` are never negative; (2) a waiter is admitted at most once, and a cancelled
    one gives its place on; (3) at rest both are 0 and nobody waits; (4) at most ``lent_max`` places are lent.
    """

    def __init__(self, what: str, capacity: Callable[[], int], *, waiters_max: int, lent_max: int = 0) -> None:
        self.inside = 0
        self.lent = 0
        self._lent_max = lent_max
        self._what = what
        self._capacity = capacity
        self._waiters_max = waiters_max
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def load(self) -> int:
        """Those inside, those that lent their place, and those waiting."""
        return self.inside + self.lent + len(self._waiters)

    def try_enter(self) -> bool:
        """Takes a place if there is one. Whoever entered calls `leave`."""
        if self._waiters or self.inside >= self._capacity():
            return False
        self.inside += 1
        return True

    async def enter(self) -> None:
        """Waits for a place.

        Raises:
            Overloaded: too many wait already.
        """
        if self.try_enter():
            return
        if len(self._waiters) >= self._waiters_max:
            raise Overloaded(f"{self._waiters_max} requests wait for {self._what}", limit=self._waiters_max)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self.leave()  # it was let in and cancelled in the same turn
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def leave(self) -> None:
        """Gives the place to the next."""
        self.inside -= 1
        self.admit()

    def lend(self) -> bool:
        """Gives the place to the next, for good; whether it may. Who did calls `done` and not `leave`."""
        if self.lent >= self._lent_max:
            return False
        self.lent += 1
        self.leave()
        return True

    def done(self) -> None:
        """One that lent its place is gone."""
        self.lent -= 1
        self.admit()

    def admit(self) -> None:
        """Lets in as many as there are places."""
        while self._waiters and self.inside < self._capacity():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.inside += 1
                waiter.set_result(None)

    def validate(self) -> None:
        """The first and third invariant, for tests at rest."""
        if self.load:
            raise AssertionError(f"{self.inside} inside and {len(self._waiters)} waiting for {self._what}")
