"""Lookup, listing, tickets and mounts over the wire, on real folders."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import threading
import time
from contextlib import aclosing
from pathlib import Path

import orjson
import pytest

from forebay.client import Client, ClientOptions
from forebay.contracts import UfsOptions, decode, identity
from forebay.contracts.records import Mount
from forebay.contracts.tickets import parse_key_file, verify
from forebay.errors import NotFound
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.ufs import UfsUri
from forebay.ufs.posix import file_fingerprint
from tests.contract.master.kit import Service, service, settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "train" / "deep").mkdir(parents=True)
    (folder / "train" / "a.bin").write_bytes(b"0123456789")
    (folder / "train" / "empty").write_bytes(b"")
    (folder / "with space ä 日本").write_bytes(b"x")
    return folder


def test_a_file_is_found_with_the_layout_that_workers_derive(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data},block-size=4MiB"])) as s:
            reply = await s.lookup("/m/train/a.bin")
            fingerprint = file_fingerprint((data / "train" / "a.bin").stat())
            layout = reply.entry.layout
            assert layout is not None
            assert (layout.key, layout.size, layout.fingerprint) == ("train/a.bin", 10, fingerprint)
            uri = UfsUri.parse(f"file://{data}")
            assert layout.version_id == uri.version_id(UfsOptions(), "train/a.bin", fingerprint)
            assert layout.block_size == 4 << 20
            assert reply.entry.inode == identity.inode_number("/m", "train/a.bin")
            assert reply.valid_s is not None
            assert 55 < reply.valid_s <= 60
            assert abs(reply.synced_at_s - time.time()) < 10

    run(main())


def test_directories_empty_files_and_odd_names_are_listed(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            assert [(e.name, e.kind) for e in await s.entries("/")] == [("m", "dir")]
            assert [(e.name, e.kind) for e in await s.entries("/m")] == [
                ("train", "dir"),
                ("with space ä 日本", "file"),
            ]
            assert [(e.name, e.kind, e.size) for e in await s.entries("/m/train")] == [
                ("a.bin", "file", 10),
                ("deep", "dir", 0),
                ("empty", "file", 0),
            ]
            assert await s.entries("/m/train/deep") == []
            assert (await s.lookup("/m/with space ä 日本")).entry.size == 1

    run(main())


def test_names_that_are_not_utf8_are_left_out_and_the_rest_is_there(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        (data / "train" / os.fsdecode(b"bad\xff")).write_bytes(b"x")
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            assert [e.name for e in await s.entries("/m/train")] == ["a.bin", "deep", "empty"]

    run(main())


def test_what_is_not_there_is_not_found_and_says_for_how_long(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data},max-age-s=5"])) as s:
            for path in ("/x", "/m/x", "/m/train/x", "/m/train/a.bin/x", "/mm"):
                with pytest.raises(NotFound) as missing:
                    await s.lookup(path)
                valid_s = missing.value.details["valid_s"]
                assert isinstance(valid_s, float)
                assert 0 < valid_s <= 30
            for path in ("/x", "/m/x", "/m/train/a.bin"):
                with pytest.raises(NotFound):
                    await s.page(path)

    run(main())


def test_a_thousand_files_come_in_pages_while_files_change(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        names = [f"f{number:05}" for number in range(1000)]
        for name in names:
            (data / "train" / "deep" / name).write_bytes(b"")
        async with service(settings(tmp_path, [f"/m=file://{data},max-age-s=0"])) as s:
            seen: list[str] = []
            token: str | None = None
            pages = 0
            while token is not None or not pages:
                page = await s.page("/m/train/deep", token, 130)
                seen += [entry.name for entry in page.entries]
                (data / "train" / "deep" / f"f{len(seen):05}x").write_bytes(b"")
                (data / "train" / "deep" / f"f{900 + pages:05}").unlink()
                token, pages = page.next_page_token, pages + 1
            assert (seen, pages) == (names, 8)
            assert len(await s.entries("/m/train/deep")) == 1000

    run(main())


def test_twenty_thousand_files_come_whole_though_others_sync_in_between(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        folder = data / "train" / "deep"
        names = [f"f{number:06}" for number in range(20_000)]
        for name in names:
            (folder / name).touch()
        async with service(settings(tmp_path, [f"/m=file://{data},max-age-s=0"])) as s:
            first = await s.page("/m/train/deep")
            assert len(first.entries) == 10_000
            (folder / "f000000x").touch()
            (folder / "f015000x").touch()
            (folder / "f015001").unlink()
            others = await asyncio.gather(*(s.entries("/m/train/deep") for _ in range(3)))
            assert all(entries[1].name == "f000000x" for entries in others)
            second = await s.page("/m/train/deep", first.next_page_token)
            assert second.next_page_token is None or len(second.entries) == 10_000
            rest = (await s.page("/m/train/deep", second.next_page_token)).entries if second.next_page_token else ()
            seen = [entry.name for entry in (*first.entries, *second.entries, *rest)]
            # whoever was there all the time is seen once; who came behind the first page is seen too
            assert seen == sorted({*names, "f015000x"} - {"f015001"})

    run(main(), watchdog_s=60)


def test_a_changed_file_is_seen_when_max_age_is_over_and_not_before(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        mounts = [f"/old=file://{data},max-age-s=immutable", f"/new=file://{data},max-age-s=0"]
        async with service(settings(tmp_path, mounts)) as s:
            before = {path: (await s.lookup(f"{path}/train/a.bin")).entry.layout for path in ("/old", "/new")}
            (data / "train" / "a.bin").write_bytes(b"changed")
            assert (await s.lookup("/old/train/a.bin")).entry.layout == before["/old"]
            after = (await s.lookup("/new/train/a.bin")).entry.layout
            assert after is not None
            assert (after.size, after != before["/new"]) == (7, True)

    run(main())


def test_a_ticket_is_signed_by_the_key_in_the_state_directory(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"], ticket_ttl_s=100.0)) as s:
            reply = await s.ticket("/m/train")
            ring = parse_key_file((tmp_path / "state" / "cluster.key").read_text(), setting="k")
            claims = verify(ring, reply.ticket, cluster="test", now_s=time.time())
            (mount,) = (await s.mounts()).mounts
            assert (claims.mount_id, claims.generation, claims.client) == (mount.mount_id, 1, "tester")
            assert reply.mount == mount
            assert 90 < reply.expires_at_s - time.time() <= 100

    run(main())


def test_mounts_are_made_and_removed_by_calls_and_those_who_wait_are_told(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path)) as s:
            table = await s.mounts()
            assert table.mounts == ()
            waiting = asyncio.ensure_future(s.mounts(f"?after={table.revision}&wait_s=30"))
            await asyncio.sleep(0.05)
            body = {"path": "/a/b/", "ufs_uri": f"file://{data}/"}
            made = await s.send("POST", "/v1/mounts", body)
            assert made.status == 201
            mount = decode(Mount, made.body)
            assert (mount.path, mount.ufs_uri) == ("/a/b", f"file://{data}")
            assert (await waiting).mounts == (mount,)
            assert (await s.send("POST", "/v1/mounts", body)).status == 200
            assert [entry.name for entry in await s.entries("/a")] == ["b"]
            assert (await s.lookup("/a/b/train/a.bin")).mount_id == mount.mount_id
            removed = await s.send("DELETE", f"/v1/mounts/{mount.mount_id}")
            assert (removed.status, decode(Mount, removed.body)) == (200, mount)
            assert await s.entries("/") == []
            with pytest.raises(NotFound):
                await s.lookup("/a/b/train/a.bin")
            assert s.master.mounts.waiting == 0

    run(main())


def test_a_long_poll_that_sees_nothing_new_ends_and_one_that_gave_up_is_not_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path)) as s:
            revision = (await s.mounts()).revision
            assert (await s.mounts(f"?after={revision}&wait_s=0.1")).revision == revision
            waiting = asyncio.ensure_future(s.mounts(f"?after={revision}&wait_s=30"))
            async with asyncio.timeout(5):
                while s.master.mounts.waiting == 0:
                    await asyncio.sleep(0.005)
                waiting.cancel()
                while s.master.mounts.waiting:
                    await asyncio.sleep(0.005)

    run(main())


def test_long_polls_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        begun = time.monotonic()
        async with service(settings(tmp_path, drain_timeout_s=20.0)) as s:
            revision = (await s.mounts()).revision
            waiting = asyncio.ensure_future(s.mounts(f"?after={revision}&wait_s=30"))
            async with asyncio.timeout(5):
                while s.master.mounts.waiting == 0:
                    await asyncio.sleep(0.005)
        assert (await waiting).revision == revision
        assert time.monotonic() - begun < 10

    run(main())


def test_status_and_metrics_say_what_is_there(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            await s.entries("/m")
            async with asyncio.timeout(10):
                while True:
                    status = await s.status()
                    mount = status.detail["mount /m"]
                    assert isinstance(mount, dict)
                    if mount["inodes"] == 2:
                        break
                    await asyncio.sleep(0.05)
            assert (status.ready, mount["directories"], mount["failed_directories"]) == (True, 1, 0)
            assert status.detail["member master"]
            text = (await s.send("GET", "/metrics")).body.decode()
            assert 'forebay_master_lists_total{outcome="ufs"} 1.0' in text
            assert "forebay_master_sqlite_writes 0.0" in text
            assert "train" not in text
            # given a directory that cannot be listed any more
            (data / "train").rename(data / "was")
            (data / "train").symlink_to("/etc")
            assert (await s.refused("POST", "/v1/list", {"path": "/m/train"}))[1] == "ufs_denied"
            failed = (await s.status()).detail["mount /m"]
            assert isinstance(failed, dict)
            assert failed["failed_directories"] == 1
            assert str(failed["last_failure"]).startswith("ufs_denied")

    run(main())


def test_the_masters_own_place_is_in_the_map(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path)) as s:
            reply = await s.send("GET", "/v1/cluster")
            (member,) = orjson.loads(reply.body)["members"]
            assert (member["member_id"], member["role"], member["tcp"]) == ("master", "master", s.address)
            assert (await s.send("GET", "/readyz")).status == 200

    run(main())


def test_mounts_and_epoch_outlive_a_restart(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        given = settings(tmp_path, [f"/m=file://{data}"])
        async with service(given) as s:
            await s.send("POST", "/v1/mounts", {"path": "/by-call", "ufs_uri": f"file://{data}/train"})
            table = await s.mounts()
            before = s.master.registry.current()
            await s.entries("/m/train")
            layout = (await s.lookup("/m/train/a.bin")).entry.layout
        async with service(given) as s:
            assert await s.mounts() == table
            after = s.master.registry.current()
            assert before is not None
            assert after is not None
            assert after.epoch >= before.epoch
            assert after.revision > before.revision
            assert (await s.lookup("/m/train/a.bin")).entry.layout == layout
            # what was listed before is still good
            assert s.master.meters.lookups.value("store") == 1

    run(main())


def test_nothing_stays_open_after_the_end(tmp_path: Path, data: Path) -> None:
    async def once() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            await s.entries("/m/train")
            await s.lookup("/m/train/a.bin")

    run(once())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(once())
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not any("sqlite" in thread.name or "ufs-file" in thread.name for thread in threading.enumerate())


def test_changes_are_told_over_the_wire_and_a_client_asks_anew(tmp_path: Path) -> None:
    async def main() -> None:
        data = tmp_path / "data"
        (data / "d").mkdir(parents=True)
        (data / "d" / "a").write_bytes(b"1")
        async with service(settings(tmp_path, [f"/m=file://{data},max-age-s=immutable"])) as s:
            options = ClientOptions(registry=f"http://{s.address}", cluster_id="test", client_id="tester")
            async with Client(options, quiet()) as client:
                assert (await client.lookup("/m/d/a")).entry.size == 1
                begun = await client.changes(None)
                waiting = asyncio.ensure_future(client.changes(begun.cursor, 20))
                (data / "d" / "a").write_bytes(b"22")
                done = await client.sync("/m/d/a")
                assert (begun.reset, done.changes) == (False, 1)
                (change,) = (await waiting).changes
                found = await client.lookup("/m/d/a")
                assert found.entry.layout is not None
                assert (change.kind, change.path, change.fingerprint) == (
                    "changed",
                    "/m/d/a",
                    found.entry.layout.fingerprint,
                )
                assert found.entry.size == 2
                assert (await client.changes("0123456789abcdef-1", 20)).reset
            assert await s.refused("GET", "/v1/changes?after=nonsense") == (400, "invalid_request")
            assert await s.refused("POST", "/v1/sync", {"path": "/m/none"}) == (404, "not_found")

    run(main())


def test_a_walk_over_many_directories_takes_few_calls_and_a_second_none(tmp_path: Path) -> None:
    async def main() -> None:
        for directory in range(60):
            (tmp_path / "data" / f"{directory:02}").mkdir(parents=True)
            for number in range(20):
                (tmp_path / "data" / f"{directory:02}" / f"{number}").touch()
        async with service(settings(tmp_path, [f"/m=file://{tmp_path}/data"])) as s:
            options = ClientOptions(registry=f"http://{s.address}", cluster_id="test", client_id="tester")
            async with Client(options, quiet()) as client:
                pages = s.master.meters.lists
                for _ in range(2):
                    tops = [entry.name async for entry in client.list("/m")]
                    found = [[entry.name async for entry in client.list(f"/m/{top}")] for top in tops]
                    assert [len(names) for names in found] == [20] * 60
                    assert await client.lookup("/m/59/19")
                assert pages.value("ufs") + pages.value("store") == 2
                assert s.master.meters.trees.value("done") <= 6
                many = await client.lookup_many(["/m/00/1", "/m/none"])
                assert [item.reply is not None for item in many] == [True, False]
            async with Client(options, quiet()) as client:
                assert await client.load_names("/m") == 60 * 21
                asked = s.master.meters.trees.value("done")
                assert len([entry async for entry in client.list("/m/30")]) == 20
                await client.lookup("/m/30/7")
                assert s.master.meters.trees.value("done") == asked
                assert pages.value("ufs") + pages.value("store") == 2

    run(main())


def test_the_next_page_of_a_tree_is_filled_while_one_is_looked_at_and_all_come_once(tmp_path: Path) -> None:
    async def main() -> None:
        # given
        for directory in range(11):
            (tmp_path / "data" / f"{directory:02}").mkdir(parents=True)
            for number in range(1000):
                (tmp_path / "data" / f"{directory:02}" / f"{number:03}").touch()
        async with service(settings(tmp_path, [f"/m=file://{tmp_path}/data"])) as s:
            options = ClientOptions(registry=f"http://{s.address}", cluster_id="test", client_id="tester")
            async with Client(options, quiet()) as client:
                # when
                async with aclosing(client.tree("/m")) as pages, asyncio.timeout(20):
                    await anext(pages)
                    while s.master.meters.trees.value("done") < 2:
                        await asyncio.sleep(0.01)
                found = [page async for reply in client.tree("/m") for page in reply.directories]
                # then
                names = [f"{page.path}/{entry.name}" for page in found for entry in page.entries]
                below = [f"/m/{directory:02}/{number:03}" for directory in range(11) for number in range(1000)]
                assert names == [f"/m/{directory:02}" for directory in range(11)] + below

    run(main())


def test_of_an_immutable_mount_whose_names_were_loaded_nothing_is_asked_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        # given
        for directory in range(7):
            (tmp_path / "data" / f"{directory}" / "deep").mkdir(parents=True)
            for number in range(30):
                (tmp_path / "data" / f"{directory}" / "deep" / f"{number}").touch()
        async with service(settings(tmp_path, [f"/m=file://{tmp_path}/data,max-age-s=immutable"])) as s:
            options = ClientOptions(
                registry=f"http://{s.address}", cluster_id="test", client_id="tester", metadata_cache_s=3600.0
            )
            async with Client(options, quiet()) as client:
                assert await client.load_names("/m") == 7 * 32
                before = await requests(s)
                assert before
                # when
                for top in [entry.name async for entry in client.list("/m")]:
                    assert [entry.name async for entry in client.list(f"/m/{top}")] == ["deep"]
                    names = [entry.name async for entry in client.list(f"/m/{top}/deep")]
                    assert len(names) == 30
                    for name in names:
                        assert (await client.lookup(f"/m/{top}/deep/{name}")).entry.layout is not None
                # then
                assert await requests(s) == before

    async def requests(s: Service) -> dict[str, str]:
        """What the master has answered, by method and route; not the members' own traffic and these questions."""
        lines = (await s.send("GET", "/metrics")).body.decode().splitlines()
        counts = (
            line.rsplit(" ", 1) for line in lines if line.startswith("http_server_request_duration_seconds_count")
        )
        return {name: n for name, n in counts if not re.search(r'route="/(metrics|v1/cluster|v1/members[^"]*)"', name)}

    run(main())


def test_a_manifest_is_streamed_resumed_and_compressed_if_asked(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        for number in range(500):
            (data / f"file-{number}").touch()
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            (mount,) = (await s.mounts()).mounts
            path = f"/v1/mounts/{mount.mount_id}/manifest"
            plain = await s.send("GET", path)
            (line,) = plain.body.splitlines()
            names = [entry["name"] for page in orjson.loads(line)["directories"] for entry in page["entries"]]
            assert {"train", "a.bin", "file-499"} <= set(names)
            packed = await s.send("GET", path, headers={"accept-encoding": "gzip"})
            again = gzip.decompress(packed.body)
            assert [e["name"] for p in orjson.loads(again)["directories"] for e in p["entries"]] == names
            assert len(packed.body) * 4 < len(plain.body)
            first = orjson.loads((await s.send("GET", "/v1/dirs/m?depth=5&limit=100")).body)
            token = first["next_page_token"]
            rest = orjson.loads((await s.send("GET", f"/v1/dirs/m?depth=5&page_token={token}")).body)
            parts = [e["name"] for reply in (first, rest) for p in reply["directories"] for e in p["entries"]]
            assert parts == names
            page = await s.send("GET", "/v1/dirs/m?limit=2", headers={"accept-encoding": "gzip"})
            assert [e["name"] for e in orjson.loads(page.body)["entries"]] == ["file-0", "file-1"]
            large = await s.send("GET", "/v1/dirs/m", headers={"accept-encoding": "br, gzip;q=0.5"})
            assert len(orjson.loads(gzip.decompress(large.body))["entries"]) == 502

    run(main())
