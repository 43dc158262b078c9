"""Waiting for news: who waits is told, and after the end nobody is held, nor holds up the loop."""

from __future__ import annotations

import asyncio

import pytest

from forebay.discovery.news import News
from forebay.errors import Overloaded
from forebay.testing import run


def test_who_waits_looks_again_at_each_telling() -> None:
    async def main() -> None:
        news, looked = News("x"), list[int]()

        def is_third_look() -> bool:
            looked.append(1)
            return len(looked) == 3

        waiting = asyncio.ensure_future(news.until(is_third_look, 30))
        for _ in range(2):
            await asyncio.sleep(0.001)
            news.tell()
        assert await waiting
        assert (len(looked), news.waiting) == (3, 0)

    run(main())


def test_the_end_lets_everyone_go_and_says_that_it_is_not_so() -> None:
    async def main() -> None:
        news = News("x")
        waiting = [asyncio.ensure_future(news.until(lambda: False, 30)) for _ in range(3)]
        while news.waiting < 3:
            await asyncio.sleep(0)
        news.close()
        assert await asyncio.gather(*waiting) == [False, False, False]
        assert await news.until(lambda: True, 30)

    run(main())


def test_who_asks_again_and_again_after_the_end_lets_others_run() -> None:
    async def main() -> None:
        news = News("x")
        news.close()

        async def asks() -> None:
            while True:
                await news.until(lambda: False, 30)

        asking = asyncio.ensure_future(asks())
        turns = 0
        async with asyncio.timeout(10):
            while turns < 100:
                await asyncio.sleep(0)
                turns += 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert news.waiting == 0

    run(main())


def test_too_many_are_refused() -> None:
    async def main() -> None:
        news = News("x")
        news.waiting = 10_000
        with pytest.raises(Overloaded):
            await news.until(lambda: True, 1)

    run(main())
