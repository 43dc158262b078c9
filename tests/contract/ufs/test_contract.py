"""What every under store promises, on files, two real S3 servers and the fake."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from forebay.errors import InvalidRequest, NotFound, RangeNotSatisfiable, StaleVersion, UfsUnavailable
from forebay.testing import run
from forebay.ufs import Ufs, UfsDir, UfsEntry, UfsFile, check_listable
from tests.contract.ufs.stores import AwkwardStore, FakeStore, FileStore, S3Store, Store, SystemStore, faithful

STRANGE_NAMES = [
    "a b",
    "a  b ",
    "%41",
    "a%2Fb",
    "ü",
    "u\u0308",
    "日本語.jpg",
    "emoji 🌊",
    "plus+plus",
    "q?x=1&y=2#z",
    "~tilde",
    "quote'\"",
    "back\\slash",
    "semi;colon",
    "-dash",
    "@at",
    "=eq",
    "[x]{y}",
    "a*b",
    "(1)",
    "$HOME",
    "..dots",
    "x" * 255,
]


REAL = [
    "files",
    pytest.param("seaweedfs", marks=pytest.mark.s3),
    pytest.param("rclone", marks=pytest.mark.s3),
    "memory",
    "http",
]


@pytest.fixture(params=["fake", *REAL])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return FakeStore() if request.param == "fake" else real(request.param, request, tmp_path)


@pytest.fixture(params=REAL)
def real_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """For what the fake leaves out: it trusts its callers, its root is always there, it needs no closing."""
    return real(request.param, request, tmp_path)


def real(name: str, request: pytest.FixtureRequest, folder: Path) -> Store:
    if name == "files":
        return FileStore(folder)
    if name == "memory":
        return SystemStore()
    if name == "http":
        web: Store = request.getfixturevalue("web_store")
        return web
    if name == "rclone":
        return AwkwardStore(request.getfixturevalue("contract_bucket_awkward"))
    return faithful(request.getfixturevalue("contract_bucket"))


async def content(ufs: Ufs, entry: UfsEntry, start: int = 0, length: int | None = None) -> bytes:
    """A range of the very version that ``entry`` names; the whole of it by default."""
    assert isinstance(entry, UfsFile)
    wanted = entry.size - start if length is None else length
    return b"".join([piece async for piece in ufs.read(entry.key, start, wanted, fingerprint=entry.fingerprint)])


async def listing(ufs: Ufs, directory: str = "", limit: int = 1000) -> list[UfsEntry]:
    """All pages, and that each is in order."""
    found: list[UfsEntry] = []
    token: str | None = None
    for _ in range(5000):
        page = await ufs.list_page(directory, token=token, limit=limit)
        assert len(page.entries) <= limit
        assert list(page.entries) == sorted(page.entries, key=order)
        found.extend(page.entries)
        token = page.next_token
        if token is None:
            return found
    raise AssertionError("the listing does not end")


def order(entry: UfsEntry) -> bytes:
    return (entry.key + "/" * isinstance(entry, UfsDir)).encode()


def keys(entries: list[UfsEntry]) -> list[str]:
    return [entry.key + "/" * isinstance(entry, UfsDir) for entry in entries]


def test_a_listing_shows_one_level_in_byte_order(store: Store) -> None:
    async def main() -> None:
        # given
        store.put_many({k: b"1" for k in ["b", "a/deep/er", "a/x", "Z", "a-b", "é", "a.txt", "c/y"]})
        async with store.opened() as ufs:
            # when
            top, below = await listing(ufs), await listing(ufs, "a")
        # then
        assert keys(top) == ["Z", "a-b", "a.txt", "a/", "b", "c/", "é"]
        assert keys(below) == ["a/deep/", "a/x"]

    run(main())


def test_prefix_siblings_stay_out_of_a_directory(store: Store) -> None:
    async def main() -> None:
        # given
        store.put_many({k: b"1" for k in ["data/a", "data2/b", "data-c", "dat", "data.d/e"]})
        async with store.opened() as ufs:
            # when, then
            assert keys(await listing(ufs, "data")) == ["data/a"]
            with pytest.raises(NotFound):
                await listing(ufs, "da")
            with pytest.raises(NotFound):
                await ufs.stat("data2/a")

    run(main())


def test_a_directory_of_more_than_a_page_comes_whole_and_each_name_once(store: Store) -> None:
    async def main() -> None:
        # given
        names = [f"f{i:04}" for i in range(1030)] + [f"dir{i}/x" for i in range(12)]
        store.put_many({f"big/{name}": b"" for name in names})
        async with store.opened() as ufs:
            # when
            found = await listing(ufs, "big")
        # then
        wanted = {f"big/f{i:04}" for i in range(1030)} | {f"big/dir{i}/" for i in range(12)}
        assert len(found) == len(wanted)
        assert set(keys(found)) == wanted

    run(main(), watchdog_s=60)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_any_size_give_each_name_once(store: Store, limit: int) -> None:
    async def main() -> None:
        # given
        names = ["a", "a-b", "a b/x", "a.c/y", "a0", "b/1", "b/2", "b0", "c/deep/1"]
        store.put_many({name: b"1" for name in names})
        async with store.opened() as ufs:
            # when
            found = keys(await listing(ufs, limit=limit))
        # then
        assert sorted(found) == sorted(["a", "a-b", "a b/", "a.c/", "a0", "b/", "b0", "c/"])

    run(main())


def test_strange_names_are_listed_found_and_read(store: Store) -> None:
    async def main() -> None:
        # given: SeaweedFS itself takes a backslash for a slash
        faithful_s3 = isinstance(store, S3Store) and not isinstance(store, AwkwardStore)
        names = [name for name in STRANGE_NAMES if not (faithful_s3 and "\\" in name)]
        store.put_many({f"{name}/{name}" if len(name) < 100 else name: name.encode() for name in names})
        async with store.opened() as ufs:
            found = {entry.key for entry in await listing(ufs)}
            for name in names:
                # when
                key = f"{name}/{name}" if len(name) < 100 else name
                entry = await ufs.stat(key)
                # then
                assert name in found
                assert await content(ufs, entry) == name.encode()
                if "/" in key:
                    assert keys(await listing(ufs, name)) == [key]

    run(main(), watchdog_s=60)


def test_listing_and_stat_agree(store: Store) -> None:
    async def main() -> None:
        # given
        store.put_many({"d/a": b"12345", "d/sub/b": b"1"})
        async with store.opened() as ufs:
            # when
            listed = await listing(ufs, "d")
            # then
            for entry in listed:
                stated = await ufs.stat(entry.key)
                assert type(stated) is type(entry)
                if isinstance(entry, UfsFile):
                    assert stated == entry
                    assert entry.size == 5
            assert isinstance(await ufs.stat(""), UfsDir)

    run(main())


def test_what_is_not_there_is_not_found(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("there/file", b"123")
        async with store.opened() as ufs:
            # when, then
            for key in ["nothing", "there/nothing", "there/file/below", "nothing/at/all"]:
                with pytest.raises(NotFound):
                    await ufs.stat(key)
                with pytest.raises(NotFound):
                    await ufs.list_page(key)
                with pytest.raises(NotFound):
                    await content(ufs, UfsFile(key, 1, 0, "0123456789abcdef0123456789abcdef"))

    run(main())


def test_ranges_at_all_borders_are_exact(store: Store) -> None:
    async def main() -> None:
        # given
        body = random.Random(7).randbytes(3 * 1024 * 1024 + 17)
        store.put("shard", body)
        size = len(body)
        edges = [0, 1, 4095, 4096, 65536, 1 << 20, (1 << 20) + 1, 2 << 20, size - 1]
        async with store.opened() as ufs:
            entry = await ufs.stat("shard")
            for start in edges:
                for length in {1, 2, 4096, 65537, 1 << 20, size - start}:
                    if start + length <= size:
                        # when, then
                        assert await content(ufs, entry, start, length) == body[start : start + length]

    run(main())


def test_a_range_behind_the_end_is_refused(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("ten", b"0123456789")
        async with store.opened() as ufs:
            entry = await ufs.stat("ten")
            # when, then
            for start, length in [(0, 11), (9, 2), (10, 1), (100, 5)]:
                with pytest.raises(RangeNotSatisfiable):
                    await content(ufs, entry, start, length)

    run(main())


def test_an_empty_file_is_a_file_and_reads_as_nothing(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("d/empty", b"")
        async with store.opened() as ufs:
            # when
            entry = await ufs.stat("d/empty")
            # then
            assert isinstance(entry, UfsFile)
            assert entry.size == 0
            assert await content(ufs, entry) == b""
            with pytest.raises(RangeNotSatisfiable):
                await content(ufs, entry, 0, 1)

    run(main())


def test_an_old_version_is_never_read_as_the_new_one(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("x", b"old content")
        async with store.opened() as ufs:
            old = await ufs.stat("x")
            # when
            for new in [b"new content", b"longer new content", b"s"]:
                store.put("x", new)
                # then
                for start, length in [(0, 1), (0, 11), (5, 6)]:
                    with pytest.raises(StaleVersion):
                        await content(ufs, old, start, length)
                assert await content(ufs, await ufs.stat("x")) == new

    run(main())


def test_a_file_replaced_during_a_read_gives_old_bytes_or_an_error_and_no_mixture(store: Store) -> None:
    async def main() -> None:
        # given
        old, new = b"o" * (12 << 20), b"n" * (12 << 20)
        store.put("x", old)
        async with store.opened() as ufs:
            entry = await ufs.stat("x")
            got = bytearray()
            # when
            with contextlib.suppress(StaleVersion, UfsUnavailable):
                async for piece in ufs.read("x", 0, len(old), fingerprint=cast(UfsFile, entry).fingerprint):
                    if not got:
                        store.put("x", new)
                    got += piece
        # then
        assert got == old[: len(got)]

    run(main())


def test_a_size_that_is_not_the_stores_is_refused(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("x", b"0123456789")
        async with store.opened() as ufs:
            entry = cast(UfsFile, await ufs.stat("x"))
            # when, then
            for claimed in [5, 9, 11, 1 << 40]:
                with pytest.raises(StaleVersion):
                    async for _ in ufs.read("x", 0, 5, fingerprint=entry.fingerprint, size=claimed):
                        pass
            right = [p async for p in ufs.read("x", 0, 5, fingerprint=entry.fingerprint, size=10)]
            assert b"".join(right) == b"01234"

    run(main())


def test_a_deleted_file_is_gone(store: Store) -> None:
    async def main() -> None:
        # given
        store.put_many({"d/x": b"1", "d/y": b"2"})
        async with store.opened() as ufs:
            entry = await ufs.stat("d/x")
            # when
            store.delete("d/x")
            # then
            assert keys(await listing(ufs, "d")) == ["d/y"]
            with pytest.raises(NotFound):
                await ufs.stat("d/x")
            with pytest.raises(NotFound):
                await content(ufs, entry)

    run(main())


def test_a_key_that_would_leave_the_root_is_refused(real_store: Store) -> None:
    async def main() -> None:
        # given
        real_store.put("x", b"1")
        async with real_store.opened() as ufs:
            # when, then
            for key in ["..", "../x", "a/../../x", "/etc/passwd", "x/", "a//b", ".", "a/./b", "nul\0", "\udcff"]:
                with pytest.raises(InvalidRequest):
                    await ufs.stat(key)
                with pytest.raises(InvalidRequest):
                    await ufs.list_page(key)
                with pytest.raises(InvalidRequest):
                    await content(ufs, UfsFile(key, 1, 0, "f"))

    run(main())


def test_a_fingerprint_that_no_version_can_have_is_stale(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("x", b"1")
        async with store.opened() as ufs:
            # when, then
            for forged in ["", "a\r\nX-Header: 1", 'quote"', "ü", "*", "x" * 300]:
                with pytest.raises(StaleVersion):
                    await content(ufs, UfsFile("x", 1, 0, forged))

    run(main())


def test_many_parallel_reads_are_each_exact_and_leave_nothing_open(store: Store) -> None:
    async def main() -> None:
        # given
        body = random.Random(3).randbytes(2 << 20)
        store.put("x", body)
        async with store.opened() as ufs:
            entry = await ufs.stat("x")
            starts = range(0, len(body), 64 << 10)
            # when
            parts = await asyncio.gather(*(content(ufs, entry, start, 64 << 10) for start in starts))
        # then
        assert b"".join(parts) == body
        assert open_streams(store) == 0

    run(main())


def test_a_reader_that_leaves_early_gives_its_stream_back(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("x", bytes(4 << 20))
        async with store.opened() as ufs:
            entry = cast(UfsFile, await ufs.stat("x"))
            # when
            for _ in range(20):  # more than streams_max
                pieces = ufs.read("x", 0, entry.size, fingerprint=entry.fingerprint)
                await anext(pieces)
                await leave(pieces)
            # then
            assert await content(ufs, entry) == bytes(4 << 20)
        assert open_streams(store) == 0

    run(main())


def test_a_reader_that_is_cancelled_gives_its_stream_back(store: Store) -> None:
    async def main() -> None:
        # given
        store.put("x", bytes(4 << 20))
        async with store.opened() as ufs:
            entry = await ufs.stat("x")
            # when
            for pause in range(20):
                task = asyncio.ensure_future(content(ufs, entry))
                for _ in range(pause):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            # then
            assert await content(ufs, entry) == bytes(4 << 20)
        assert open_streams(store) == 0

    run(main())


def test_a_root_is_listable_only_when_it_is_there(real_store: Store) -> None:
    async def main() -> None:
        # given
        if isinstance(real_store, FileStore):
            real_store.folder.rmdir()
        async with real_store.opened() as ufs:
            # when, then
            with pytest.raises(NotFound, match="does not exist"):
                await check_listable(ufs)
            real_store.put("x", b"1")
            await check_listable(ufs)

    run(main())


def test_a_closed_store_is_unavailable(real_store: Store) -> None:
    async def main() -> None:
        # given
        real_store.put("x", b"1")
        # when
        async with real_store.opened() as ufs:
            entry = await ufs.stat("x")
        # then
        for call in (ufs.stat("x"), ufs.list_page(""), content(ufs, entry)):
            with pytest.raises(UfsUnavailable):
                await call

    run(main())


def test_a_read_that_runs_while_the_store_closes_ends_with_an_error_or_whole(store: Store) -> None:
    async def main() -> None:
        # given
        size = 16 << 20
        store.put("x", bytes(size))
        async with store.opened() as ufs:
            entry = cast(UfsFile, await ufs.stat("x"))
            pieces = ufs.read("x", 0, size, fingerprint=entry.fingerprint)
            got = len(await anext(pieces))
        # when, then
        try:
            got += sum([len(piece) async for piece in pieces])
            assert got == size
        except UfsUnavailable:
            pass

    run(main())


async def leave(pieces: AsyncIterator[bytes]) -> None:
    await cast(AsyncGenerator[bytes, None], pieces).aclose()


def open_streams(store: Store) -> float:
    lines = store.telemetry.metrics.render().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("forebay_ufs_streams{"))
