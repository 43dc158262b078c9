"""What may be mounted where, what can be changed of a mount, and the consistency classes below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.contracts import ConsistencyRule, Mount, MountRequest, SyncRequest
from forebay.errors import Conflict, InvalidRequest, NotFound
from forebay.testing import run
from forebay_master import freshness
from forebay_master.mount_rules import changed_request
from tests.unit.master.kit import Kit, kit, request

OTHER = "file:///other"


async def reason(k: Kit, path: str, uri: str) -> object:
    before = k.mounts.reply()
    with pytest.raises(Conflict) as refused:
        await k.mounts.mount(MountRequest(path=path, ufs_uri=uri))
    assert k.mounts.reply() == before
    return refused.value.details["reason"]


def test_a_mount_over_a_folder_with_names_or_over_a_file_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("full/a", b"")
            k.ufs.put("file", b"")
            await k.mount("/m")
            assert await reason(k, "/m/full", OTHER) == "not_empty"
            assert await reason(k, "/m/file", OTHER) == "not_empty"
            await k.mount("/m/free", OTHER)
            assert await k.names("/m") == ["file", "free", "full"]

    run(main())


def test_the_same_source_at_two_paths_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await k.mount("/a")
            assert await reason(k, "/b", "file:///memory") == "mounted_twice"
            assert await reason(k, "/a", OTHER) == "path_taken"

    run(main())


@pytest.mark.parametrize(
    ("outer", "inner"), [("file:///memory", "file:///memory/x"), ("file:///memory/x", "file:///memory")]
)
def test_a_source_in_itself_is_refused_whichever_comes_first(tmp_path: Path, outer: str, inner: str) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.add_store("file:///memory/x")
            await k.mount("/m", outer)
            assert await reason(k, "/m/deep/inner", inner) == "into_itself"
            assert await reason(k, "/", inner) == "into_itself"
            await k.mount("/beside", inner)

    run(main())


def test_options_are_changed_and_the_source_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"")
            first = await k.mount("/m")
            changed = await k.mounts.change(first.mount_id, {"max_age_s": None, "replicas": 2, "quota_bytes": 5})
            assert (changed.mount_id, changed.generation) == (first.mount_id, 2)
            assert (changed.max_age_s, changed.replicas, changed.quota_bytes) == (None, 2, 5)
            assert k.mounts.table.at("/m") == changed
            assert await k.mounts.change(first.mount_id, {"replicas": 2}) == changed
            assert await k.names("/m") == ["a"]
            revision = k.mounts.revision
            wrong: tuple[object, ...] = (
                {"ufs_uri": OTHER},
                {"path": "/n"},
                {"replicas": 0},
                {"replicas": "2"},
                [],
                "x",
                {"what": 1},
            )
            for bad in wrong:
                with pytest.raises(InvalidRequest):
                    await k.mounts.change(first.mount_id, bad)
            with pytest.raises(NotFound):
                await k.mounts.change("m-none", {"replicas": 3})
            assert k.mounts.revision == revision

    run(main())


def test_a_mount_of_the_settings_is_changed_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await k.mounts.settle([request("/a")])
            mount = k.mounts.table.at("/a")
            assert mount is not None
            with pytest.raises(Conflict):
                await k.mounts.change(mount.mount_id, {"replicas": 2})

    run(main())


def with_rules(*rules: tuple[str, float | None]) -> Mount:
    mount = Mount(mount_id="m", generation=1, path="/m", ufs_uri="file:///x", ufs_id="0" * 32)
    made = [{"prefix": prefix, "max_age_s": age} for prefix, age in rules]
    changed = changed_request(mount, {"rules": made})
    assert all(isinstance(rule, ConsistencyRule) for rule in changed.rules)
    return Mount(mount_id="m", generation=1, path="/m", ufs_uri="file:///x", ufs_id="0" * 32, rules=changed.rules)


def test_the_longest_rule_by_whole_parts_says_how_old_an_answer_may_be() -> None:
    mount = with_rules(("train", None), ("train/live", 0.0), ("trai", 5.0))
    ages = {
        key: freshness.max_age_of(mount, key) for key in ("", "train", "train/a", "train/live/x", "trainer", "trai")
    }
    assert ages == {"": 60.0, "train": None, "train/a": None, "train/live/x": 0.0, "trainer": 60.0, "trai": 5.0}
    listings = {key: freshness.listing_age_of(mount, key) for key in ("", "train", "train/live", "other")}
    assert listings == {"": 5.0, "train": 0.0, "train/live": 0.0, "other": 60.0}


def test_below_a_prefix_another_consistency_class_holds(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in ("fixed/a", "live/a", "a"):
                k.ufs.put(key, b"1")
            mount = await k.mount("/m", max_age_s=60.0)
            rules = [{"prefix": "fixed", "max_age_s": None}, {"prefix": "live", "max_age_s": 0}]
            await k.mounts.change(mount.mount_id, {"rules": rules})
            valid = {}
            for path in ("/m/fixed/a", "/m/live/a", "/m/a"):
                valid[path] = (await k.catalog.lookup(path)).valid_s
            assert valid == {"/m/fixed/a": None, "/m/live/a": 0.0, "/m/a": 60.0}
            for key in ("fixed/a", "live/a", "a"):
                k.ufs.put(key, b"22")
            k.clock.now_s += 30
            sizes = [(await k.catalog.lookup(path)).entry.size for path in valid]
            assert sizes == [1, 2, 1]
            k.clock.now_s += 31
            sizes = [(await k.catalog.lookup(path)).entry.size for path in valid]
            assert sizes == [1, 2, 2]
            await k.catalog.sync(SyncRequest(path="/m/fixed/a"))
            assert (await k.catalog.lookup("/m/fixed/a")).entry.size == 2

    run(main())


def test_a_mount_that_is_to_be_written_to_is_refused_and_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            mount = await k.mount("/m")
            assert mount.read_only
            assert await k.mounts.change(mount.mount_id, {"read_only": True}) == mount
            revision = k.mounts.revision
            for refused in (
                k.mounts.mount(MountRequest(path="/w", ufs_uri="file:///other", read_only=False)),
                k.mounts.change(mount.mount_id, {"read_only": False}),
            ):
                with pytest.raises(InvalidRequest, match="does not write to under stores") as error:
                    await refused
                assert error.value.details["reason"] == "read_only"
            assert (k.mounts.revision, k.mounts.table.mounts) == (revision, (mount,))

    run(main())
