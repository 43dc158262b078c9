"""Deadlines bound what they are asked to bound, and speak our errors."""

from __future__ import annotations

import asyncio

import pytest

from forebay.errors import DeadlineExceeded
from forebay.runtime import Deadline
from forebay.testing import run


def test_a_body_that_is_late_raises_deadline_exceeded() -> None:
    async def main() -> None:
        async with Deadline.after(0.01).timeout():
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded) as caught:
        run(main())
    assert isinstance(caught.value.details["waited_s"], float)


def test_a_body_in_time_is_left_alone() -> None:
    async def main() -> int:
        async with Deadline.after(10).timeout():
            await asyncio.sleep(0)
            return 7

    assert run(main()) == 7


def test_an_expired_deadline_cancels_at_the_first_wait() -> None:
    async def main() -> None:
        deadline = Deadline.after(-1)
        assert deadline.expired
        assert deadline.remaining_s() == 0
        async with deadline.timeout():
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        run(main())


def test_a_timeout_of_the_body_s_own_is_not_ours() -> None:
    async def main() -> None:
        async with Deadline.after(10).timeout():
            raise TimeoutError("the body's")

    with pytest.raises(TimeoutError, match="the body's"):
        run(main())


def test_cancellation_from_outside_stays_cancellation() -> None:
    async def main() -> bool:
        async def body() -> None:
            async with Deadline.after(10).timeout():
                await asyncio.Event().wait()

        task = asyncio.ensure_future(body())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main())


def test_the_sooner_of_two_deadlines_counts() -> None:
    deadline = Deadline.after(100)

    assert deadline.sooner(1).remaining_s() <= 1
    assert deadline.sooner(1000) is deadline
