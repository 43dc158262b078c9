"""Reads past the tiers that are alike share one request."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from forebay.errors import UfsUnavailable
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import Ufs
from forebay_worker.passing import RANGE_MAX, Passing
from forebay_worker.sources import UfsSource, joined

SIZE = 1 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)


def source(ufs: MemoryUfs, passing: Passing, size: int = SIZE) -> UfsSource:
    """A block of the whole file, as one reader has it."""

    async def opened() -> Ufs:
        return ufs

    fingerprint = ufs.files["k"][1]
    share = partial(passing.read, ("block", "m1", size))
    return UfsSource(opened, "k", size, fingerprint, 0, is_atomic=True, share=share)


def held(ufs: MemoryUfs) -> asyncio.Future[None]:
    """The under store gives nothing until this is done."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ufs.gate = lambda _: gate
    return gate


def memory() -> MemoryUfs:
    ufs = MemoryUfs()
    ufs.put("k", CONTENT)
    return ufs


async def begun(ufs: MemoryUfs, *reads: asyncio.Future[bytes]) -> None:
    while not ufs.calls:
        await asyncio.sleep(0)
    for _ in reads:
        await asyncio.sleep(0)


def test_reads_of_the_same_bytes_at_the_same_time_are_one_get() -> None:
    async def scenario() -> None:
        ufs, passing = memory(), Passing()
        gate = held(ufs)
        reads = [asyncio.ensure_future(joined(source(ufs, passing).read(100, 300_000))) for _ in range(3)]
        await begun(ufs, *reads)
        gate.set_result(None)

        found = await asyncio.gather(*reads)

        assert found == [CONTENT[100:300_100]] * 3
        assert len(ufs.calls) == 1
        assert len(passing) == 0

    run(scenario())


def test_other_bytes_other_claims_and_later_reads_are_gets_of_their_own() -> None:
    async def scenario() -> None:
        ufs, passing = memory(), Passing()
        gate = held(ufs)
        first = source(ufs, passing)
        kinds = [first.read(0, 1000), first.read(1000, 1000), source(ufs, passing, SIZE + 1).read(0, 1000)]
        reads = [asyncio.ensure_future(joined(read)) for read in kinds]
        await begun(ufs, *reads)
        gate.set_result(None)

        await asyncio.gather(*reads, return_exceptions=True)
        await joined(first.read(0, 1000))

        assert len(ufs.calls) == 4

    run(scenario())


def test_a_reader_that_leaves_harms_no_other_and_the_last_one_ends_the_request() -> None:
    async def scenario() -> None:
        ufs, passing = memory(), Passing()
        gate = held(ufs)
        one, two = (asyncio.ensure_future(joined(source(ufs, passing).read(0, 5000))) for _ in range(2))
        await begun(ufs, one, two)

        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        still_open = ufs.open_reads
        gate.set_result(None)

        assert still_open == 1
        assert await two == CONTENT[:5000]

        held(ufs)
        alone = asyncio.ensure_future(joined(source(ufs, passing).read(0, 5000)))
        while not ufs.open_reads:
            await asyncio.sleep(0)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
        assert (ufs.open_reads, len(passing)) == (0, 0)

    run(scenario())


def test_an_error_is_that_of_each_reader() -> None:
    async def scenario() -> None:
        ufs, passing = memory(), Passing()
        ufs.fault = lambda _, given: UfsUnavailable("away") if given else None
        reads = [joined(source(ufs, passing).read(0, SIZE)) for _ in range(2)]

        found = await asyncio.gather(*reads, return_exceptions=True)

        assert [type(error) for error in found] == [UfsUnavailable] * 2
        assert found[0] is not found[1]
        assert (len(ufs.calls), len(passing)) == (1, 0)

    run(scenario())


def test_a_long_read_is_not_shared() -> None:
    async def scenario() -> None:
        ufs, passing = MemoryUfs(), Passing()
        ufs.put("k", b"x" * (RANGE_MAX + 1))
        wide = source(ufs, passing, RANGE_MAX + 1)

        await asyncio.gather(*(joined(wide.read(0, RANGE_MAX + 1)) for _ in range(2)))

        assert len(ufs.calls) == 2

    run(scenario())
