"""Requests that wait: how one ends that was interrupted, and one that was cancelled by nobody who may."""

from __future__ import annotations

import asyncio
import errno

from forebay.testing import run
from forebay_fuse.waits import Waits

FOR_EVER_S = 3600.0


class Failed:
    """What the kernel is told instead of an answer."""

    def __init__(self) -> None:
        self.errnos: dict[int, int] = {}

    def __call__(self, unique: int, number: int) -> None:
        assert unique not in self.errnos
        self.errnos[unique] = number


async def ended(waits: Waits) -> None:
    """Until nothing waits."""
    while waits:
        await asyncio.sleep(0)
    waits.validate()


def test_an_interrupted_request_that_is_answered_soon_is_not_cancelled() -> None:
    async def main() -> None:
        failed, answers, gate = Failed(), list[str](), asyncio.Event()

        async def work() -> None:
            await gate.wait()
            answers.append("answer")

        waits = Waits(4, failed, patience_s=FOR_EVER_S)
        waits.add(2, work())
        await asyncio.sleep(0)
        waits.interrupt(2)
        waits.interrupt(2)
        waits.validate()
        gate.set()
        await ended(waits)
        assert answers == ["answer"]
        assert not failed.errnos

    run(main())


def test_an_interrupted_request_that_goes_on_waiting_is_eintr() -> None:
    async def main() -> None:
        failed = Failed()
        waits = Waits(4, failed, patience_s=0.01)
        waits.add(2, asyncio.sleep(FOR_EVER_S))
        waits.interrupt(2)
        await ended(waits)
        assert failed.errnos == {2: errno.EINTR}

    run(main())


def test_a_cancellation_from_below_is_no_signal_but_an_error_of_ours() -> None:
    async def main() -> None:
        failed, shared = Failed(), asyncio.get_running_loop().create_future()

        async def work() -> None:
            await shared

        waits = Waits(4, failed)
        waits.add(2, work())
        await asyncio.sleep(0)
        shared.cancel()
        await ended(waits)
        assert failed.errnos == {2: errno.EIO}

    run(main())


def test_what_waits_at_the_end_is_eintr() -> None:
    async def main() -> None:
        failed = Failed()
        waits = Waits(4, failed)
        waits.add(2, asyncio.sleep(FOR_EVER_S))
        waits.add(4, asyncio.sleep(FOR_EVER_S))
        await waits.close()
        assert failed.errnos == {2: errno.EINTR, 4: errno.EINTR}

    run(main())
