"""What happens to a block while something else is under way with it: nothing is lost, and nobody is blamed for it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from forebay.errors import StaleVersion
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay_worker.access import Asked
from forebay_worker.block import Block, State
from forebay_worker.files import BlockFile
from forebay_worker.scrub import Scrubber
from forebay_worker.sources import UfsSource, closing
from tests.unit.worker.kit import MIB, Kit, asked_for, content, kit, memory_dir
from tests.unit.worker.test_integrity import flip
from tests.unit.worker.test_store import files, settled, until


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


class Barrier:
    """A step that waits until it is let through, once it is armed."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached = threading.Event()
        self.may_go_on = threading.Event()

    def __call__(self, name: str) -> None:
        if name == self.step:
            self.reached.set()
            assert self.may_go_on.wait(30)


@asynccontextmanager
async def busy_threads(parts: Kit) -> AsyncIterator[None]:
    """What is handed to the threads meanwhile begins when this ends."""
    gate = threading.Event()
    waiting = [parts.store.threads.start(gate.wait, 30) for _ in range(2)]
    try:
        yield
    finally:
        gate.set()
        await asyncio.gather(*waiting)


def block_of(parts: Kit, asked: Asked) -> Block:
    block = parts.store.index.get(asked.block_id)
    assert block is not None
    return block


def test_a_block_that_turns_out_rotten_while_it_is_sealed_costs_the_block_and_not_the_worker(tmp_path: Path) -> None:
    async def main() -> None:
        barrier = Barrier("seal.recorded")
        async with kit(("SSD", tmp_path, 64 * MIB), steps=barrier) as parts:
            # given a block of which all is there and whose sealing has begun
            data = content(9 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked) == data
            await until(barrier.reached.is_set)
            assert block_of(parts, asked).state is State.SEALING
            # when a reader finds a flipped bit in it
            flip(files(tmp_path, "part")[0], 5 * MIB)
            assert await parts.read(asked, 4 * MIB, 8 * MIB) == data[4 * MIB : 8 * MIB]
            barrier.may_go_on.set()
            await settled(parts)
            # then the name of a complete block is not on it, and the next read fills it anew
            assert parts.metrics.corrupt.value("ssd", "read") == 1
            assert files(tmp_path, "*") == []
            assert (len(parts.store.index), parts.store.index.used(0)) == (0, 0)
            assert await parts.read(asked) == data
            await settled(parts)
            assert files(tmp_path, "blk")[0].read_bytes() == data

    run(main())


@dataclass(frozen=True)
class LateSource(UfsSource):
    """Says only behind the last byte that it was of another version."""

    async def lend(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        async with closing(UfsSource.lend(self, start, length)) as pieces:
            async for piece in pieces:
                yield piece
        if start + length == self.size:
            raise StaleVersion("the file changed while it was read")


def test_a_version_that_is_denied_behind_its_last_byte_is_never_sealed(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            asked = asked_for(parts.ufs.put("a", content(3 * MIB)))
            source = LateSource(**{name: getattr(parts.source(asked), name) for name in UfsSource.__dataclass_fields__})
            with pytest.raises(StaleVersion):
                await parts.read(asked, source=source)
            await settled(parts)
            assert files(tmp_path, "*") == []
            assert (len(parts.store.index), parts.store.index.used(0)) == (0, 0)
            # and the worker goes on
            other = asked_for(parts.ufs.put("b", content(MIB)))
            assert await parts.read(other) == content(MIB)

    run(main())


def test_a_block_evicted_while_the_scrubber_opens_it_is_not_called_rotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            asked = asked_for(parts.ufs.put("a", content(MIB)))
            await parts.read(asked)
            await settled(parts)
            scrubber = Scrubber(parts.store, parts.metrics, rate=1 << 40, pause_s=1)
            async with busy_threads(parts):
                scrubbing = asyncio.ensure_future(scrubber.scrub(0))
                await asyncio.sleep(0)
                evicting = asyncio.ensure_future(parts.store.evict([block_of(parts, asked)]))
                files(tmp_path, "blk")[0].unlink()
                await asyncio.sleep(0)
            await scrubbing
            await evicting
            assert parts.metrics.corrupt.value("ssd", "scrub") == 0

    run(main())


def test_a_block_that_moves_while_it_is_opened_is_read_where_it_went(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        data = content(5 * MIB)
        asked = asked_for(ufs.put("a", data))
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        calls = len(ufs.calls)
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            index, block = parts.store.index, block_of(parts, asked)
            async with busy_threads(parts):
                reading = asyncio.ensure_future(parts.read(asked))
                await asyncio.sleep(0)
                # the move ends before a thread opens the file where it was
                assert index.begin_move(block, 1)
                old = files(mem, "blk")[0]
                new = tmp_path / old.relative_to(mem)
                new.parent.mkdir()
                new.write_bytes(old.read_bytes())
                old.unlink()
                index.left(index.end_move(block))
            assert await reading == data
            assert index.is_at(block, 1)
            assert len(ufs.calls) == calls
            assert parts.metrics.tier_errors.value("mem") == 0

    run(main())


def test_a_directory_that_cannot_read_is_blamed_for_a_move_that_fails_and_not_the_other(
    mem: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", content(5 * MIB)))
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            path = files(tmp_path, "blk")[0]
            path.unlink()
            path.symlink_to(path)  # no one can open it, and it is there
            parts.mover.promote(block_of(parts, asked))
            await settled(parts)
            assert [parts.store.index.is_in_service(number) for number in (0, 1)] == [True, False]
            assert files(mem, "*") == []

    run(main())


def test_a_copy_that_could_not_be_removed_is_removed_when_its_directory_returns(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            data = content(5 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            folder = tmp_path / asked.block_id[:2]
            (folder / f"{asked.block_id}.part").mkdir(parents=True)  # neither to be made nor unlinked
            assert not await parts.mover.demote(block_of(parts, asked))
            assert not parts.store.index.is_in_service(1)
            (folder / f"{asked.block_id}.part").rmdir()
            (folder / f"{asked.block_id}.part").write_bytes(b"a copy cut short")
            parts.store.health._clock = lambda: 1e9
            await parts.store.health.check()
            assert parts.store.index.is_in_service(1)
            assert files(tmp_path, "part") == []
            assert await parts.mover.demote(block_of(parts, asked))
            assert await parts.read(asked) == data

    run(main())


async def half_filled(folder: Path, ufs: MemoryUfs) -> Asked:
    """A block of which a start finds one extent."""
    asked = asked_for(ufs.put("a", content(12 * MIB)))
    async with kit(("SSD", folder, 64 * MIB), ufs=ufs) as parts:
        await parts.read(asked, 4 * MIB, 5 * MIB)
        await settled(parts)
    ufs.calls.clear()
    return asked


def test_a_half_filled_block_that_is_asked_for_by_command_goes_on_where_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = await half_filled(tmp_path, ufs)
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            filling = await parts.filler.begin(asked, parts.source(asked))
            assert filling is not None
            await parts.filler.finished(filling)
            await settled(parts)
            assert files(tmp_path, "blk")[0].read_bytes() == content(12 * MIB)
            assert sorted(call.start for call in ufs.calls) == [0, 8 * MIB]
            assert parts.store.index.is_in_service(0)

    run(main())


def test_a_half_filled_block_that_cannot_be_opened_costs_itself_and_one_error(tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = await half_filled(tmp_path, ufs)
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            path = files(tmp_path, "part")[0]
            path.unlink()
            path.symlink_to(path)
            assert await parts.read(asked) == content(12 * MIB)
            assert not parts.store.index.is_in_service(0)
            await settled(parts)
            parts.store.health._clock = lambda: 1e9
            await parts.store.health.check()
            assert parts.store.index.is_in_service(0)
            assert await parts.read(asked) == content(12 * MIB)
            await settled(parts)
            assert parts.store.index.is_in_service(0)
            assert parts.sealed() == 1

    run(main())


def test_while_one_directory_cannot_be_looked_at_blocks_of_the_others_are_found(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", content(MIB)))
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        calls = len(ufs.calls)
        async with kit(("MEM", mem, 64 * MIB), ("SSD", tmp_path, 64 * MIB), ufs=ufs, scans=False) as parts:
            (mem / asked.block_id[:2]).symlink_to(asked.block_id[:2])
            assert await parts.read(asked) == content(MIB)
            assert len(ufs.calls) == calls

    run(main())


def test_the_first_read_of_a_start_does_not_wait_for_the_scan(tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", content(MIB)))
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        calls = len(ufs.calls)
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs, scans=False) as parts:
            assert parts.store.restart.is_scanning
            assert await parts.read(asked) == content(MIB)
            assert len(ufs.calls) == calls
            # what is not here is read past the tiers until it is known how much room there is
            other = asked_for(ufs.put("b", content(MIB, 1)))
            assert await parts.read(other) == content(MIB, 1)
            assert parts.store.index.get(other.block_id) is None
            await parts.store.scan()
            assert (parts.sealed(), parts.store.restart.is_scanning) == (1, False)

    run(main())


def test_pieces_as_small_as_they_like_are_written(tmp_path: Path) -> None:
    path = tmp_path / "block"
    file = BlockFile(os.open(path, os.O_RDWR | os.O_CREAT), 100_000, in_memory=False)
    data = content(10_000)
    file.write([data[at : at + 3] for at in range(0, 10_000, 3)], 7)
    assert path.read_bytes() == bytes(7) + data


def test_readers_that_open_one_block_at_the_same_time_share_its_file(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", content(5 * MIB)))
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            block = block_of(parts, asked)
            opened = await asyncio.gather(parts.store.open(block), parts.store.open(block))
            assert parts.store.opened(block) is opened[0]

    run(main())
