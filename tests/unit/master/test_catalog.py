"""Lookups and listings against a scripted under store: what is asked when, and what is never concluded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from forebay.contracts import SyncRequest
from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    UfsDenied,
    UfsError,
    UfsUnavailable,
)
from forebay.testing import run
from forebay.ufs import PAGE_NAMES_MAX, UfsPage
from forebay_master import failures
from forebay_master.freshness import PAGING_S
from forebay_master.stats import StatLimits
from forebay_master.syncs import SyncLimits
from tests.unit.master.kit import ListedUfs, kit


def unavailable(key: str, token: str | None) -> ForebayError | None:
    return UfsUnavailable("down")


def healthy(key: str, token: str | None) -> ForebayError | None:
    return None


def test_a_lookup_in_a_directory_without_a_listing_asks_for_that_name_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"123")
            mount = await k.mount("/data")
            k.ufs.listed.clear()
            reply = await k.catalog.lookup("/data/d/a")
            assert (reply.entry.size, reply.mount_id, reply.synced_at_s) == (3, mount.mount_id, k.clock.now_s)
            assert (k.ufs.asked, k.ufs.listed) == (["d/a"], [])

    run(main())


def test_a_second_lookup_asks_nobody_until_max_age_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"1")
            await k.mount(max_age_s=60.0)
            await k.catalog.lookup("/a")
            k.clock.now_s += 59
            k.ufs.put("a", b"12")
            reply = await k.catalog.lookup("/a")
            assert (reply.entry.size, reply.valid_s) == (1, 1.0)
            k.clock.now_s += 2
            assert (await k.catalog.lookup("/a")).entry.size == 2
            assert k.ufs.asked == ["a", "a"]

    run(main())


def test_a_lookup_in_a_listed_directory_asks_nobody_for_names_that_are_there_and_that_are_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"1")
            await k.mount()
            await k.names("/d")
            await k.catalog.lookup("/d/a")
            with pytest.raises(NotFound) as missing:
                await k.catalog.lookup("/d/b")
            assert missing.value.details["synced_at_s"] == k.clock.now_s
            assert missing.value.details["valid_s"] == 30.0
            assert k.ufs.asked == []

    run(main())


def test_the_newer_of_listing_and_single_answer_counts(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await k.mount(max_age_s=60.0)
            k.ufs.put("x", b"")
            with pytest.raises(NotFound):
                await k.catalog.lookup("/a")
            k.clock.now_s += 10
            k.ufs.put("a", b"1")
            assert await k.names("/") == ["a", "x"]
            assert (await k.catalog.lookup("/a")).entry.size == 1

    run(main())


def test_a_mount_that_always_asks_asks_each_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"1")
            await k.mount(max_age_s=0.0)
            for size in (1, 2, 3):
                k.ufs.put("a", b"1" * size)
                k.clock.now_s += 0.001
                reply = await k.catalog.lookup("/a")
                assert (reply.entry.size, reply.valid_s) == (size, 0.0)
                page = await k.page("/")
                assert (page.entries[0].size, page.valid_s) == (size, 0.0)

    run(main())


def test_an_immutable_mount_asks_once_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"1")
            await k.mount(max_age_s=None)
            k.ufs.listed.clear()
            await k.names("/")
            k.clock.now_s += 1e9
            k.ufs.put("b", b"1")
            page = await k.page("/")
            assert ([entry.name for entry in page.entries], page.valid_s) == (["a"], None)
            assert k.ufs.listed == [""]

    run(main())


def test_a_failed_single_question_is_no_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"1")
            await k.mount()
            k.ufs.fail = unavailable
            with pytest.raises(UfsUnavailable):
                await k.catalog.lookup("/a")
            k.ufs.fail = healthy
            assert (await k.catalog.lookup("/a")).entry.size == 1
            assert k.stats.kept == 1

    run(main())


def test_a_failed_sync_is_reported_tried_again_and_never_an_empty_directory(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for number in range(25):
                k.ufs.put(f"d/{number:02}", b"1")
            mount = await k.mount(max_age_s=60.0)
            k.ufs.page_max = 10

            # given a listing that breaks on its second page
            k.ufs.fail = lambda key, token: UfsUnavailable("down") if token else None
            with pytest.raises(UfsUnavailable):
                await k.names("/d")
            # then nothing of it is believed: neither names nor their absence
            assert k.syncs.failures(mount)[0].code == "ufs_unavailable"
            assert (await k.catalog.lookup("/d/24")).entry.name == "24"
            with pytest.raises(UfsUnavailable):
                await k.names("/d")
            # when it works again, and it is time to ask again
            k.ufs.fail = healthy
            with pytest.raises(UfsUnavailable, match="down"):
                await k.names("/d")
            k.clock.now_s += 1
            assert len(await k.names("/d")) == 25
            assert k.syncs.failures(mount) == []

            # and a later failure neither hides what was known nor lends it more time
            k.ufs.fail = unavailable
            assert len(await k.names("/d")) == 25
            k.clock.now_s += 61
            with pytest.raises(UfsUnavailable):
                await k.names("/d")
            assert k.counted("syncs", "ufs_unavailable") == 3

    run(main())


def test_a_directory_that_is_gone_is_not_found_and_found_again_when_it_returns(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"1")
            await k.mount(max_age_s=10.0)
            assert await k.names("/d") == ["a"]
            del k.ufs.files["d/a"]
            k.clock.now_s += 11
            for _ in range(2):
                with pytest.raises(NotFound):
                    await k.names("/d")
            k.ufs.put("d/b", b"1")
            assert await k.names("/d") == ["b"]

    run(main())


def test_many_who_list_one_directory_list_it_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for number in range(100):
                k.ufs.put(f"{number:03}", b"")
            await k.mount()
            k.ufs.listed.clear()
            k.ufs.hold = asyncio.Event()
            asked = [asyncio.ensure_future(k.page("/")) for _ in range(20)]
            while not k.ufs.listed:
                await asyncio.sleep(0.001)
            k.ufs.hold.set()
            assert [len(page.entries) for page in await asyncio.gather(*asked)] == [100] * 20
            assert k.ufs.listed == [""]

    run(main())


def test_a_caller_that_gives_up_finds_the_listing_when_it_asks_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"")
            await k.mount()
            k.ufs.listed.clear()
            k.ufs.hold = asyncio.Event()
            first = asyncio.ensure_future(k.page("/"))
            while not k.ufs.listed:
                await asyncio.sleep(0.001)
            first.cancel()
            k.ufs.hold.set()
            await k.settled()
            assert await k.names("/") == ["a"]
            assert k.ufs.listed == [""]

    run(main())


def test_pages_of_one_listing_come_from_one_sync_though_files_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for number in range(30):
                k.ufs.put(f"{number:02}", b"")
            await k.mount(max_age_s=0.0)
            k.ufs.listed.clear()
            first = await k.page("/", limit=10)
            await k.settled()  # (a page of a listing that still comes in may be short)
            k.ufs.put("05x", b"")
            del k.ufs.files["25"]
            k.clock.now_s += PAGING_S / 2
            second = await k.page("/", first.next_page_token, 20)
            assert [entry.name for entry in second.entries] == [f"{number:02}" for number in range(10, 30)]
            assert (second.synced_at_s, second.next_page_token) == (first.synced_at_s, None)
            assert k.ufs.listed == [""]

    run(main())


def test_a_listing_that_dawdles_goes_on_from_a_new_sync_behind_the_same_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for number in range(30):
                k.ufs.put(f"{number:02}", b"")
            await k.mount(max_age_s=10.0)
            first = await k.page("/", limit=10)
            del k.ufs.files["25"]
            k.ufs.put("05x", b"")
            k.ufs.put("15x", b"")
            k.clock.now_s += PAGING_S + 1
            second = await k.page("/", first.next_page_token, 100)
            names = [entry.name for entry in second.entries]
            assert names == sorted({f"{number:02}" for number in range(10, 30)} - {"25"} | {"15x"})

    run(main())


def test_a_token_of_another_directory_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for directory in "ab":
                for number in range(3):
                    k.ufs.put(f"{directory}/{number}", b"")
            await k.mount()
            token = (await k.page("/a", limit=1)).next_page_token
            with pytest.raises(InvalidRequest):
                await k.page("/b", token)

    run(main())


def test_directories_above_mounts_and_mount_points_show_in_listings(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("b", b"hidden")
            k.ufs.put("a", b"")
            k.ufs.put("z", b"")
            await k.mount("/x")
            await k.mount("/x/b/c", "file:///other")
            assert await k.names("/") == ["x"]
            assert await k.names("/x") == ["a", "b", "z"]
            assert await k.names("/x", limit=1) == ["a", "b", "z"]
            assert (await k.catalog.lookup("/x/b")).entry.kind == "dir"
            assert (await k.catalog.lookup("/x/b")).mount_id is None
            # "b" is a file in the under store: what mounts need hides it
            assert await k.names("/x/b") == ["c"]
            with pytest.raises(NotFound):
                await k.catalog.lookup("/y")
            with pytest.raises(NotFound):
                await k.names("/y")

    run(main())


def test_without_mounts_there_is_an_empty_root(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            assert await k.names("/") == []
            assert (await k.catalog.lookup("/")).entry.inode == 1

    run(main())


def test_an_entry_looks_the_same_in_a_lookup_and_in_a_listing(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"123")
            k.ufs.put("d/e/f", b"123")
            await k.mount("/m")
            looked_up = [(await k.catalog.lookup(f"/m/d/{name}")).entry for name in ("a", "e")]
            assert list((await k.page("/m/d")).entries) == looked_up
            assert (await k.page("/")).entries[0] == (await k.catalog.lookup("/m")).entry

    run(main())


def test_names_that_an_under_store_gives_twice_are_there_once(tmp_path: Path) -> None:
    class Doubled(ListedUfs):
        async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
            page = await super().list_page(directory, token=token, limit=limit)
            return UfsPage(page.entries, page.next_token or (None if token else "again"))

    async def main() -> None:
        async with kit(tmp_path) as k:
            k.stores["file:///memory"] = ufs = Doubled()
            ufs.put("a", b"")
            await k.mount()
            assert await k.names("/") == ["a"]

    run(main())


def test_a_listing_that_does_not_move_on_is_an_error_of_the_under_store(tmp_path: Path) -> None:
    class Stuck(ListedUfs):
        async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
            return UfsPage((), "same")

    async def main() -> None:
        async with kit(tmp_path) as k:
            k.stores["file:///memory"] = Stuck()
            await k.mount()
            with pytest.raises(UfsError):
                await k.page("/")

    run(main())


def test_limits_of_syncs_and_single_questions_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        sync_limits = SyncLimits(running_max=1, flights_max=2, sync_max_s=0.05)
        stat_limits = StatLimits(running_max=1, flights_max=2, stat_max_s=0.05, kept_max=3)
        async with kit(tmp_path, sync_limits=sync_limits, stat_limits=stat_limits) as k:
            for number in range(5):
                k.ufs.put(f"{number}", b"")
                k.ufs.put(f"d{number}/x", b"")
            await k.mount()
            for number in range(5):
                await k.catalog.lookup(f"/{number}")
            assert k.stats.kept == 3
            k.ufs.hold = asyncio.Event()
            lists = [asyncio.ensure_future(k.page(f"/d{number}")) for number in range(3)]
            lookups = [asyncio.ensure_future(k.catalog.lookup(f"/d{number}")) for number in range(3)]
            results = await asyncio.gather(*lists, *lookups, return_exceptions=True)
            kinds = [type(result) for result in results]
            assert kinds.count(Overloaded) == 2
            assert kinds.count(DeadlineExceeded) == 4
            k.ufs.hold = None
            assert await k.names("/d0") == ["x"]

    run(main())


def test_a_mount_removed_while_it_is_listed_leaves_no_listing(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"")
            mount = await k.mount()
            k.ufs.listed.clear()
            k.ufs.hold = asyncio.Event()
            listing = asyncio.ensure_future(k.page("/"))
            while not k.ufs.listed:
                await asyncio.sleep(0.001)
            await k.mounts.unmount(mount.mount_id)
            closed_early = k.ufs.is_closed
            k.ufs.hold.set()
            with pytest.raises(NotFound):
                await listing
            assert (closed_early, k.ufs.is_closed) == (False, True)
            await k.settled()
            left = await k.database.read(lambda db: db.execute("SELECT count(*) FROM leaves").fetchone())
            assert left == (0,)

    run(main())


def test_a_failure_is_stored_with_its_cause_and_the_time_of_the_next_try(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"1")
            mount = await k.mount()
            k.ufs.fail = lambda key, token: UfsDenied("refused")
            begun_s, pauses = k.clock.now_s, []
            for _ in range(6):
                with pytest.raises(UfsDenied, match="refused") as denied:
                    await k.names("/d")
                said = denied.value.details
                assert (said["sync_error"], said["failed_at_s"]) == ("ufs_denied", k.clock.now_s)
                assert isinstance(said["retry_at_s"], float)
                pauses.append(said["retry_at_s"] - k.clock.now_s)
                k.clock.now_s += pauses[-1]
            assert pauses == [0, 1, 2, 4, 8, 10]
            with pytest.raises(UfsDenied):
                await k.names("/d")
            asked = len(k.ufs.listed)
            with pytest.raises(UfsDenied, match="refused") as held:
                await k.names("/d")
            assert (len(k.ufs.listed), held.value.details["attempts"]) == (asked, 7)
            stored = (await k.database.read(failures.load))[0]
            assert (stored.name, stored.code, stored.attempts) == ((mount.mount_id, 1, "d"), "ufs_denied", 7)

            # a master that starts anew knows it, and a call for a sync does not wait
            await k.syncs.load()
            assert k.syncs.failures(mount) == [stored]
            k.ufs.fail = healthy
            with pytest.raises(UfsDenied):
                await k.names("/d")
            await k.catalog.sync(SyncRequest(path="/d"))
            assert await k.names("/d") == ["a"]
            assert await k.database.read(failures.load) == []
            assert k.clock.now_s > begun_s

    run(main())


def test_a_mount_that_goes_takes_its_failures_along(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"1")
            mount = await k.mount()
            k.ufs.fail = unavailable
            with pytest.raises(UfsUnavailable):
                await k.names("/d")
            await k.mounts.unmount(mount.mount_id)
            assert await k.database.read(failures.load) == []

    run(main())
