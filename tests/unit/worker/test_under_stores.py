"""Under stores are opened once for each mount, and none outlives its mount."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from forebay.contracts import Mount, MountsReply, UfsOptions
from forebay.errors import ConfigError, NotFound
from forebay.runtime import Supervisor
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import AllowedRoots, UfsUri
from forebay_worker.mounts import MountBook
from forebay_worker.under_stores import UfsPool

URI = UfsUri.parse("file:///data")


class OneUfs(MemoryUfs):
    """Knows whether it was closed."""

    is_closed = False

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class Scene:
    """A book, a pool, and all under stores that were ever opened; ``gate`` lets openings end."""

    made: list[OneUfs] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_broken: bool = False

    def __post_init__(self) -> None:
        self.gate.set()
        self.book = MountBook("c", AllowedRoots.parse(["file:///data"]))
        self.pool = UfsPool(self.book, self.opener)

    async def opener(self, uri: UfsUri, options: UfsOptions) -> OneUfs:
        await self.gate.wait()
        if self.is_broken:
            raise ConfigError("source", "no such profile")
        self.made.append(OneUfs())
        return self.made[-1]

    def take(self, *names: str, generation: int = 1) -> None:
        mounts = tuple(mount(name, generation) for name in names)
        self.book.take(MountsReply(cluster_id="c", revision=self.book.revision + 1, mounts=mounts))

    async def mounted(self, *names: str, generation: int = 1) -> None:
        self.take(*names, generation=generation)
        await self.pool.keep_known()

    def is_open(self) -> list[bool]:
        return [not ufs.is_closed for ufs in self.made]


def mount(name: str, generation: int) -> Mount:
    ufs_id = URI.ufs_id(UfsOptions())
    return Mount(
        mount_id=name, generation=generation, path=f"/{name}", ufs_uri=str(URI), ufs_id=ufs_id, block_size=4 << 20
    )


def with_scene(body: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        await body(Scene())

    run(main())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_readers_of_a_new_mount_share_one_opening() -> None:
    async def body(scene: Scene) -> None:
        await scene.mounted("a")
        mounted = scene.book.find("a")
        found = await asyncio.gather(*[scene.pool.get(mounted) for _ in range(5)])
        assert found == scene.made * 5

    with_scene(body)


def test_a_mount_that_is_gone_when_its_opening_ends_is_closed_and_not_found() -> None:
    async def body(scene: Scene) -> None:
        await scene.mounted("a")
        scene.gate.clear()
        reading = asyncio.ensure_future(scene.pool.get(scene.book.find("a")))
        await turns()
        await scene.mounted()
        scene.gate.set()
        with pytest.raises(NotFound):
            await reading
        assert scene.is_open() == [False]

    with_scene(body)


def test_a_mount_made_anew_meanwhile_does_not_get_the_under_store_of_the_old_one() -> None:
    async def body(scene: Scene) -> None:
        await scene.mounted("a")
        scene.gate.clear()
        reading = asyncio.ensure_future(scene.pool.get(scene.book.find("a")))
        await turns()
        await scene.mounted("a", generation=2)
        scene.gate.set()
        with pytest.raises(NotFound):
            await reading
        assert await scene.pool.get(scene.book.find("a")) is scene.made[1]
        assert scene.is_open() == [False, True]

    with_scene(body)


def test_a_mount_is_read_as_soon_as_the_book_has_it() -> None:
    async def body(scene: Scene) -> None:
        scene.take("a")
        assert await scene.pool.get(scene.book.find("a")) is scene.made[0]
        await scene.pool.keep_known()
        assert scene.is_open() == [True]

    with_scene(body)


def test_a_mount_that_is_slow_to_open_holds_up_no_other() -> None:
    async def body(scene: Scene) -> None:
        await scene.mounted("a", "b")
        scene.gate.clear()
        slow = asyncio.ensure_future(scene.pool.get(scene.book.find("a")))
        await turns()
        scene.gate = asyncio.Event()
        scene.gate.set()
        await scene.pool.get(scene.book.find("b"))
        assert not slow.done()
        slow.cancel()

    with_scene(body)


def test_new_mounts_are_opened_before_anybody_reads_and_only_the_latest_table_counts() -> None:
    async def body(scene: Scene) -> None:
        async with Supervisor() as spawner:
            for number in range(50):  # before anybody opens: nothing piles up
                await scene.mounted(f"m{number}", f"n{number}")
            spawner.spawn("open", scene.pool.run())
            await turns()
            assert len(scene.made) == 2
            await scene.mounted("m49", "new")
            await turns()
            assert scene.is_open().count(True) == 2

    with_scene(body)


def test_one_that_cannot_be_opened_is_tried_again_by_who_reads_it() -> None:
    async def body(scene: Scene) -> None:
        async with Supervisor() as spawner:
            scene.is_broken = True
            await scene.mounted("a", "b")
            spawner.spawn("open", scene.pool.run())
            await turns()
            with pytest.raises(ConfigError):
                await scene.pool.get(scene.book.find("a"))
            scene.is_broken = False
            assert await scene.pool.get(scene.book.find("a")) is scene.made[0]

    with_scene(body)


def test_after_the_end_nothing_stays_open_or_is_opened() -> None:
    async def body(scene: Scene) -> None:
        await scene.mounted("a", "b")
        await scene.pool.get(scene.book.find("a"))
        scene.gate.clear()
        late = asyncio.ensure_future(scene.pool.get(scene.book.find("b")))
        await turns()
        await scene.pool.close()
        scene.gate.set()
        with pytest.raises(NotFound):
            await late
        with pytest.raises(NotFound):
            await scene.pool.get(scene.book.find("a"))
        assert scene.is_open() == [False, False]

    with_scene(body)
