"""A request and its helper: one answer, one loser, no task left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from forebay.client.race import Race
from forebay.client.tasks import Tasks
from forebay.errors import PeerUnavailable
from forebay.testing import run


def with_tasks(body: Callable[[Tasks], Awaitable[None]]) -> None:
    async def main() -> None:
        failed: list[str] = []
        tasks = Tasks(lambda name, error: failed.append(f"{name}: {error!r}"))
        await body(tasks)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(tasks) == 0
        assert failed == []
        await tasks.close()

    run(main())


async def answer(text: str, *, after_s: float = 0.0) -> str:
    await asyncio.sleep(after_s)
    return text


async def nothing() -> None:
    raise AssertionError("the helper began")


def test_a_request_in_time_needs_no_helper() -> None:
    async def body(tasks: Tasks) -> None:
        race: Race[str] = Race(tasks, 5.0, nothing)
        assert await race.run(answer("ours")) == "ours"
        assert not race.is_over

    with_tasks(body)


def test_the_helpers_answer_stops_a_late_request_before_it_is_taken() -> None:
    async def body(tasks: Tasks) -> None:
        events: list[str] = []

        async def late() -> str:
            try:
                return await answer("late", after_s=30.0)
            finally:
                events.append("stopped")

        def take() -> str:
            events.append("taken")
            return "helper's"

        async def helper() -> None:
            race.win(take)

        race: Race[str] = Race(tasks, 0.01, helper)
        assert await race.run(late()) == "helper's"
        assert events == ["stopped", "taken"]
        assert race.is_over

    with_tasks(body)


def test_the_helper_may_know_that_there_is_no_answer() -> None:
    async def body(tasks: Tasks) -> None:
        async def helper() -> None:
            race.lose(PeerUnavailable("paused"))

        race: Race[str] = Race(tasks, 0.01, helper)
        with pytest.raises(PeerUnavailable, match="paused"):
            await race.run(answer("late", after_s=30.0))

    with_tasks(body)


def test_a_late_request_that_answers_first_stops_its_helper() -> None:
    async def body(tasks: Tasks) -> None:
        async def helper() -> None:
            await asyncio.sleep(30.0)

        race: Race[str] = Race(tasks, 0.01, helper)
        assert await race.run(answer("ours", after_s=0.05)) == "ours"

    with_tasks(body)


def test_a_helper_that_comes_second_changes_nothing() -> None:
    async def body(tasks: Tasks) -> None:
        both = asyncio.Event()

        async def request() -> str:
            await both.wait()
            return "ours"

        async def helper() -> None:
            await both.wait()
            race.win(lambda: "helper's")

        race: Race[str] = Race(tasks, 0.01, helper)
        asyncio.get_running_loop().call_later(0.05, both.set)
        assert await race.run(request()) in {"ours", "helper's"}
        await asyncio.sleep(0.01)  # and the caller's task is not cancelled afterwards

    with_tasks(body)


def test_a_caller_that_goes_away_takes_both_along() -> None:
    async def body(tasks: Tasks) -> None:
        async def helper() -> None:
            await asyncio.sleep(30.0)

        race: Race[str] = Race(tasks, 0.01, helper)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await race.run(answer("late", after_s=30.0))
        assert not race.is_over

    with_tasks(body)
