"""Readahead buffers: one budget, one fetch each, nothing reused while somebody may still write into it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from forebay.client.segments import IDLE_S, POOL_IDLE_S, Segment, SegmentKey, SegmentTable
from forebay.client.tasks import Tasks
from forebay.testing import run

SIZE = 1 << 16


class Scene:
    """A table for four segments; fetches wait until ``let_go``."""

    def __init__(self, segments: int = 4) -> None:
        self.now_s = 0.0
        self.gate = asyncio.Event()
        self.fetched: list[int] = []
        self.tasks = Tasks(lambda name, error: None)
        self.table = SegmentTable(
            budget_bytes=segments * SIZE, segment_bytes=SIZE, tasks=self.tasks, clock=lambda: self.now_s
        )

    def want(self, number: int, length: int = SIZE) -> Segment | None:
        return self.table.want(SegmentKey("b", number), length, self.fetch(number))

    def fetch(self, number: int) -> Callable[[memoryview], Coroutine[Any, Any, None]]:
        async def fill(view: memoryview) -> None:
            await self.gate.wait()
            self.fetched.append(number)
            view[:] = bytes([number]) * len(view)

        return fill

    async def let_go(self) -> None:
        self.gate.set()
        while len(self.tasks):
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_two_that_want_the_same_share_one_fetch_and_the_last_frees_it() -> None:
    async def main() -> None:
        scene = Scene()
        one, two = scene.want(1), scene.want(1)
        assert one is two
        assert one is not None
        await scene.let_go()
        assert scene.fetched == [1]
        assert one.view == bytes([1]) * SIZE
        scene.table.release(one)
        assert scene.table.held_bytes == SIZE
        scene.table.release(one)
        assert scene.table.held_bytes == 0
        scene.table.validate()

    run(main())


def test_beyond_the_budget_there_is_none_until_one_is_idle() -> None:
    async def main() -> None:
        scene = Scene()
        held = [scene.want(n) for n in range(4)]
        assert scene.want(9) is None
        await scene.let_go()
        assert scene.want(9) is None
        scene.now_s = IDLE_S
        assert scene.want(9) is not None
        assert held[0] is not None
        assert not held[0].ready
        await scene.let_go()
        scene.table.validate()

    run(main())


def test_a_short_segment_costs_its_own_length() -> None:
    async def main() -> None:
        scene = Scene()
        scene.want(1, 100)
        assert scene.table.held_bytes == 100
        await scene.let_go()

    run(main())


def test_the_buffer_of_a_cancelled_fetch_comes_back_only_when_the_fetch_has_ended() -> None:
    async def main() -> None:
        scene = Scene(segments=1)
        segment = scene.want(1)
        assert segment is not None
        scene.table.release(segment)
        assert scene.table.held_bytes == SIZE
        assert scene.want(2) is None
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert scene.table.held_bytes == 0
        assert scene.want(2) is not None
        await scene.let_go()
        scene.table.validate()

    run(main())


def test_a_failed_fetch_is_forgotten_and_tells_who_holds_it() -> None:
    async def main() -> None:
        scene = Scene()

        async def fail(view: memoryview) -> None:
            raise OSError("no")

        segment = scene.table.want(SegmentKey("b", 1), SIZE, fail)
        assert segment is not None
        await scene.let_go()
        assert isinstance(segment.error, OSError)
        assert scene.table.get(segment.key) is None
        assert scene.table.held_bytes == 0
        scene.table.release(segment)
        scene.table.validate()

    run(main())


def test_what_is_lent_makes_room_for_nobody_however_long() -> None:
    async def main() -> None:
        scene = Scene(segments=1)
        segment = scene.want(1)
        assert segment is not None
        await scene.let_go()
        segment.lent += 1
        scene.now_s = 10 * IDLE_S

        while_lent = scene.want(2)
        segment.lent -= 1
        afterwards = scene.want(2)

        assert while_lent is None
        assert afterwards is not None
        await scene.let_go()
        scene.table.validate()

    run(main())


def test_kept_buffers_count_in_the_budget_and_go_back_when_nobody_takes_them() -> None:
    async def main() -> None:
        scene = Scene()
        held = [scene.want(n) for n in range(4)]
        await scene.let_go()
        for segment in held:
            assert segment is not None
            scene.table.release(segment)
        kept = scene.table.kept_bytes
        scene.want(9, 100)
        besides = scene.table.kept_bytes
        scene.table.validate()

        scene.now_s = POOL_IDLE_S - 0.1
        scene.table.sweep()
        soon = scene.table.kept_bytes
        scene.now_s = POOL_IDLE_S
        scene.table.sweep()

        assert (kept, besides, soon) == (4 * SIZE, 3 * SIZE, 3 * SIZE)
        assert scene.table.kept_bytes == 0
        await scene.let_go()

    run(main())
