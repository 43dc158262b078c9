"""The feed of changes: what syncs and lookups find is told once, in order, within a bounded ring."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from forebay.contracts import Change, SyncRequest
from forebay.errors import InvalidRequest, NotFound
from forebay.testing import run
from forebay_master.changes import Feed, FeedLimits
from forebay_master.stats import StatLimits
from tests.unit.master.kit import Kit, kit


def change(number: int) -> Change:
    return Change(mount_id="m", path=f"/{number}", kind="changed", fingerprint="f")


async def told(k: Kit, cursor: str) -> list[tuple[str, str]]:
    reply = await k.feed.changes(cursor, 0)
    assert not reply.reset
    return [(each.kind, each.path) for each in reply.changes]


async def cursor_of(feed: Feed) -> str:
    return (await feed.changes(None, 0)).cursor


def test_a_watcher_sees_every_change_once_and_in_order() -> None:
    async def main() -> None:
        feed = Feed(FeedLimits(reply_max=3))
        cursor = await cursor_of(feed)
        seen: list[str] = []
        feed.tell(change(n) for n in range(5))
        for _ in range(3):
            reply = await feed.changes(cursor, 0)
            cursor, seen = reply.cursor, [*seen, *(each.path for each in reply.changes)]
        assert seen == ["/0", "/1", "/2", "/3", "/4"]

    run(main())


def test_a_waiting_watcher_is_told_at_once() -> None:
    async def main() -> None:
        feed = Feed()
        waiting = asyncio.ensure_future(feed.changes(await cursor_of(feed), 30))
        while not feed.waiting:
            await asyncio.sleep(0)
        feed.tell([change(1)])
        assert [each.path for each in (await waiting).changes] == ["/1"]
        assert feed.waiting == 0

    run(main())


def test_a_cursor_that_is_too_old_or_of_another_master_is_reset() -> None:
    async def main() -> None:
        feed = Feed(FeedLimits(kept_max=3))
        cursor = await cursor_of(feed)
        feed.tell(change(n) for n in range(3))
        assert not (await feed.changes(cursor, 0)).reset
        feed.tell([change(3)])
        old, foreign = await feed.changes(cursor, 30), await feed.changes(await cursor_of(Feed()), 30)
        assert (old.reset, old.changes, foreign.reset) == (True, (), True)
        assert not (await feed.changes(old.cursor, 0)).reset
        ahead = await feed.changes(cursor.replace("-0", "-99"), 30)
        assert ahead.reset

    run(main())


@pytest.mark.parametrize("cursor", ["", "x", "-", "a-b", "a-1-2", "a--1", "a" * 80 + "-1", "ä/-1", "a-²"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    async def main() -> None:
        with pytest.raises(InvalidRequest):
            await Feed().changes(cursor, 0)

    run(main())


def test_a_closed_feed_lets_everyone_go() -> None:
    async def main() -> None:
        feed = Feed()
        waiting = asyncio.ensure_future(feed.changes(await cursor_of(feed), 30))
        while not feed.waiting:
            await asyncio.sleep(0)
        feed.close()
        assert (await waiting).changes == ()

    run(main())


def test_a_sync_tells_what_is_new_replaced_and_gone_and_a_first_one_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for name in ("d/same", "d/replaced", "d/gone"):
                k.ufs.put(name, b"1")
            await k.mount("/m")
            cursor = await cursor_of(k.feed)
            await k.names("/m/d")
            assert await told(k, cursor) == []
            k.ufs.put("d/replaced", b"2")
            k.ufs.put("d/new", b"")
            k.ufs.put("d/sub/file", b"")
            del k.ufs.files["d/gone"]
            k.clock.now_s += 61
            await k.names("/m/d")
            assert sorted(await told(k, cursor)) == [
                ("added", "/m/d/new"),
                ("added", "/m/d/sub"),
                ("changed", "/m/d/replaced"),
                ("removed", "/m/d/gone"),
            ]
            reply = await k.feed.changes(cursor, 0)
            (fingerprint,) = (each.fingerprint for each in reply.changes if each.kind == "changed")
            assert fingerprint == k.ufs.files["d/replaced"][1]

    run(main())


def test_a_directory_that_changed_too_much_is_told_as_a_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/0", b"")
            await k.mount("/m")
            await k.names("/m/d")
            cursor = await cursor_of(k.feed)
            for n in range(1001):
                k.ufs.put(f"d/n{n}", b"")
            await k.catalog.sync(SyncRequest(path="/m/d"))
            assert await told(k, cursor) == [("dir", "/m/d")]

    run(main())


def test_a_lookup_that_finds_another_version_tells_it_once_for_all_who_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"1")
            await k.mount("/m", max_age_s=0.0)
            await k.catalog.lookup("/m/a")
            cursor = await cursor_of(k.feed)
            k.clock.now_s += 1
            await k.catalog.lookup("/m/a")
            assert await told(k, cursor) == []
            k.ufs.put("a", b"2")
            k.clock.now_s += 1
            await asyncio.gather(*(k.catalog.lookup("/m/a") for _ in range(5)))
            assert await told(k, cursor) == [("changed", "/m/a")]
            del k.ufs.files["a"]
            k.clock.now_s += 1
            with pytest.raises(NotFound):
                await k.catalog.lookup("/m/a")
            assert await told(k, cursor) == [("changed", "/m/a"), ("removed", "/m/a")]

    run(main())


def test_mounts_that_come_and_go_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            cursor = await cursor_of(k.feed)
            mount = await k.mount("/m")
            await k.mounts.unmount(mount.mount_id)
            assert await told(k, cursor) == [("dir", "/m"), ("dir", "/m")]

    run(main())


def test_a_sync_asks_anew_on_immutable_mounts_too_and_below_a_directory_if_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/e/a", b"1")
            k.ufs.put("d/b", b"1")
            await k.mount("/m", max_age_s=None)
            for path in ("/m", "/m/d", "/m/d/e"):
                await k.names(path)
            k.ufs.put("d/e/new", b"1")
            k.clock.now_s += 1
            assert (await k.catalog.sync(SyncRequest(path="/m/d"))).changes == 0
            assert await k.names("/m/d/e") == ["a"]
            done = await k.catalog.sync(SyncRequest(path="/m/d", recursive=True))
            assert (done.directories, done.changes) == (2, 1)
            assert await k.names("/m/d/e") == ["a", "new"]

    run(main())


def test_a_sync_of_a_file_asks_for_it_alone_and_of_what_is_not_there_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"1")
            await k.mount("/m", max_age_s=None)
            await k.catalog.lookup("/m/a")
            k.ufs.put("a", b"22")
            k.clock.now_s += 1
            done = await k.catalog.sync(SyncRequest(path="/m/a"))
            assert (done.directories, done.changes, k.ufs.listed) == (0, 1, [""])  # the probe of the mount
            assert (await k.catalog.lookup("/m/a")).entry.size == 2
            for path in ("/m/none", "/other"):
                with pytest.raises(NotFound):
                    await k.catalog.sync(SyncRequest(path=path))

    run(main())


def test_a_directory_that_is_gone_is_told_and_its_sync_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"1")
            await k.mount("/m")
            await k.names("/m/d")
            cursor = await cursor_of(k.feed)
            k.ufs.files.clear()
            k.clock.now_s += 61
            with pytest.raises(NotFound):
                await k.names("/m/d")
            assert await told(k, cursor) == [("removed", "/m/d")]

    run(main())


def test_a_sync_of_a_directory_tells_what_differs_from_single_answers_from_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for name in ("d/same", "d/replaced", "d/gone", "d/sub/deep"):
                k.ufs.put(name, b"1")
            await k.mount("/m", max_age_s=None)
            for name in ("d/same", "d/replaced", "d/gone", "d/sub/deep"):
                await k.catalog.lookup(f"/m/{name}")
            with pytest.raises(NotFound):
                await k.catalog.lookup("/m/d/new")
            cursor = await cursor_of(k.feed)
            for name in ("d/replaced", "d/new", "d/unseen", "d/sub/deep"):
                k.ufs.put(name, b"22")
            del k.ufs.files["d/gone"]
            k.clock.now_s += 1
            done = await k.catalog.sync(SyncRequest(path="/m/d", recursive=True))
            assert (done.directories, done.changes) == (2, 4)
            assert sorted(await told(k, cursor)) == [
                ("added", "/m/d/new"),
                ("changed", "/m/d/replaced"),
                ("changed", "/m/d/sub/deep"),
                ("removed", "/m/d/gone"),
            ]
            k.clock.now_s += 1
            assert (await k.catalog.sync(SyncRequest(path="/m/d", recursive=True))).changes == 0

    run(main())


def test_a_sync_of_names_that_were_forgotten_for_want_of_room_tells_the_directory(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path, stat_limits=StatLimits(kept_max=1)) as k:
            for name in ("d/a", "d/b"):
                k.ufs.put(name, b"1")
            await k.mount("/m", max_age_s=None)
            for name in ("d/a", "d/b"):
                await k.catalog.lookup(f"/m/{name}")
            cursor = await cursor_of(k.feed)
            k.clock.now_s += 1
            assert (await k.catalog.sync(SyncRequest(path="/m/d"))).changes == 1
            assert await told(k, cursor) == [("dir", "/m/d")]

    run(main())


def test_a_directory_known_by_single_answers_alone_that_is_gone_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("d/a", b"1")
            await k.mount("/m", max_age_s=None)
            await k.catalog.lookup("/m/d/a")
            cursor = await cursor_of(k.feed)
            k.ufs.files.clear()
            k.clock.now_s += 1
            with pytest.raises(NotFound):
                await k.catalog.sync(SyncRequest(path="/m/d"))
            with pytest.raises(NotFound):
                await k.names("/m/d")
            assert ("removed", "/m/d") in await told(k, cursor)

    run(main())
