"""Work that outlives who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from forebay.errors import InternalError, NotFound, NotReady, Overloaded
from forebay.runtime import Supervisor
from forebay.testing import run
from forebay_master.flights import Flights, to_the_end
from tests.unit.master.kit import Clock


class Question:
    """Counts how often it is asked; answers when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.answer = asyncio.Event()

    async def __call__(self) -> int:
        self.count += 1
        mine = self.count
        await self.answer.wait()
        return mine


@asynccontextmanager
async def flights(clock: Clock, *, running_max: int = 4, flights_max: int = 4) -> AsyncIterator[Flights[str, int]]:
    async with Supervisor() as supervisor:
        made = Flights[str, int]("test", supervisor, clock=clock, running_max=running_max, flights_max=flights_max)
        yield made
        assert len(made) == 0


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_many_who_ask_at_once_ask_once() -> None:
    async def main() -> None:
        question = Question()
        async with flights(Clock()) as flying:
            asked = [asyncio.ensure_future(flying.join("k", 0.0, question)) for _ in range(10)]
            await soon()
            question.answer.set()
            assert await asyncio.gather(*asked) == [1] * 10

    run(main())


def test_a_flight_that_began_too_early_is_waited_for_and_another_follows() -> None:
    async def main() -> None:
        clock, question = Clock(10.0), Question()
        async with flights(clock) as flying:
            early = asyncio.ensure_future(flying.join("k", 5.0, question))
            await soon()
            clock.now_s = 20.0
            late = [asyncio.ensure_future(flying.join("k", 15.0, question)) for _ in range(3)]
            await soon()
            assert question.count == 1
            question.answer.set()
            assert await early == 1
            assert await asyncio.gather(*late) == [2, 2, 2]

    run(main())


def test_an_early_flight_that_fails_does_not_fail_who_needs_a_later_one() -> None:
    async def main() -> None:
        clock, question, failing = Clock(10.0), Question(), asyncio.Event()

        async def fails() -> int:
            await failing.wait()
            raise NotFound("gone")

        async with flights(clock) as flying:
            early = asyncio.ensure_future(flying.join("k", 5.0, fails))
            await soon()
            clock.now_s = 20.0
            late = asyncio.ensure_future(flying.join("k", 15.0, question))
            await soon()
            failing.set()
            question.answer.set()
            with pytest.raises(NotFound):
                await early
            assert await late == 1

    run(main())


def test_a_caller_that_gives_up_stops_nothing() -> None:
    async def main() -> None:
        question = Question()
        async with flights(Clock()) as flying:
            first = asyncio.ensure_future(flying.join("k", 0.0, question))
            await soon()
            first.cancel()
            await soon()
            second = asyncio.ensure_future(flying.join("k", 0.0, question))
            await soon()
            question.answer.set()
            assert await second == 1

    run(main())


def test_an_error_goes_to_all_who_wait_and_the_next_asks_anew() -> None:
    async def main() -> None:
        count = 0

        async def fails() -> int:
            nonlocal count
            count += 1
            await asyncio.sleep(0)
            raise NotFound("gone")

        async with flights(Clock()) as flying:
            asked = [asyncio.ensure_future(flying.join("k", 0.0, fails)) for _ in range(3)]
            for one in asked:
                with pytest.raises(NotFound):
                    await one
            with pytest.raises(NotFound):
                await flying.join("k", 0.0, fails)
        assert count == 2

    run(main())


def test_a_bug_becomes_an_internal_error_and_the_service_goes_on() -> None:
    async def buggy() -> int:
        raise ZeroDivisionError

    async def main() -> None:
        async with flights(Clock()) as flying:
            with pytest.raises(InternalError):
                await flying.join("k", 0.0, buggy)

    run(main())


def test_too_many_flights_are_refused_and_only_some_run_at_once() -> None:
    async def main() -> None:
        question = Question()
        async with flights(Clock(), running_max=2, flights_max=3) as flying:
            asked = [asyncio.ensure_future(flying.join(f"k{n}", 0.0, question)) for n in range(3)]
            await soon()
            assert question.count == 2
            with pytest.raises(Overloaded):
                await flying.join("k9", 0.0, question)
            question.answer.set()
            await asyncio.gather(*asked)

    run(main())


def test_work_that_must_not_stop_half_way_goes_on_without_its_caller() -> None:
    async def main() -> None:
        done, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await go_on.wait()
            done.set()

        async with Supervisor() as supervisor:
            caller = asyncio.ensure_future(to_the_end(supervisor, "work", work))
            await soon()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            go_on.set()
            async with asyncio.timeout(5):
                await done.wait()

    run(main())


def test_at_the_end_of_the_service_those_who_wait_are_told() -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            waiting = asyncio.ensure_future(to_the_end(supervisor, "work", asyncio.Event().wait))
            await soon()
        with pytest.raises(NotReady):
            await waiting

    run(main())
