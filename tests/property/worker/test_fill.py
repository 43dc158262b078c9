"""Random readers, failures and departures against one store: right bytes or an honest error, and never a second GET."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import ForebayError, UfsUnavailable
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs, ReadCall
from tests.unit.worker.kit import MIB, Kit, asked_for, content, kit, memory_dir

DATA = {
    name: content(size, seed) for seed, (name, size) in enumerate({"a": 14 * MIB, "b": 9 * MIB + 1, "c": 7}.items())
}


async def one_reader(parts: Kit, name: str, rng: random.Random, failures: list[str]) -> None:
    data = DATA[name]
    asked = asked_for(parts.ufs._describe(name))
    start = rng.choice([0, rng.randrange(len(data))])
    stop = rng.randint(start + 1, len(data))
    await asyncio.sleep(rng.random() / 200)
    task = asyncio.ensure_future(parts.read(asked, start, stop))
    if rng.random() < 0.3:
        await asyncio.sleep(rng.random() / 100)
        task.cancel()
    try:
        assert await task == data[start:stop]
    except asyncio.CancelledError:
        pass
    except ForebayError as e:
        failures.append(e.code)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), streams=st.integers(1, 4), run_extents=st.integers(1, 3))
def test_concurrent_readers_get_the_right_bytes_and_each_extent_is_asked_once(
    seed: int, streams: int, run_extents: int
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        with memory_dir() as mem:
            async with kit(("MEM", mem, 64 * MIB), streams_max=streams, run_extents_max=run_extents) as parts:
                for name, data in DATA.items():
                    parts.ufs.put(name, data)
                failures: list[str] = []
                await asyncio.gather(*(one_reader(parts, rng.choice("abc"), rng, failures) for _ in range(12)))
                await quiet(parts)
                assert failures == []
                asked = Counter((c.key, at) for c in parts.ufs.calls for at in range(c.start, c.start + c.length, MIB))
                assert set(asked.values()) <= {1}
                assert all(block.leases == 0 and block.busy == 0 for block in parts.store.index)

    run(main())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), capacity_mib=st.integers(1, 40))
def test_whatever_fails_readers_get_right_bytes_or_an_error_and_capacity_holds(seed: int, capacity_mib: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        ufs = MemoryUfs(piece_bytes=300_000)

        def fault(call: ReadCall, given: int) -> ForebayError | None:
            return UfsUnavailable("away") if rng.random() < 0.01 else None

        ufs.fault = fault
        with memory_dir() as mem:
            async with kit(("MEM", mem, capacity_mib * MIB), ufs=ufs) as parts:
                for name, data in DATA.items():
                    ufs.put(name, data)
                failures: list[str] = []
                await asyncio.gather(*(one_reader(parts, rng.choice("abc"), rng, failures) for _ in range(12)))
                await quiet(parts)
                parts.validate()
                assert set(failures) <= {"ufs_unavailable"}
                held = sum(path.stat().st_blocks * 512 for path in mem.glob("??/*"))
                assert held <= capacity_mib * MIB
                assert ufs.open_reads == 0

    run(main())


async def quiet(parts: Kit) -> None:
    async with asyncio.timeout(20):
        while not parts.is_quiet:
            await asyncio.sleep(0.002)
