"""Runs a test's coroutine on uvloop with a watchdog, and sees that it leaves no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

WATCHDOG_S = 30.0

T = TypeVar("T")


def run(coro: Coroutine[Any, Any, T], *, watchdog_s: float = WATCHDOG_S) -> T:
    """The result of ``coro``. Fails when it takes longer than ``watchdog_s`` or when tasks are left at its end."""

    async def watched() -> T:
        async with asyncio.timeout(watchdog_s):
            result = await coro
        await asyncio.sleep(0)
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"
        return result

    return uvloop.run(watched())
