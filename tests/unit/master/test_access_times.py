"""Access times: kept by the master when somebody tells them, told with names, gone with their mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.contracts import Access, AccessesRequest, BatchRequest, TreeReply, TreeRequest, decode
from forebay.errors import InvalidRequest
from forebay.testing import run
from tests.unit.master.kit import ACCESSES_MAX, Kit, kit


async def tell(k: Kit, *told: tuple[str, float]) -> int:
    """As the route does."""
    return await k.accesses.tell(AccessesRequest(accesses=tuple(Access(path=p, accessed_s=s) for p, s in told)))


async def looked(k: Kit, path: str) -> float | None:
    return (await k.catalog.lookup(path)).accessed_s


async def filled(k: Kit, count: int = 5) -> None:
    for number in range(count):
        k.ufs.put(f"d/{number:03}", b"1")
    await k.mount("/m")


def test_lookups_listings_trees_and_batches_tell_what_was_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await filled(k)
            assert await tell(k, ("/m/d/001", 7.0), ("/m/d/003", 8.5)) == 2
            assert [await looked(k, f"/m/d/{name}") for name in ("000", "001", "003")] == [None, 7.0, 8.5]
            assert (await k.page("/m/d")).accessed == {"001": 7.0, "003": 8.5}
            first = await k.page("/m/d", limit=2)
            rest = await k.page("/m/d", first.next_page_token)
            assert (first.accessed, rest.accessed) == ({"001": 7.0}, {"003": 8.5})
            for packed in (False, True):
                body = await k.trees.page(TreeRequest(path="/m/d", packed=packed))
                assert [page.accessed for page in decode(TreeReply, body).directories] == [{"001": 7.0, "003": 8.5}]
            batch = await k.trees.batch(BatchRequest(paths=("/m/d/000", "/m/d/003")))
            assert [item.reply and item.reply.accessed_s for item in batch.items] == [None, 8.5]

    run(main())


def test_the_latest_of_what_several_tell_counts_and_a_time_to_come_is_now(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await filled(k)
            for told_s, known_s in ((50.0, 50.0), (40.0, 50.0), (1e12, k.clock.now_s)):
                await tell(k, ("/m/d/001", told_s))
                assert await looked(k, "/m/d/001") == known_s

    run(main())


def test_they_survive_a_restart_and_go_with_their_mount(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await filled(k)
            await tell(k, ("/m/d/001", 7.0))
        async with kit(tmp_path) as k:
            k.ufs.put("d/001", b"1")
            await k.accesses.load()
            assert (k.accesses.rows, await looked(k, "/m/d/001")) == (1, 7.0)
            await k.mounts.unmount(k.mounts.table.mounts[0].mount_id)
            await k.mount("/m")
            assert await looked(k, "/m/d/001") is None
            await k.accesses.load()
            assert k.accesses.rows == 0

    run(main())


def test_what_no_mount_holds_is_not_kept_and_a_path_that_is_none_keeps_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await filled(k)
            assert await tell(k, ("/other/x", 7.0), ("/m", 7.0), ("/", 7.0)) == 0
            with pytest.raises(InvalidRequest):
                await tell(k, ("/m/d/001", 7.0), ("/m/../x", 7.0))
            assert (k.accesses.rows, await looked(k, "/m/d/001")) == (0, None)

    run(main())


def test_when_there_are_too_many_those_that_were_not_read_for_longest_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await filled(k, ACCESSES_MAX + 1)
            for number in range(ACCESSES_MAX + 1):
                await tell(k, (f"/m/d/{number:03}", 100.0 + number))
            kept = ACCESSES_MAX * 7 // 8
            assert k.accesses.rows == kept
            assert sorted((await k.page("/m/d")).accessed) == [f"{n:03}" for n in range(ACCESSES_MAX + 1)][-kept:]

    run(main())
