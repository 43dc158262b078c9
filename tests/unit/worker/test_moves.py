"""Promotion and demotion: blocks change tiers while they are read, and nothing is lost in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.contracts.blocks import ByteRange
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay_worker.access import Asked
from forebay_worker.block import Block, State
from forebay_worker.routing import ReadOptions
from tests.unit.worker.kit import MIB, Kit, asked_for, content, kit, memory_dir
from tests.unit.worker.test_integrity import flip
from tests.unit.worker.test_store import files, settled

PROMOTE = ReadOptions("CACHE_PROMOTE")


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


def block_of(parts: Kit, asked: Asked) -> Block:
    block = parts.store.index.get(asked.block_id)
    assert block is not None
    return block


async def on_disk(parts: Kit, key: str, data: bytes) -> Asked:
    """A block that went to the disk because memory was out of service."""
    asked = asked_for(parts.ufs.put(key, data))
    parts.store.index.retire(0, "test")
    await parts.read(asked)
    await settled(parts)
    parts.store.index.return_to_service(0, "test")
    assert block_of(parts, asked).tier == 1
    return asked


@pytest.mark.parametrize("size", [100_000, 9 * MIB, 16 * MIB])
def test_a_promoted_block_lives_in_memory_and_only_there(mem: Path, tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(size)
            asked = await on_disk(parts, "a", data)
            assert await parts.read(asked, options=PROMOTE) == data
            await settled(parts)
            assert block_of(parts, asked).tier == 0
            assert (len(files(mem, "blk")), files(tmp_path, "blk"), files(tmp_path, "map")) == (1, [], [])
            assert (parts.store.index.used(1), parts.metrics.promotions.value()) == (0, 1)
            mapped = parts.reads.at_once(asked, part(asked))
            assert mapped is not None
            assert bytes(mapped[1]) == data

    run(main())


def part(asked: Asked) -> ByteRange:
    return ByteRange(0, asked.length)


def test_cache_never_moves_a_block_on_a_read(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            asked = await on_disk(parts, "a", content(MIB))
            for _ in range(3):
                await parts.read(asked)
            await settled(parts)
            assert block_of(parts, asked).tier == 1

    run(main())


def test_a_promotion_into_full_memory_demotes_what_was_read_longest_ago(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 8 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            asked = await on_disk(parts, "new", content(4 * MIB, 9))
            old = [asked_for(parts.ufs.put(str(seed), content(4 * MIB, seed))) for seed in range(2)]
            for one in old:
                await parts.read(one)
                await settled(parts)
            await parts.read(asked, options=PROMOTE)
            await settled(parts)
            assert [block_of(parts, one).tier for one in (asked, *old)] == [0, 1, 0]
            assert parts.metrics.demotions.value() == 1
            calls = len(parts.ufs.calls)
            assert await parts.read(old[0]) == content(4 * MIB, 0)
            assert len(parts.ufs.calls) == calls

    run(main())


def test_a_reader_goes_on_while_its_block_is_demoted_and_finds_it_at_every_moment(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(16 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            name = Path(asked.block_id[:2]) / f"{asked.block_id}.blk"
            calls = len(parts.ufs.calls)
            moving = asyncio.ensure_future(parts.mover.demote(block_of(parts, asked)))
            while not moving.done():
                assert await parts.read(asked) == data
                assert (mem / name).exists() or (tmp_path / name).exists()
                await asyncio.sleep(0)
            assert await moving
            assert block_of(parts, asked).tier == 1
            assert await parts.read(asked) == data
            assert len(parts.ufs.calls) == calls

    run(main())


def test_memory_that_needs_room_demotes_instead_of_evicting(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 8 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            asked = [asked_for(parts.ufs.put(str(seed), content(4 * MIB, seed))) for seed in range(2)]
            for one in asked:
                await parts.read(one)
                await settled(parts)
            await parts.store.make_room()
            assert [block_of(parts, one).tier for one in asked] == [1, 0]
            assert parts.metrics.evictions.value("mem", "lru", "room") == 0

    run(main())


def test_a_demotion_that_finds_a_rotten_block_drops_it(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        data = content(9 * MIB)
        asked = asked_for(ufs.put("a", data))
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
            flip(files(mem, "blk")[0], 8 * MIB + 1)
            assert not await parts.mover.demote(block_of(parts, asked))
            assert parts.store.index.get(asked.block_id) is None
            assert parts.metrics.corrupt.value("mem", "move") == 1
            assert files(tmp_path, "*") == files(mem, "*") == []
            await parts.store.held.probe()
            assert (parts.store.index.used(0), parts.store.index.used(1)) == (0, 0)
            assert await parts.read(asked) == data

    run(main())


def test_a_move_into_a_directory_that_errs_leaves_the_block_where_it_was(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(5 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            (tmp_path / asked.block_id[:2]).write_bytes(b"in the way")
            assert not await parts.mover.demote(block_of(parts, asked))
            assert block_of(parts, asked).tier == 0
            assert not parts.store.index.is_in_service(1)
            assert await parts.read(asked) == data

    run(main())


def test_bytes_of_an_unlinked_block_count_as_long_as_somebody_has_it_open(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(5 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            fd = os.open(files(mem, "blk")[0], os.O_RDONLY)
            await parts.store.evict([block_of(parts, asked)])
            await parts.store.held.probe()
            assert (parts.store.index.get(asked.block_id), files(mem, "blk")) == (None, [])
            assert parts.store.index.used(0) == 5 * MIB
            assert [block.block_id for block in parts.store.index.held()] == [asked.block_id]
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.store.index.used(0) == 10 * MIB
            os.close(fd)
            await parts.store.held.probe()
            assert parts.store.index.used(0) == 5 * MIB
            assert len(parts.store.held) == 0

    run(main())


def test_a_promotion_that_a_crash_cut_short_loses_nothing(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        # given a complete block on the disk, and in memory the half of it that a promotion had copied
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 25 * MIB)) as parts:
            await on_disk(parts, "b", content(8 * MIB))
            asked = await on_disk(parts, "a", content(16 * MIB))
        whole = tmp_path / asked.block_id[:2] / f"{asked.block_id}.blk"
        complete = files(tmp_path, "blk")
        half = mem / whole.parent.name / f"{asked.block_id}.part"
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(whole.read_bytes())
        half.with_suffix(".map").write_bytes(whole.with_suffix(".map").read_bytes())

        # when the next worker starts, then it has the whole one, and only that
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 25 * MIB)) as parts:
            assert (block_of(parts, asked).tier, block_of(parts, asked).state) == (1, State.SEALED)
            assert (files(tmp_path, "blk"), files(mem, "part"), files(mem, "map")) == (complete, [], [])

    run(main())
