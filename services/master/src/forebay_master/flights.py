"""Work that outlives who asked for it: changes that must not stop half way, and questions asked once for many.

Single-flight: however many ask the same question of an under store, it is asked once, and all get the answer. A
flight is a task of the service, not of whoever asked first: a caller that gives up or runs into its deadline leaves the
work to go on, and finds the answer when it asks again. A flight that began before the moment an answer has to be from
is waited for, not shared, and another one follows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from forebay.errors import ForebayError, InternalError, NotReady, Overloaded
from forebay.runtime import Supervisor, logs

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

LOG = logs.get(__name__)


@dataclass(frozen=True)
class _Flight(Generic[T]):
    started_at_s: float
    result: asyncio.Future[T]


class Flights(Generic[K, T]):
    """Questions that are being asked, by key. ``clock`` is wall time; ``flights_max`` run or wait at once."""

    def __init__(
        self, name: str, supervisor: Supervisor, *, clock: Callable[[], float], running_max: int, flights_max: int
    ) -> None:
        self._name = name
        self._supervisor = supervisor
        self._clock = clock
        self._turns = asyncio.Semaphore(running_max)
        self._flights_max = flights_max
        self._flights: dict[K, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def started_at(self, key: K) -> float | None:
        """When the flight that is under way began, if there is one."""
        flight = self._flights.get(key)
        return None if flight is None else flight.started_at_s

    async def join(self, key: K, since_s: float, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer of a flight that began at ``since_s`` or later: one that is under way, or a new one of ``ask``.

        Raises:
            Overloaded: too many flights. What ``ask`` raises.
        """
        while (flight := self._flights.get(key)) is not None and flight.started_at_s < since_s:
            await asyncio.wait((flight.result,))
        if flight is None:
            flight = self._start(key, ask)
        return await asyncio.shield(flight.result)

    def _start(self, key: K, ask: Callable[[], Coroutine[Any, Any, T]]) -> _Flight[T]:
        if len(self._flights) >= self._flights_max:
            raise Overloaded(f"too many {self._name} requests wait for the under store", limit=self._flights_max)
        flight = _Flight[T](self._clock(), asyncio.get_running_loop().create_future())
        self._supervisor.spawn(f"{self._name} flight", self._fly(key, flight, ask))
        self._flights[key] = flight
        return flight

    async def _fly(self, key: K, flight: _Flight[T], ask: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            async with self._turns:
                await _carry(self._name, ask, flight.result)
        finally:
            del self._flights[key]
            _land(flight.result)


async def to_the_end(supervisor: Supervisor, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of ``work``, which is carried on if the caller is cancelled: for changes that must not stop half way.

    Raises:
        What ``work`` raises.
    """
    result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def carried() -> None:
        try:
            await _carry(name, work, result)
        finally:
            _land(result)

    supervisor.spawn(name, carried())
    return await asyncio.shield(result)


async def _carry(name: str, work: Callable[[], Coroutine[Any, Any, T]], result: asyncio.Future[T]) -> None:
    try:
        result.set_result(await work())
    except ForebayError as e:
        result.set_exception(e)
    except Exception as e:
        # A bug met on one name must not end the service: a failed task would.
        LOG.exception("task_failed", kind=name)
        result.set_exception(InternalError(f"{name} failed: {type(e).__name__}"))


def _land(result: asyncio.Future[Any]) -> None:
    if not result.done():
        result.set_exception(NotReady("the master is stopping"))
    result.exception()  # seen: nobody may be waiting any more
