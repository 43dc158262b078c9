"""Pages that span directories, whole mounts and batches, against what is in the under store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from forebay.contracts import BatchRequest, TreeReply, TreeRequest, decode
from forebay.contracts.tree import TREE_DEPTH_MAX, unpacked
from forebay.errors import InvalidRequest, NotFound, TooLarge, UfsDenied
from forebay.testing import run
from forebay_master.failures import RETRY_MAX_S
from tests.unit.master.kit import Kit, kit

KEYS = ("a/1", "a/2", "a/deep/x", "a/deep/y", "a-b/z", "b/1", "c", "e/f/g/h")


async def pages(k: Kit, limit: int, **asked: int | str) -> list[TreeReply]:
    found: list[TreeReply] = []
    token: str | None = None
    while True:
        request = {"path": "/m", "depth": TREE_DEPTH_MAX, "limit": limit, "page_token": token} | asked
        if token is not None:
            request.pop("start", None)
        reply = decode(TreeReply, await k.trees.page(msgspec.convert(request, TreeRequest)))
        found.append(msgspec.structs.replace(reply, directories=tuple(map(unpacked, reply.directories))))
        token = found[-1].next_page_token
        if token is None:
            return found


def names(replies: Sequence[TreeReply]) -> list[str]:
    return [f"{page.path}/{entry.name}" for reply in replies for page in reply.directories for entry in page.entries]


ALL = [
    *("/m/a", "/m/a-b", "/m/b", "/m/c", "/m/e"),
    *("/m/a/1", "/m/a/2", "/m/a/deep", "/m/a/deep/x", "/m/a/deep/y"),
    *("/m/a-b/z", "/m/b/1", "/m/e/f", "/m/e/f/g", "/m/e/f/g/h"),
]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_a_tree_is_every_name_once_directory_by_directory_whatever_the_page(tmp_path: Path, limit: int) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in KEYS:
                k.ufs.put(key, b"1")
            await k.mount("/m")
            for packed in (False, False, True):  # cold, then from the store
                found = await pages(k, limit, packed=packed)
                assert names(found) == ALL
                assert [reply.directories for reply in found] == [
                    reply.directories for reply in await pages(k, limit, packed=not packed)
                ]
                assert all(sum(len(page.entries) for page in reply.directories) <= limit for reply in found)
            assert sorted(k.ufs.listed[1:]) == ["", "a", "a-b", "a/deep", "b", "e", "e/f", "e/f/g"]

    run(main())


def test_names_come_as_leaves_when_asked_but_for_directories_that_mounts_are_in(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in KEYS:
                k.ufs.put(key, b"1")
            k.stores["file:///other"].put("inner", b"")
            await k.mount("/m")
            await k.mount("/m/k", "file:///other")
            assert names(await pages(k, 2, packed=True)) == [*ALL[:5], "/m/k", *ALL[5:]]
            reply = decode(TreeReply, await k.trees.page(TreeRequest(path="/m", packed=True)))
            packed = [(page.path, bool(page.leaves)) for page in reply.directories]
            assert packed[:2] == [("/m", False), ("/m/a", True)]

    run(main())


def test_a_depth_bounds_the_walk_and_a_start_begins_it_in_the_middle(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in KEYS:
                k.ufs.put(key, b"1")
            await k.mount("/m")
            assert names(await pages(k, 100, depth=0)) == ALL[:5]
            flat = [name for name in ALL if name.count("/") <= 3]
            assert names(await pages(k, 100, depth=1)) == flat
            assert names(await pages(k, 2, start="b")) == ["/m/b/1", "/m/e/f", "/m/e/f/g", "/m/e/f/g/h"]
            assert names(await pages(k, 2, path="/m/a", start="deep")) == ["/m/a/deep/x", "/m/a/deep/y"]

    run(main())


def test_a_mount_inside_is_shown_and_not_entered(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a/1", b"")
            k.ufs.put("z/1", b"")
            k.stores["file:///other"].put("inner", b"")
            await k.mount("/m")
            await k.mount("/m/k", "file:///other")
            assert names(await pages(k, 100)) == ["/m/a", "/m/k", "/m/z", "/m/a/1", "/m/z/1"]
            assert names(await pages(k, 100, path="/m/k")) == ["/m/k/inner"]

    run(main())


def test_a_directory_that_fails_ends_the_page_before_it_and_is_the_next_ones_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a/1", b"")
            k.ufs.put("b/1", b"")
            await k.mount("/m")
            k.ufs.fail = lambda key, token: UfsDenied("no") if key == "b" else None
            first = decode(TreeReply, await k.trees.page(TreeRequest(path="/m")))
            assert names([first]) == ["/m/a", "/m/b", "/m/a/1"]
            with pytest.raises(UfsDenied):
                await k.trees.page(TreeRequest(path="/m", page_token=first.next_page_token))
            k.ufs.fail = lambda key, token: None
            k.clock.now_s += RETRY_MAX_S
            rest = await k.trees.page(TreeRequest(path="/m", page_token=first.next_page_token))
            assert names([decode(TreeReply, rest)]) == ["/m/b/1"]

    run(main())


def test_a_directory_that_went_away_is_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in ("a/1", "b/1", "c/1"):
                k.ufs.put(key, b"")
            await k.mount("/m")
            await k.names("/m")
            del k.ufs.files["b/1"]
            assert names(await pages(k, 100)) == ["/m/a", "/m/b", "/m/c", "/m/a/1", "/m/c/1"]
            with pytest.raises(NotFound):
                await pages(k, 100, path="/m/b")

    run(main())


def test_a_manifest_is_the_whole_mount_and_goes_on_from_any_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in KEYS:
                k.ufs.put(key, b"1")
            mount = await k.mount("/m", max_age_s=None)
            k.trees.manifest_limit = 4
            lines = [line async for line in k.trees.manifest(mount.mount_id, None)]
            assert names([decode(TreeReply, line) for line in lines]) == ALL
            token = decode(TreeReply, lines[1]).next_page_token
            assert [line async for line in k.trees.manifest(mount.mount_id, token)] == lines[2:]
            with pytest.raises(NotFound):
                await anext(k.trees.manifest("m-none", None))

    run(main())


@pytest.mark.parametrize("token", ["", "x", "A" * 100, "AgAAAAAAAAAA"])
def test_a_token_that_is_none_or_of_another_tree_is_refused(tmp_path: Path, token: str) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in KEYS:
                k.ufs.put(key, b"1")
            await k.mount("/m")
            first = decode(TreeReply, await k.trees.page(TreeRequest(path="/m", limit=3)))
            good = first.next_page_token
            for path, given in (("/m", token), ("/m/a", good)):
                with pytest.raises(InvalidRequest):
                    await k.trees.page(TreeRequest(path=path, page_token=given))
            with pytest.raises(InvalidRequest):
                await k.trees.page(TreeRequest(path="/m", start=".."))

    run(main())


def test_a_batch_answers_each_path_in_its_place(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            for key in KEYS:
                k.ufs.put(key, b"1")
            await k.mount("/m")
            await k.names("/m/a")
            paths = ("/m/a/1", "/m/none", "/m/../x", "/m", "/m/b/1", "/m/a/1", "/other")
            reply = await k.trees.batch(BatchRequest(paths=paths))
            found = [
                item.reply.entry.name if item.reply else item.error.code if item.error else "" for item in reply.items
            ]
            assert found == ["1", "not_found", "invalid_request", "m", "1", "1", "not_found"]
            assert sorted(k.ufs.asked) == ["b/1", "none"]
            lookups = [(await k.catalog.lookup(path)).entry for path in ("/m/a/1", "/m/b/1")]
            assert [reply.items[0].reply, reply.items[4].reply] == [
                await k.catalog.lookup(path) for path in ("/m/a/1", "/m/b/1")
            ]
            assert all(entry.layout for entry in lookups)
            with pytest.raises(TooLarge):
                await k.trees.batch(BatchRequest(paths=("/m/a",) * 1001))

    run(main())


def test_a_mount_at_the_root_is_walked(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a/1", b"")
            k.stores["file:///other"].put("inner", b"")
            await k.mount("/")
            await k.mount("/k", "file:///other")
            found = await pages(k, 1, path="/")
            shown = [name.replace("//", "/") for name in names(found)]
            assert shown == ["/a", "/k", "/a/1"]

    run(main())
