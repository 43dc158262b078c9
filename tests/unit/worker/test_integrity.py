"""Bytes that rot: found by a read or by the scrubber, never sent, filled again, counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.contracts.blocks import ByteRange
from forebay.contracts.records import TierName
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay_worker.scrub import Scrubber
from tests.unit.worker.kit import MIB, Kit, asked_for, content, kit, memory_dir
from tests.unit.worker.test_store import files, settled, until


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


def flip(path: Path, at: int) -> None:
    """One bit of a file, behind everybody's back but with its time unchanged."""
    info = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize("size", [100_000, 9 * MIB, 16 * MIB])
def test_a_flipped_bit_on_a_disk_is_found_by_a_read_which_gets_the_right_bytes(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(size)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            flip(files(tmp_path, "blk")[0], size - 10)
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.metrics.corrupt.value("ssd", "read") == 1
            assert await parts.read(asked, size - 20, size) == data[-20:]

    run(main())


def test_a_rotten_block_is_filled_again_by_the_read_that_finds_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(3 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            flip(files(tmp_path, "blk")[0], 5)
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.sealed() == 1
            assert files(tmp_path, "blk")[0].read_bytes() == data
            calls = len(parts.ufs.calls)
            assert await parts.read(asked) == data
            assert len(parts.ufs.calls) == calls

    run(main())


def test_a_small_range_next_to_a_flipped_bit_is_right_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(9 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            flip(files(tmp_path, "blk")[0], 5 * MIB)
            assert await parts.read(asked, 5 * MIB - 3, 5 * MIB + 3) == data[5 * MIB - 3 : 5 * MIB + 3]
            assert parts.metrics.corrupt.value("ssd", "read") == 1

    run(main())


def test_a_block_that_somebody_cut_off_costs_itself_and_not_its_directory(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(9 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            os.truncate(files(tmp_path, "blk")[0], 6 * MIB)
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.store.index.is_in_service(0)
            assert parts.metrics.corrupt.value("ssd", "read") == 1
            assert await parts.read(asked) == data
            await settled(parts)
            assert files(tmp_path, "blk")[0].read_bytes() == data

    run(main())


def test_a_half_filled_block_that_rots_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(12 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked, 4 * MIB, 8 * MIB)
            await settled(parts)
            flip(files(tmp_path, "part")[0], 5 * MIB)
            assert await parts.read(asked, 4 * MIB, 8 * MIB) == data[4 * MIB : 8 * MIB]
            assert parts.metrics.corrupt.value("ssd", "read") == 1

    run(main())


@pytest.mark.parametrize("is_restarted", [True, False])
def test_what_lies_in_memory_is_compared_at_its_first_read_and_after_somebody_wrote(
    mem: Path, is_restarted: bool
) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        data = content(5 * MIB)
        asked = asked_for(ufs.put("a", data))
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
            block = files(mem, "blk")[0]
            if not is_restarted:
                with block.open("r+b") as file:
                    file.write(b"XX")
                assert await parts.read(asked) == data
                assert parts.metrics.corrupt.value("mem", "read") == 1
                return
        flip(block, 4 * MIB + 1)
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            assert await parts.read(asked) == data
            assert parts.metrics.corrupt.value("mem", "read") == 1

    run(main())


def test_after_its_first_read_memory_is_served_from_the_mapping_at_once(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", content(5 * MIB)))
        part = ByteRange(0, asked.length)
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            assert parts.reads.at_once(asked, part) is None
            await parts.read(asked)
            assert parts.reads.at_once(asked, part) is not None

    run(main())


async def scrubbed(parts: Kit) -> Scrubber:
    scrubber = Scrubber(parts.store, parts.metrics, rate=1 << 40, pause_s=1)
    await scrubber.scrub(0)
    return scrubber


@pytest.mark.parametrize("tier", ["MEM", "SSD"])
@pytest.mark.parametrize("size", [100_000, 9 * MIB + 1, 16 * MIB])
def test_the_scrubber_finds_a_flipped_bit_and_the_block_is_dropped(
    mem: Path, tmp_path: Path, tier: TierName, size: int
) -> None:
    async def main() -> None:
        folder = mem if tier == "MEM" else tmp_path / "t"
        async with kit((tier, folder, 64 * MIB)) as parts:
            good, bad = content(size), content(size, 1)
            asked = [asked_for(parts.ufs.put(name, data)) for name, data in (("good", good), ("bad", bad))]
            for one in asked:
                await parts.read(one)
            await settled(parts)
            flip(folder / asked[1].block_id[:2] / f"{asked[1].block_id}.blk", size // 2)
            scrubber = await scrubbed(parts)
            assert parts.metrics.corrupt.value(tier.lower(), "scrub") == 1
            assert parts.store.index.get(asked[0].block_id) is not None
            assert parts.store.index.get(asked[1].block_id) is None
            assert len(files(folder, "blk")) == 1
            assert (scrubber.progress[0].share, scrubber.progress[0].passes) == (1.0, 1)
            assert await parts.read(asked[1]) == bad

    run(main())


def test_a_clean_store_is_scrubbed_whole_and_keeps_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            for seed, size in enumerate((1, 4096, 4 * MIB, 9 * MIB + 7, 16 * MIB)):
                await parts.read(asked_for(parts.ufs.put(str(seed), content(size, seed))))
            await settled(parts)
            await scrubbed(parts)
            assert parts.metrics.scrubbed.value("ssd") == 1 + 4096 + 29 * MIB + 7
            assert parts.sealed() == 5

    run(main())


def test_another_rate_counts_at_once_however_slow_the_old_one_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            for seed in range(3):
                await parts.read(asked_for(parts.ufs.put(str(seed), content(MIB, seed))))
            await settled(parts)
            scrubber = Scrubber(parts.store, parts.metrics, rate=0, pause_s=3600)
            parts.spawner.spawn("scrub", scrubber.run())
            # off: nothing is read; at a byte a second: one extent, and then twelve days of waiting
            scrubber.set_rate(1)
            await until(lambda: parts.metrics.scrubbed.value("ssd") == MIB)
            assert scrubber.progress[0].passes == 0
            scrubber.set_rate(1 << 40)
            await until(lambda: scrubber.progress[0].passes == 1)
            assert parts.metrics.scrubbed.value("ssd") == 3 * MIB

    run(main())


def test_a_scrubber_that_is_switched_off_ends_its_pass(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            for seed in range(3):
                await parts.read(asked_for(parts.ufs.put(str(seed), content(MIB, seed))))
            await settled(parts)
            scrubber = Scrubber(parts.store, parts.metrics, rate=1, pause_s=3600)
            running = asyncio.ensure_future(scrubber.scrub(0))
            await until(lambda: parts.metrics.scrubbed.value("ssd") == MIB)
            scrubber.set_rate(0)
            await running
            assert parts.metrics.scrubbed.value("ssd") == MIB

    run(main())


def test_a_block_whose_sidecar_is_gone_is_filled_again(tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        data = content(16 * MIB)
        asked = asked_for(ufs.put("a", data))
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            files(tmp_path, "map")[0].unlink()
            assert await parts.read(asked) == data
            await settled(parts)
            assert len(files(tmp_path, "map")) == 1
            assert parts.metrics.corrupt.value("ssd", "read") == 1

    run(main())
