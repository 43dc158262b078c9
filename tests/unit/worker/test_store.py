"""Reads through the store: fills, sealing, eviction, failures, restart. Real directories, fake under store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.contracts.records import TierName
from forebay.errors import NotCached, NotFound, StaleVersion, UfsUnavailable
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs, ReadCall
from forebay_worker.access import Asked
from forebay_worker.block import State
from forebay_worker.hints import HintedBlock
from forebay_worker.policies.rules import TierRules
from forebay_worker.routing import ReadOptions
from tests.unit.worker.kit import MIB, Kit, asked_for, content, kit, memory_dir


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


async def settled(parts: Kit) -> None:
    await until(lambda: parts.is_quiet)


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"??/*.{suffix}"))


def test_a_cold_read_gives_the_bytes_and_the_block_is_sealed(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(9 * MIB + 5)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked) == data
            await settled(parts)
            assert [path.read_bytes() for path in files(mem, "blk")] == [data]
            assert files(mem, "part") == []
            assert parts.metrics.served.value("ufs") == len(data)
            assert await parts.read(asked, 3, 7 * MIB) == data[3 : 7 * MIB]
            assert len(parts.ufs.calls) == 3

    run(main())


def test_a_random_read_moves_only_its_extents(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(16 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked, 5 * MIB, 5 * MIB + 10) == data[5 * MIB : 5 * MIB + 10]
            await settled(parts)
            assert parts.ufs.calls == [ReadCall("a", 4 * MIB, 4 * MIB)]
            assert files(mem, "blk") == []
            assert await parts.read(asked, 3 * MIB, 6 * MIB) == data[3 * MIB : 6 * MIB]
            assert parts.metrics.served.value("mem") == 2 * MIB

    run(main())


@pytest.mark.parametrize("is_named", [True, False])
def test_what_was_begun_past_the_tiers_is_not_fetched_again_if_an_order_named_it(mem: Path, is_named: bool) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 4 * MIB)) as parts:
            data = content(4 * MIB)
            first, asked = (asked_for(parts.ufs.put(name, data)) for name in "ab")
            if is_named:
                parts.order.take("s", 0, [HintedBlock(asked.block_id, 4 * MIB)], 0.0)
            await parts.read(first)
            await settled(parts)
            block = parts.store.index.get(first.block_id)
            assert block is not None
            parts.order.read(asked.block_id, 0.0)
            assert await parts.read(asked, 0, MIB) == data[:MIB]

            await parts.store.evict([block])
            assert await parts.read(asked, MIB, 4 * MIB) == data[MIB:]
            await settled(parts)

            fetched = sum(call.length for call in parts.ufs.calls[1:])
            assert fetched == (4 * MIB if is_named else 5 * MIB)
            assert parts.order.is_past(asked.block_id) == is_named
            assert not parts.order.is_past(first.block_id)

    run(main())


def test_a_block_read_from_its_start_is_completed_in_the_background(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(16 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked, 0, 100) == data[:100]
            await settled(parts)
            assert parts.sealed() == 1
            assert len(parts.ufs.calls) == 4

    run(main())


def test_a_read_returns_as_soon_as_its_extents_are_there(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ufs.gate = lambda call: hold if call.start else None
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            data = content(16 * MIB)
            asked = asked_for(ufs.put("a", data))
            assert await parts.read(asked, 0, 4 * MIB) == data[: 4 * MIB]
            assert parts.sealed() == 0
            hold.set_result(None)
            await settled(parts)
            assert parts.sealed() == 1

    run(main())


def test_the_last_block_of_a_file_is_read_at_its_offset(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(18 * MIB)
            asked = asked_for(parts.ufs.put("a", data), 1)
            assert asked.length == 2 * MIB
            assert await parts.read(asked) == data[16 * MIB :]

    run(main())


@pytest.mark.parametrize(("is_atomic", "requests"), [(True, 2), (False, 4)])
def test_extents_share_a_request_only_where_one_answer_is_of_one_version(
    mem: Path, is_atomic: bool, requests: int
) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), streams_max=1, run_extents_max=2) as parts:
            parts.is_atomic = is_atomic
            data = content(16 * MIB)
            assert await parts.read(asked_for(parts.ufs.put("a", data))) == data
            assert len(parts.ufs.calls) == requests

    run(main())


def test_many_readers_of_one_block_cause_one_request_per_extent(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(16 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            assert all(found == data for found in await asyncio.gather(*(parts.read(asked) for _ in range(20))))
            assert sorted(call.start for call in parts.ufs.calls) == [0, 4 * MIB, 8 * MIB, 12 * MIB]
            assert parts.metrics.joins.value() == 19 * 4

    run(main())


def test_a_reader_that_goes_away_does_not_stop_the_fill_of_others(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ufs.gate = lambda call: hold
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            data = content(8 * MIB)
            asked = asked_for(ufs.put("a", data))
            async with asyncio.TaskGroup() as group:
                leaver = group.create_task(parts.read(asked))
                stayer = group.create_task(parts.read(asked))
                await until(lambda: len(ufs.calls) == 2)
                leaver.cancel()
                await until(leaver.done)
                hold.set_result(None)
            assert stayer.result() == data
            assert len(ufs.calls) == 2

    run(main())


def test_an_unavailable_source_is_tried_again_from_where_it_broke(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        ufs.fault = lambda call, given: UfsUnavailable("away") if len(ufs.calls) == 1 and given >= MIB else None
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            data = content(2 * MIB)
            assert await parts.read(asked_for(ufs.put("a", data))) == data
            assert ufs.calls == [ReadCall("a", 0, 2 * MIB), ReadCall("a", MIB, MIB)]

    run(main())


def test_a_source_that_stays_away_is_an_error_and_leaves_nothing(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        ufs.fault = lambda call, given: UfsUnavailable("away")
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            asked = asked_for(ufs.put("a", content(2 * MIB)))
            with pytest.raises(UfsUnavailable):
                await parts.read(asked)
            await settled(parts)
            assert len(ufs.calls) == 3
            assert len(parts.store.index) == 0
            assert parts.store.index.used(0) == 0
            assert files(mem, "part") == []

    run(main())


def test_a_failed_extent_costs_its_readers_and_not_the_block(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        bad = True
        ufs.fault = lambda call, given: UfsUnavailable("away") if bad and call.start == 4 * MIB else None
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            data = content(12 * MIB)
            asked = asked_for(ufs.put("a", data))
            with pytest.raises(UfsUnavailable):
                await parts.read(asked)
            bad = False
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.sealed() == 1
            assert sum(call.start == 0 for call in ufs.calls) == 1

    run(main())


def test_a_replaced_object_is_stale_and_the_half_filled_block_goes(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            old = asked_for(parts.ufs.put("a", content(12 * MIB)))
            await parts.read(old, 4 * MIB, 5 * MIB)
            new = content(12 * MIB, seed=1)
            newer = asked_for(parts.ufs.put("a", new))
            with pytest.raises(StaleVersion):
                await parts.read(old)
            await settled(parts)
            assert len(parts.store.index) == 0
            assert await parts.read(newer) == new

    run(main())


def test_a_sealed_version_is_read_on_after_its_object_was_replaced(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(5 * MIB)
            old = asked_for(parts.ufs.put("a", data))
            await parts.read(old)
            await settled(parts)
            parts.ufs.put("a", b"other")
            assert await parts.read(old) == data

    run(main())


@pytest.mark.parametrize("claimed", [4 * MIB, 6 * MIB])
def test_a_wrong_claim_about_the_size_is_stale_and_poisons_nothing(mem: Path, claimed: int) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(5 * MIB)
            file = parts.ufs.put("a", data)
            with pytest.raises(StaleVersion):
                await parts.read(asked_for(file, size=claimed))
            await settled(parts)
            assert await parts.read(asked_for(file)) == data
            await settled(parts)
            with pytest.raises(StaleVersion):
                await parts.read(asked_for(file, size=claimed))
            assert await parts.read(asked_for(file)) == data
            assert parts.sealed() == 1

    run(main())


def test_a_block_whose_length_the_under_store_denies_is_thrown_away(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(5 * MIB)
            file = parts.ufs.put("a", data)
            asked = asked_for(file)
            assert parts.store.index.restore(asked.block_id, 3 * MIB, 0) is not None
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.store.index.get(asked.block_id) is None
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.sealed() == 1

    run(main())


def test_a_wrong_claim_that_leaves_the_block_its_length_harms_no_honest_reader(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        hold: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            data = content(18 * MIB)
            file = ufs.put("a", data)
            honest, liar = asked_for(file), asked_for(file, size=17 * MIB)
            assert (honest.block_id, honest.length) == (liar.block_id, liar.length)
            ufs.gate = lambda call: hold
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(parts.read(honest))
                lying = group.create_task(expect_stale(parts, liar))
                await until(lambda: len(ufs.calls) == 5)
                hold.set_result(None)
            assert reading.result() == data[: 16 * MIB]
            assert lying.result()

    run(main())


async def expect_stale(parts: Kit, asked: Asked) -> bool:
    with pytest.raises(StaleVersion):
        await parts.read(asked)
    return True


def test_no_read_waits_for_an_eviction_and_one_pass_makes_room_for_the_next(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 16 * MIB)) as parts:
            for seed in range(16):
                await parts.read(asked_for(parts.ufs.put(f"old {seed}", content(MIB, seed))))
            await settled(parts)
            fresh = [asked_for(parts.ufs.put(f"new {seed}", content(MIB, seed))) for seed in range(8)]
            await asyncio.gather(*(parts.read(one) for one in fresh))
            await settled(parts)
            assert parts.metrics.refused.value("full") == 8
            assert parts.sealed() == 16
            await parts.store.make_room()
            assert parts.metrics.evictions.value("mem", "lru", "room") == 2
            assert parts.store.index.used(0) == 14 * MIB
            await parts.read(fresh[0])
            await settled(parts)
            assert parts.store.index.get(fresh[0].block_id) is not None

    run(main())


def test_an_object_that_is_gone_is_not_found(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            asked = asked_for(parts.ufs.put("a", b"x"))
            parts.ufs.files.clear()
            with pytest.raises(NotFound):
                await parts.read(asked)
            await settled(parts)
            assert len(parts.store.index) == 0

    run(main())


def test_only_if_cached_asks_nobody(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(8 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            cached = ReadOptions(only_if_cached=True)
            with pytest.raises(NotCached):
                await parts.read(asked, options=cached)
            assert parts.ufs.calls == []
            await parts.read(asked, 5 * MIB, 6 * MIB)
            assert await parts.read(asked, 4 * MIB, 8 * MIB, options=cached) == data[4 * MIB :]
            with pytest.raises(NotCached):
                await parts.read(asked, 3 * MIB, 8 * MIB, options=cached)

    run(main())


def test_no_cache_passes_through_and_keeps_nothing(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(8 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked, 5, 7 * MIB, options=ReadOptions("NO_CACHE")) == data[5 : 7 * MIB]
            assert parts.ufs.calls == [ReadCall("a", 5, 7 * MIB - 5)]
            assert len(parts.store.index) == 0
            await parts.read(asked)
            await parts.read(asked, options=ReadOptions("NO_CACHE"))
            assert len(parts.ufs.calls) == 3

    run(main())


def test_a_full_tier_evicts_what_was_read_longest_ago(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 10 * MIB)) as parts:
            data = {name: content(4 * MIB, seed) for seed, name in enumerate("abc")}
            asked = {name: asked_for(parts.ufs.put(name, value)) for name, value in data.items()}
            for name in "abac":
                assert await parts.read(asked[name]) == data[name]
                await settled(parts)
                await parts.store.make_room()
            assert parts.store.index.get(asked["a"].block_id) is not None
            assert parts.store.index.get(asked["b"].block_id) is None
            assert len(files(mem, "blk")) == 1
            assert await parts.read(asked["c"]) == data["c"]
            await settled(parts)
            assert len(files(mem, "blk")) == 2
            assert parts.metrics.evictions.value("mem", "lru", "room") == 1

    run(main())


def test_a_read_that_finds_no_room_is_served_all_the_same(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 3 * MIB)) as parts:
            data = content(8 * MIB)
            assert await parts.read(asked_for(parts.ufs.put("a", data))) == data
            assert parts.metrics.refused.value("full") == 1
            assert len(parts.store.index) == 0

    run(main())


def test_a_block_being_sent_is_not_evicted(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 5 * MIB)) as parts:
            data = content(4 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            await parts.read(asked)
            await settled(parts)
            block = parts.store.index.get(asked.block_id)
            assert block is not None
            parts.store.index.lease(block)
            other = content(4 * MIB, 1)
            assert await parts.read(asked_for(parts.ufs.put("b", other))) == other
            assert await parts.read(asked) == data
            parts.store.index.release(block)

    run(main())


def test_a_disk_tier_serves_the_same_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path, 64 * MIB)) as parts:
            assert parts.store.tiers[0].in_memory is False
            data = content(9 * MIB + 3)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked) == data
            await settled(parts)
            assert await parts.read(asked, 1, 9 * MIB) == data[1 : 9 * MIB]
            assert parts.metrics.served.value("ssd") == 9 * MIB - 1

    run(main())


def test_a_tier_that_errs_costs_no_read_and_takes_nothing_for_a_while(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            data = content(9 * MIB)
            file = parts.ufs.put("a", data)
            asked = asked_for(file)
            (mem / asked.block_id[:2]).write_bytes(b"in the way")
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.metrics.tier_errors.value("mem") >= 1
            assert not parts.store.index.is_in_service(0)
            assert await parts.read(asked) == data
            assert parts.store.index.used(0) == 0

    run(main())


def test_a_sealed_file_that_vanished_is_a_miss(mem: Path) -> None:
    async def main() -> None:
        data = content(5 * MIB)
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", data))
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            assert parts.sealed() == 1
            files(mem, "blk")[0].unlink()
            assert await parts.read(asked) == data
            assert parts.sealed() == 0
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.sealed() == 1

    run(main())


def test_after_a_restart_sealed_blocks_are_warm_and_half_filled_ones_go_on(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        data = content(12 * MIB, 1)
        whole, torn = asked_for(ufs.put("a", content(5 * MIB))), asked_for(ufs.put("b", data))
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            await parts.read(whole)
            await parts.read(torn, 5 * MIB, 6 * MIB)
            await settled(parts)
        calls = len(ufs.calls)
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            assert await parts.read(whole) == content(5 * MIB)
            assert await parts.read(torn, 4 * MIB, 8 * MIB) == data[4 * MIB : 8 * MIB]
            assert len(ufs.calls) == calls
            assert await parts.read(torn) == data
            await settled(parts)
            assert [call.start for call in ufs.calls[calls:]] == [0, 8 * MIB]
            assert parts.sealed() == 2
            assert files(mem, "part") == []

    run(main())


def test_a_smaller_capacity_keeps_the_newest_blocks(mem: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = [asked_for(ufs.put(str(number), content(2 * MIB, number))) for number in range(3)]
        async with kit(("MEM", mem, 64 * MIB), ufs=ufs) as parts:
            for one in asked:
                await parts.read(one)
                await settled(parts)
        async with kit(("MEM", mem, 4 * MIB), ufs=ufs) as parts:
            assert [parts.store.index.get(one.block_id) is not None for one in asked] == [False, True, True]
            assert len(files(mem, "blk")) == 2

    run(main())


def test_the_second_tier_is_used_when_the_first_is_full(mem: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 4 * MIB), ("SSD", tmp_path, 64 * MIB)) as parts:
            for seed in range(2):
                data = content(3 * MIB, seed)
                assert await parts.read(asked_for(parts.ufs.put(str(seed), data))) == data
                await settled(parts)
            assert len(files(mem, "blk")) == 1
            assert len(files(tmp_path, "blk")) == 1

    run(main())


def test_several_directories_of_a_kind_are_filled_one_after_the_other_and_fail_alone(tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        tiers: list[tuple[TierName, Path, int]] = [("SSD", tmp_path / name, 4 * MIB) for name in ("one", "two")]
        asked = [asked_for(ufs.put(str(seed), content(3 * MIB, seed))) for seed in range(2)]
        async with kit(*tiers, ufs=ufs) as parts:
            for one in asked:
                await parts.read(one)
                await settled(parts)
            assert [len(files(tmp_path / name, "blk")) for name in ("one", "two")] == [1, 1]
        # when one of them cannot be opened any more, then what lies in the other is served as before
        async with kit(*tiers, ufs=ufs) as parts:
            lost = files(tmp_path / "one", "blk")[0]
            lost.unlink()
            lost.symlink_to(lost)
            calls = len(ufs.calls)
            for seed, one in enumerate(asked):
                assert await parts.read(one) == content(3 * MIB, seed)
            assert [parts.store.index.is_in_service(number) for number in (0, 1)] == [False, True]
            assert len(ufs.calls) == calls + 1

    run(main())


def test_what_a_start_does_not_know_is_moved_to_quarantine_and_never_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        ufs = MemoryUfs()
        asked = asked_for(ufs.put("a", content(MIB)))
        async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
            await parts.read(asked)
            await settled(parts)
        # given strangers: beside the folders, in one, in the wrong one, as a folder, as a link, without any sums
        ours, other = tmp_path / asked.block_id[:2], "f" * 32 if asked.block_id[0] != "f" else "e" * 32
        strangers = {
            "notes.txt": "notes.txt",
            f"{ours.name}/notes.txt": f"{ours.name}_notes.txt",
            f"{ours.name}/{other}.blk": f"{ours.name}_{other}.blk",
            f"{other[:2]}/{other}.blk": f"{other[:2]}_{other}.blk",
        }
        for name in strangers:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        (ours / f"{asked.block_id[:2]}{'0' * 30}.blk").symlink_to("/etc/hostname")
        (tmp_path / "folder/deep").mkdir(parents=True)
        for _ in range(2):  # a second start finds nothing to do
            async with kit(("SSD", tmp_path, 64 * MIB), ufs=ufs) as parts:
                assert parts.sealed() == 1
                held = {path.name for path in (tmp_path / "quarantine").iterdir()}
                link = f"{ours.name}_{asked.block_id[:2]}{'0' * 30}.blk"
                assert held == {*strangers.values(), link, "folder"}
                assert {(tmp_path / "quarantine" / new).read_text() for new in strangers.values()} == set(strangers)
                assert parts.store.restart.quarantines[0].files == len(strangers) + 1
                assert await parts.read(asked) == content(MIB)
                assert len(ufs.calls) == 1

    run(main())


def test_background_eviction_goes_from_the_high_watermark_to_the_low_one(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 10 * MIB)) as parts:
            parts.store.index.set_rules(0, TierRules(high=0.9, low=0.5))
            for seed in range(9):
                await parts.read(asked_for(parts.ufs.put(str(seed), content(MIB, seed))))
                await settled(parts)
            await parts.store.make_room()
            assert parts.store.index.used(0) == 9 * MIB
            await parts.read(asked_for(parts.ufs.put("one more", content(MIB, 11))))
            await settled(parts)
            await parts.store.make_room()
            assert parts.store.index.used(0) == 5 * MIB

    run(main())


def test_the_state_of_a_block_is_counted(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            await parts.read(asked_for(parts.ufs.put("a", content(12 * MIB))), 5 * MIB, 6 * MIB)
            await settled(parts)
            assert parts.store.index.counts()[State.FILLING] == 1

    run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_full_file_system_costs_no_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", tmp_path / "small/t", 64 * MIB)) as parts:
            data = content(9 * MIB)
            asked = asked_for(parts.ufs.put("a", data))
            assert await parts.read(asked) == data
            await settled(parts)
            assert parts.metrics.tier_errors.value("mem") >= 1
            assert parts.store.index.used(0) == 0
            assert files(tmp_path / "small/t", "part") == []

    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path / "small")], check=True)
    try:
        run(main())
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_files_beyond_the_bound_are_let_go_and_opened_again(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB), files_max=2) as parts:
            data = [content(100_000, seed) for seed in range(5)]
            asked = [asked_for(parts.ufs.put(str(seed), value)) for seed, value in enumerate(data)]
            for _ in range(2):
                for one, value in zip(asked, data, strict=True):
                    assert await parts.read(one) == value
                    await settled(parts)
            assert len(parts.ufs.calls) == 5
            await until(lambda: sum(link.name.endswith(".blk") for link in open_files()) <= 4)

    run(main())


def open_files() -> list[Path]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(link.readlink())
    return found
