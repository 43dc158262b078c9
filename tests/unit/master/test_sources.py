"""Under stores of mounts: opened once, ahead or at first use."""

from __future__ import annotations

from forebay.contracts import Mount, UfsOptions
from forebay.errors import UfsUnavailable
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import AllowedRoots, Ufs, UfsUri
from forebay_master.sources import AHEAD_MAX, Sources


def mount(name: str) -> Mount:
    return Mount(mount_id=name, generation=1, path=f"/{name}", ufs_uri=f"s3://{name}/p", ufs_id="0" * 32)


def test_under_stores_are_opened_ahead_and_one_that_cannot_be_is_tried_again_by_who_needs_it() -> None:
    async def main() -> None:
        opened: list[str] = []
        is_away = True

        async def open_ufs(uri: UfsUri, options: UfsOptions) -> Ufs:
            opened.append(str(uri))
            if is_away and "two" in str(uri):
                raise UfsUnavailable("the credentials' service is away")
            return MemoryUfs(uri=str(uri))

        mounts = [mount(name) for name in ("one", "two", "three")]
        sources = Sources(open_ufs, AllowedRoots.parse([m.ufs_uri for m in mounts]))
        # when
        await sources.open_ahead(mounts)
        # then the others are open, and who uses them opens nothing
        assert len(opened) == 3
        assert len(sources) == 2
        async with sources.use(mounts[0]), sources.use(mounts[2]):
            assert len(opened) == 3
        is_away = False
        async with sources.use(mounts[1]):
            assert opened[3:] == ["s3://two/p"]
        await sources.close()

    run(main())


def test_no_more_than_so_many_are_opened_ahead() -> None:
    async def main() -> None:
        async def open_ufs(uri: UfsUri, options: UfsOptions) -> Ufs:
            return MemoryUfs(uri=str(uri))

        mounts = [mount(f"m{number}") for number in range(AHEAD_MAX + 1)]
        sources = Sources(open_ufs, AllowedRoots.parse([m.ufs_uri for m in mounts]))
        await sources.open_ahead(mounts)
        assert len(sources) == AHEAD_MAX
        await sources.close()

    run(main())
