"""When memory is given back, and how the allocator is chosen."""

from __future__ import annotations

import asyncio

from forebay.testing import run
from forebay_fuse.memory import LET_GO, Tide, command, watch


def test_memory_is_given_back_once_after_much_was_let_go() -> None:
    tide, found = Tide(), []
    for held in (0, 50_000, 50_000 - LET_GO + 1, 50_000 - LET_GO, 100, 90, 60_000, 0):
        tide, ebbs = tide.after(held)
        found.append(ebbs)
    assert found == [False, False, False, True, True, False, False, True]


def test_the_process_starts_anew_only_if_nobody_has_chosen_an_allocator() -> None:
    argv = ["python", "-m", "forebay_fuse", "/mnt"]
    assert command({}, argv) == argv
    assert command({"PYTHONMALLOC": "pymalloc"}, argv) is None
    assert command({}, []) is None


def test_the_watch_gives_back_when_the_tide_goes_out() -> None:
    async def main() -> None:
        held, given = [LET_GO, 0], asyncio.Event()
        loop = asyncio.get_running_loop()

        def look() -> int:
            return held.pop(0) if held else 0

        def give() -> None:
            loop.call_soon_threadsafe(given.set)

        task = asyncio.ensure_future(watch(look, give, look_s=0.01))
        await given.wait()
        task.cancel()
        await asyncio.wait([task])

    run(main())
