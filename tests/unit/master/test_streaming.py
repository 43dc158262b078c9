"""Pages of a directory that is being listed for the first time: early, and never a short listing that looks whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.contracts import ListReply
from forebay.errors import Conflict, UfsUnavailable
from forebay.testing import run
from forebay.ufs import PAGE_NAMES_MAX, UfsEntry, UfsPage
from forebay_master import failures
from tests.unit.master.kit import ROOT, Kit, ListedUfs, kit

NAMES = [f"part-{number:03}.jpg" for number in range(100)]
SHORT_S = 0.01
SOON_S = 30.0


class Backwards(ListedUfs):
    """Lists a directory from its end, two names a page."""

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """As no general S3 server does."""
        await self._obey(directory, token)
        entries: list[UfsEntry] = [self._describe(key) for key in sorted(self.files, reverse=True)]
        at = int(token or 0)
        more = at + 2 < len(entries)
        return UfsPage(tuple(reversed(entries[at : at + 2])), str(at + 2) if more else None)


@asynccontextmanager
async def held_kit(folder: Path, *, hold_from: str) -> AsyncIterator[Kit]:
    """A mount of ``NAMES``, ten to a page of the under store, of which those from ``hold_from`` wait. Pages go short at
    once, so that no test waits for what is held."""
    async with kit(folder, sight_s=SHORT_S) as k:
        for name in NAMES:
            k.ufs.put(f"d/{name}", b"1")
        await k.mount("/m")
        k.ufs.page_max = 10
        k.ufs.hold, k.ufs.hold_from = asyncio.Event(), hold_from
        yield k
        k.ufs.hold.set()


async def reached(k: Kit, wanted: list[str], token: str | None = None, limit: int = 10_000) -> ListReply:
    """The page behind ``token`` once it has all of ``wanted``; before, it is shorter and has nothing else."""
    async with asyncio.timeout(SOON_S):
        while True:
            page = await k.page("/m/d", token, limit)
            names = [entry.name for entry in page.entries]
            assert names == wanted[: len(names)]
            if len(names) == len(wanted):
                return page


async def rest(k: Kit, page: ListReply, path: str = "/m/d", limit: int = 10_000) -> list[str]:
    found = [entry.name for entry in page.entries]
    while page.next_page_token is not None:
        page = await k.page(path, page.next_page_token, limit)
        found += [entry.name for entry in page.entries]
    return found


def test_the_first_page_comes_while_the_under_store_is_still_listed_and_the_pages_make_the_whole(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with held_kit(tmp_path, hold_from="part-049.jpg") as k:
            first = await reached(k, NAMES[:20], limit=20)
            assert (len(k.syncs), first.synced_at_s) == (1, k.clock.now_s)
            second = await reached(k, NAMES[20:49], first.next_page_token)  # NAMES[49] may have names below it
            assert k.ufs.hold is not None
            k.ufs.hold.set()
            assert await rest(k, first) == NAMES
            assert await rest(k, second) == NAMES[20:]
            assert k.ufs.listed == ["", "d"]

    run(main())


def test_a_failure_in_the_middle_is_an_error_for_the_pages_behind_it_and_the_listing_goes_on_when_it_is_over(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with held_kit(tmp_path, hold_from="part-029.jpg") as k:
            first = await reached(k, NAMES[:15], limit=15)
            token = (await reached(k, NAMES[15:29], first.next_page_token)).next_page_token
            k.ufs.fail = lambda key, token: UfsUnavailable("down")
            assert k.ufs.hold is not None
            k.ufs.hold.set()
            for _ in range(2):
                with pytest.raises(UfsUnavailable, match="down"):
                    await k.page("/m/d", token)
                with pytest.raises(UfsUnavailable, match="down"):
                    await k.page("/m/d")
            assert len(k.syncs.failures(k.mounts.table.mounts[0])) == 1
            k.ufs.fail = lambda key, token: None
            k.clock.now_s += failures.RETRY_MAX_S
            assert await rest(k, first) == NAMES

    run(main())


def test_what_other_mounts_put_into_a_directory_is_merged_into_its_early_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with held_kit(tmp_path, hold_from="part-029.jpg") as k:
            held = k.ufs.hold
            k.ufs.hold = None
            for name in ("a", "part-007a", "z"):
                uri = f"file:///other/{name}"
                k.add_store(uri)
                await k.mount(f"/m/d/{name}", uri)
            k.ufs.hold = held
            first = await reached(k, ["a", *NAMES[:8], "part-007a", *NAMES[8:29]])
            assert held is not None
            held.set()
            assert await rest(k, first) == ["a", *NAMES[:8], "part-007a", *NAMES[8:], "z"]

    run(main())


def test_an_under_store_without_order_is_noticed_and_nobody_gets_a_listing_with_a_hole(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path, sight_s=SHORT_S) as k:
            k.stores[ROOT] = Backwards()
            for name in NAMES[:10]:
                k.ufs.put(name, b"1")
            await k.mount("/m")
            k.ufs.hold, k.ufs.hold_from = asyncio.Event(), "2"
            k.ufs.put("part-100.jpg", b"1")
            first = await k.page("/m")
            assert first.next_page_token is not None
            k.ufs.hold.set()
            with pytest.raises(Conflict):
                await rest(k, first, "/m")
            k.clock.now_s += 100
            assert await k.names("/m", limit=3) == [*NAMES[:10], "part-100.jpg"]

    run(main())


def test_a_directory_is_asked_once_however_many_ask_for_its_early_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with held_kit(tmp_path, hold_from="part-029.jpg") as k:
            pages = await asyncio.gather(*(k.page("/m/d", limit=5) for _ in range(20)))
            assert k.ufs.hold is not None
            k.ufs.hold.set()
            assert await asyncio.gather(*(rest(k, page) for page in pages)) == [NAMES] * 20
            assert k.ufs.listed == ["", "d"]

    run(main())
